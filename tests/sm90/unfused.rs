//! Operations that fusions merge into other kernels: each kernel compared with the scalar reference, and whole plans without
//! fusions.

use std::path::PathBuf;

use gpu_bench::checks::{self, Check, Subject, Tolerance as Logits};
use jamba_runtime::{Engine, OpenOptions};
use jambac::compile::{Progress, Request, build};
use jambac::manifest::{ModelFile, targets};
use jambac_kernels::elementwise::{Function, Spec as Elementwise};
use jambac_kernels::kernel::Elem;
use jambac_kernels::moe_permute::Spec as Permute;
use jambac_kernels::slice::Spec as Slice;
use jambac_kernels::softmax::Spec as Softmax;
use jambac_kernels::top_k::Spec as TopK;
use jambac_models::tiny::Tiny;
use jambac_reference::{Tolerance, activation, elementwise, moe, softmax};
use ptxsim::driver::{Device, Downloads, Simulated};

use super::harness::{Arg, Kernel, Kernels, SEEDS, counts, rounded};
use super::plan::{TOLERANCE, tiny};
use super::row_wise::{BF16, F32};
use crate::fixtures::Fixture;
use crate::kernels::harness::{assert_close, assert_same_bits, random, random_indices};

const TYPES: [Elem; 2] = [Elem::F32, Elem::Bf16];

/// Rows of an element type, and their values after rounding.
fn rows(elem: Elem, cols: usize, values: &[f32]) -> (Arg, Vec<f32>) {
    let stored = if elem == Elem::Bf16 { rounded(values) } else { values.to_vec() };
    (Arg::Rows { elem, cols, values: stored.clone() }, stored)
}

#[test]
fn slices_agree_with_the_reference() {
    // With and without partial vectors, up to the last column or not, inside a 16-column row without padding.
    let shapes = [(40, 8, 16), (41, 24, 17), (17, 7, 5), (512, 256, 256), (32, 0, 32), (32, 29, 3), (9, 8, 1)];
    for (cols, start, len) in shapes {
        let specs: Vec<Slice> =
            TYPES.into_iter().flat_map(|x| TYPES.map(|out| Slice { cols, start, len, x, out })).collect();
        let kernels: Vec<Kernel> = specs.iter().map(|spec| spec.clone().into()).collect();
        let compiled = Kernels::compile(&kernels);
        for (spec, seed) in specs.iter().flat_map(|spec| SEEDS.map(|seed| (spec, seed))) {
            let (x, values) = rows(spec.x, cols, &random(1, 3 * cols));
            let args = [x, Arg::Unwritten { elem: spec.out, cols: len, n: 3 }, Arg::Count(3)];
            let found = compiled.run(seed, &spec.clone().into(), counts(5, 1, 1), &args);
            let expected = elementwise::slice(&values, cols, start, len);
            let expected = if spec.out == Elem::Bf16 { rounded(&expected) } else { expected };
            assert_same_bits(&format!("{spec:?}, seed {seed}"), found[0].f32(), &expected);
        }
    }
}

