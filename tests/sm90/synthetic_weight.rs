//! Synthetic weights drawn by a kernel compared with those drawn by the host: equal bytes, including padding.

use half::bf16;
use jamba_plan::format::{Init, Layout, Part, PartOrder, Transform, Weight, WeightFormat};
use jamba_plan::synthetic::{DrawnRows, STORE_BYTES, fill};
use jambac_harness::{Arg, Kernel, Runner, SEEDS, counts};
use jambac_kernels::synthetic_weight::Spec;
use ptxsim::{Gpu, Options};

/// Seed of the weights.
const SEED: u64 = 0x1234_5678_9abc_def0;

/// Offset of the tested weight among the weights.
const OFFSET: u64 = 384;

const NORMAL: Init = Init::Normal { mean: 0.01, std: 0.05 };
const UNIFORM: Init = Init::Uniform { low: -1.5, high: 0.75 };

fn kernel(format: WeightFormat) -> Kernel {
    Spec { format: format.into() }.into()
}

fn kernels() -> Runner {
    Runner::hopper(&all())
}

/// A kernel for each format of drawn weights.
pub(super) fn all() -> [Kernel; 4] {
    [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Fp8].map(kernel)
}

/// The shape of a weight: parts with their first row in the parameter and number of rows.
#[derive(Clone, Copy, Debug)]
struct Shape {
    order: PartOrder,
    groups: u64,
    k: u64,
    parts: &'static [(u64, u64)],
}

const fn stacked(groups: u64, k: u64, parts: &'static [(u64, u64)]) -> Shape {
    Shape { order: PartOrder::Stacked, groups, k, parts }
}

/// Row-major matrices, as in plans for sm_90a.
const MATRICES: [Shape; 6] = [
    stacked(1, 40, &[(0, 3)]),
    stacked(1, 200, &[(7, 10)]),
    // Adjacent parts whose rows begin inside their parameters, also beyond 2³² elements.
    stacked(1, 137, &[(0, 65), (65, 3), (1 << 30, 64)]),
    stacked(3, 65, &[(0, 66)]),
    // Gate and up, with the last panel of 8 rows half full; then the same with experts.
    Shape { order: PartOrder::Interleaved, groups: 1, k: 72, parts: &[(0, 36), (1 << 40, 36)] },
    Shape { order: PartOrder::Interleaved, groups: 2, k: 64, parts: &[(0, 20), (0, 20)] },
];

/// The layout that the scheduler assigns to such a matrix.
fn in_rows(shape: &Shape, format: WeightFormat) -> Layout {
    let (lanes, multiple) = match shape.order {
        PartOrder::Interleaved => (8, 32),
        PartOrder::Stacked if shape.groups == 1 && shape.parts.len() == 1 => (1, 1),
        PartOrder::Stacked => (64, 64),
    };
    let n = Layout::rows_of(shape.parts.iter().map(|part| part.1), multiple).expect("few rows");
    let stride = shape.k.next_multiple_of(128 * 8 / format.bits());
    Layout::in_rows(shape.groups, n, shape.k, stride, (lanes, multiple))
}

fn weight(shape: &Shape, layout: Layout, format: WeightFormat, init: Init) -> Weight {
    let part = |(index, &(first_row, rows)): (usize, &(u64, u64))| Part {
        parameter: format!("layers.{index}.weight"),
        first_row,
        rows,
        init,
    };
    Weight {
        parts: shape.parts.iter().enumerate().map(part).collect(),
        order: shape.order,
        offset: OFFSET,
        bytes: layout.bytes(format).expect("a layout that fits memory"),
        layout,
        format,
        transform: Transform::None,
    }
}