#[test]
fn functions_agree_with_the_reference() {
    const N: usize = 4;
    let functions =
        [Function::Silu, Function::Softplus, Function::Add, Function::Mul, Function::MulRow, Function::Swiglu];
    for cols in [1, 30, 200, 4096] {
        let spec = |function: Function, a: Elem, b: Option<Elem>, out: Elem| {
            let b = match function {
                Function::Silu | Function::Softplus => None,
                Function::MulRow => Some(Elem::F32),
                _ => b,
            };
            Elementwise { function, cols, a, b, out }
        };
        let types = [
            (Elem::F32, Elem::F32, Elem::F32),
            (Elem::Bf16, Elem::Bf16, Elem::Bf16),
            (Elem::Bf16, Elem::F32, Elem::F32),
            (Elem::F32, Elem::Bf16, Elem::Bf16),
        ];
        let specs: Vec<Elementwise> =
            functions.into_iter().flat_map(|f| types.map(|(a, b, out)| spec(f, a, Some(b), out))).collect();
        let kernels: Vec<Kernel> = specs.iter().map(|spec| spec.clone().into()).collect();
        let compiled = Kernels::compile(&kernels);
        for (spec, seed) in specs.iter().flat_map(|spec| SEEDS.map(|seed| (spec, seed))) {
            let large = |seed: u64| random(seed, N * cols).iter().map(|x| 12.0 * x).collect::<Vec<f32>>();
            let (a, x) = rows(spec.a, cols, &large(1));
            let mut args = vec![a];
            let row = random(3, cols);
            let y = match (spec.function, spec.b) {
                (Function::MulRow, _) => {
                    args.push(Arg::F32(row.clone()));
                    row.repeat(N)
                }
                (_, Some(elem)) => {
                    let (b, y) = rows(elem, cols, &large(2));
                    args.push(b);
                    y
                }
                (_, None) => Vec::new(),
            };
            args.extend([Arg::Unwritten { elem: spec.out, cols, n: N }, Arg::Count(N)]);
            // Two rows for each of two tokens; the launch's count also covers three tokens that the step does not have.
            let found = compiled.run(seed, &spec.clone().into(), counts(5, 1, 1), &args);
            let expected = match spec.function {
                Function::Silu => x.iter().map(|&x| activation::silu(x)).collect(),
                Function::Softplus => x.iter().map(|&x| activation::softplus(x)).collect(),
                Function::Add => elementwise::add(&x, &y),
                Function::Mul | Function::MulRow => elementwise::mul(&x, &y),
                Function::Swiglu => activation::swiglu(&x, &y),
            };
            let rounding = if spec.out == Elem::Bf16 { BF16 } else { 0.0 };
            let what = format!("{spec:?}, seed {seed}");
            assert_close(&what, found[0].f32(), &expected, Tolerance { abs: 1e-6, rel: rounding + 4.0 * F32 });
        }
    }
}

#[test]
fn softmax_agrees_with_the_reference() {
    for cols in [1, 3, 16, 64, 300, 5000] {
        let spec = Softmax { cols };
        let compiled = Kernels::compile([&spec.clone().into()]);
        let x: Vec<f32> = random(1, 3 * cols).iter().map(|x| 9.0 * x).collect();
        for seed in SEEDS {
            let args = [Arg::f32_rows(cols, &x), Arg::Unwritten { elem: Elem::F32, cols, n: 3 }, Arg::Count(3)];
            let found = compiled.run(seed, &spec.clone().into(), counts(4, 1, 1), &args);
            let expected = softmax::softmax(&x, cols);
            assert_close(&format!("{spec:?}"), found[0].f32(), &expected, Tolerance { abs: 1e-30, rel: 1e-5 });
        }
    }
}

/// The largest experts, and the slots sorted by expert: together the result of `moe_route`.
#[test]
fn experts_are_chosen_and_sorted() {
    for (n_experts, top_k) in [(16, 2), (4, 2), (1, 1), (7, 3), (64, 6)] {
        let choose = TopK { cols: n_experts, k: top_k };
        let permute = Permute { n_experts, top_k };
        let kernels: [Kernel; 2] = [choose.into(), permute.into()];
        let compiled = Kernels::compile(&kernels);
        for (rows, seed) in [(1, 1), (33, 2), (1100, 3)] {
            // Few distinct values, which gives many ties.
            let p: Vec<f32> = random_indices(2, rows * n_experts, 5).iter().map(|&x| x as f32 / 4.0).collect();
            let what = format!("{top_k} of {n_experts}, {rows} rows");
            let args = [
                Arg::f32_rows(n_experts, &p),
                Arg::Unwritten { elem: Elem::F32, cols: top_k, n: rows },
                Arg::UnwrittenDense(rows * top_k),
                Arg::Count(rows),
            ];
            let found = compiled.run(seed, &kernels[0], counts(rows + 2, 1, 1), &args);
            let (weights, experts) = moe::top_k(&p, n_experts, top_k);
            assert_same_bits(&what, found[0].f32(), &weights);
            assert_eq!(found[1].i32(), experts, "{what}");

            let args = [
                Arg::I32(experts.clone()),
                Arg::UnwrittenDense(2 * rows * top_k),
                Arg::UnwrittenDense(n_experts + 1),
                Arg::Count(rows),
            ];
            let found = compiled.run(seed, &kernels[1], counts(rows, 1, 1), &args);
            let (slots, offsets) = moe::moe_permute(&experts, n_experts).expect("experts that there are");
            let (pairs, sorted) = (found[0].i32(), found[0].i32().iter().step_by(2).copied().collect::<Vec<_>>());
            assert_eq!((sorted, found[1].i32()), (slots.clone(), &offsets[..]), "{what}");
            for (place, &slot) in slots.iter().enumerate() {
                assert_eq!(pairs[2 * slot as usize + 1], place as i32, "{what}: slot {slot}");
            }
        }
    }
}