/// Draws on a simulated device with few multiprocessors, and compares.
#[track_caller]
fn check(kernels: &Runner, seed: u64, weight: &Weight) {
    let kernel = kernel(weight.format);
    let mut gpu = Gpu::new(Options { seed, n_sms: 2, ..Options::default() });
    // Memory before and after the weight is guarded.
    let end = weight.bytes.next_multiple_of(STORE_BYTES);
    let weights = gpu.alloc("weights", end) - OFFSET;
    for rows in DrawnRows::of(weight, SEED).expect("rows that the kernel draws") {
        let [at, numbers @ ..] = rows.args(weights);
        let args: Vec<Arg> = numbers.iter().map(|&number| Arg::Scalar(number as usize)).collect();
        kernels.launch(&mut gpu, &kernel, counts(1, 1, 1), &[vec![Arg::At(at)], args].concat());
    }
    let mut found = vec![0; weight.bytes as usize];
    gpu.read(weights + OFFSET, &mut found).unwrap_or_else(|fault| panic!("{weight:?}: {fault}"));
    let mut expected = vec![0; found.len()];
    fill(weight, SEED, &mut expected);
    let wrong = found.iter().zip(&expected).position(|(found, expected)| found != expected);
    if let Some(at) = wrong {
        panic!("{weight:?}: byte {at} is {:#04x}, the host draws {:#04x}", found[at], expected[at]);
    }
}

#[test]
fn matrices_have_the_bits_of_the_host() {
    let kernels = kernels();
    for seed in SEEDS {
        for shape in &MATRICES {
            for init in [NORMAL, UNIFORM] {
                for format in [WeightFormat::Bf16, WeightFormat::F32, WeightFormat::Int8, WeightFormat::Fp8] {
                    check(&kernels, seed, &weight(shape, in_rows(shape, format), format, init));
                }
            }
        }
    }
}

#[test]
fn scales_have_the_bits_of_the_host() {
    let kernels = kernels();
    for (shape, init) in MATRICES.iter().flat_map(|shape| [NORMAL, UNIFORM].map(|init| (shape, init))) {
        let (layout, format) = in_rows(shape, WeightFormat::Int8).scales(WeightFormat::Int8).expect("scales");
        let scales = weight(shape, layout, format, init);
        check(&kernels, 1, &Weight { transform: Transform::Scale(WeightFormat::Int8), ..scales });
    }
}

/// Vectors, taps and decay rates: dense rows, which may end inside a 16-byte store.
#[test]
fn dense_rows_have_the_bits_of_the_host() {
    let kernels = kernels();
    for seed in SEEDS {
        for (n, k) in [(1, 1), (7, 1), (4099, 1), (33, 3), (24, 4), (70, 16)] {
            for init in [NORMAL, UNIFORM] {
                for format in [WeightFormat::F32, WeightFormat::Bf16] {
                    let shape = Shape { order: PartOrder::Stacked, groups: 1, k, parts: &[] };
                    let layout = Layout::in_panels(1, n, k, 1);
                    let parts = vec![Part { parameter: "norm.weight".to_owned(), first_row: 5, rows: n, init }];
                    check(&kernels, seed, &Weight { parts, ..weight(&shape, layout, format, init) });
                }
            }
        }
    }
}

/// Products and sums that are subnormal or rounded in the last bit, and integers with a scale of 0.
#[test]
fn extreme_distributions_have_the_bits_of_the_host() {
    let kernels = kernels();
    let normal = |mean: f32, std: f32| Init::Normal { mean, std };
    let shape = stacked(1, 256, &[(0, 8)]);
    for init in [
        normal(0.0, 1e-38),
        normal(1e-39, 3e-39),
        normal(0.0, 1e-39),
        normal(1e-43, 0.0),
        normal(1e30, 1e22),
        normal(0.0, 1e30),
        normal(2.5, 0.0),
        Init::Uniform { low: -3e-38, high: 3e-38 },
        Init::Uniform { low: 1e-40, high: 2e-40 },
        Init::Uniform { low: 7.0, high: 7.0 },
    ] {
        for format in [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Fp8] {
            let weight = weight(&shape, in_rows(&shape, format), format, init);
            check(&kernels, 1, &weight);
        }
    }
    // The host rounds with the crate half, including the subnormals above.
    assert_eq!(bf16::from_f32(1e-40).to_bits(), 1);
}