pub(super) fn open(plan: &std::path::Path, options: OpenOptions<'_>) -> Engine {
    let device = Simulated::new(&Device { seed: 4, n_sms: 3, downloads: Downloads::Anything, ..Device::default() });
    Engine::open(plan, OpenOptions { driver: Some(Box::new(device)), ..options }).unwrap()
}

/// A plan without fusions computes the same results and keeps the same guarantees.
#[test]
fn a_plan_without_fusions() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (unfused, fused) = (tiny(folder.path(), "none"), tiny(other.path(), "all"));
    let text = Fixture::open("tiny").prompt(300).ids;
    let on_gpu = |options: OpenOptions<'_>| Ok(open(&unfused, options));
    let subject = Subject { plan: &unfused, on_gpu: &on_gpu, text: &text[..110], tolerance: TOLERANCE };
    let all: [Check; 4] = [checks::chunks, checks::ragged_batch, checks::many_sequences, checks::graphs];
    for check in all {
        println!("{:?}", check(&subject).unwrap_or_else(|error| panic!("{error:#}")));
    }
    let logits = |plan: &std::path::Path| {
        let mut engine = open(plan, OpenOptions::default());
        let steps = engine.program().entries[0].steps.len();
        (checks::logits(&mut engine, &text[..60], 60).unwrap(), steps)
    };
    let ((found, steps), (expected, fewer)) = (logits(&unfused), logits(&fused));
    let difference = TOLERANCE.compare("unfused", &found, &expected).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{difference:?}, {steps} steps against {fewer}");
    assert!(steps > 2 * fewer, "{steps} steps without fusions, {fewer} with them");
}

/// Projections with biases are not split, so slices remain even with all fusions.
#[test]
fn a_model_with_biases() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), Tiny::with_biases().config_json()).unwrap();
    let mut model = ModelFile::open(folder.path()).unwrap();
    model.build.targets = targets(&["x86-64-v3", "sm_90a"]).unwrap();
    (model.limits.max_context, model.limits.max_sequences, model.limits.prefill_chunk) = (64, 2, 32);
    model.limits.max_outputs = 32;
    let output: PathBuf = folder.path().join("biases.plan");
    let request = Request { synthetic_seed: Some(5), ..Request::new(model, output.clone()) };
    build(&request, &Progress::hidden()).unwrap();
    let mut cpu = Engine::open(&output, OpenOptions::default()).unwrap();
    let mut gpu = open(&output, OpenOptions::default());
    assert!(gpu.program().kernels.iter().any(|kernel| kernel.op == "slice"), "the model has slices left");
    let ids: Vec<u32> = (0..40).map(|i| (i * 37 + 5) % cpu.manifest().model.vocab as u32).collect();
    let [found, expected] = [&mut gpu, &mut cpu].map(|engine| checks::logits(engine, &ids, 32).unwrap());
    let flat: Vec<f32> = expected.concat();
    let std = jambac_reference::compare::standard_deviation(&flat) as f32;
    let tolerance = Logits { of_a_row: 0.1 * std, rows_beyond: 0.1 };
    let difference = tolerance.compare("biases", &found, &expected).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{difference:?}, standard deviation {std}");
}
