//! Matrix products in every config: the bits of a row depend neither on its batch nor on its tile.

use jamba_plan::format::{EntryKind, TargetKind};
use jambac_graph::Activation;
use jambac_harness::{Call, Runner, assert_close, assert_same_bits, random, rounded};
use jambac_kernels::cases::{Case, Counts};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::hopper::matmul::TileRows;
use jambac_kernels::kernel::{Config, Elem, Kernel as _, Rows, StepSize};
use jambac_kernels::{grouped_linear, grouped_swiglu, linear, linear_swiglu};
use ptxsim::Options;

use crate::kernels::products::{Product, three_multiprocessors};

const HOPPER: TargetKind = TargetKind::Sm90a;

/// The base of all problems.
pub fn base() -> linear::Spec {
    linear::Spec { n: 96, k: 72, format: Elem::Bf16, out: Elem::F32, bias: false, activation: Activation::None }
}

/// A kernel and the tokens of one call.
pub fn case(kernel: impl Into<AnySpec>, tokens: usize) -> Case {
    let counts = Counts { tokens, sequences: 1, outputs: tokens, context: tokens };
    Case { kernel: kernel.into(), counts, rows: Rows::TOKENS }
}

/// Every config of a kernel.
pub(super) fn configs(kernel: &AnySpec) -> Vec<Config> {
    let step = StepSize { entry: EntryKind::Prefill, sequences: 1, rows: 64 };
    kernel.configs(HOPPER, &step).into_iter().map(|candidate| candidate.config).collect()
}

fn check(cases: &[(Case, Config)]) {
    let lowered: Vec<(&Case, Config)> = cases.iter().map(|(case, config)| (case, *config)).collect();
    let runner = Runner::hopper(&lowered);
    for kernel @ (case, config) in &lowered {
        let product = Product::new(&case.kernel, case.counts.tokens, HOPPER);
        let expected = product.expected();
        for conditions in three_multiprocessors() {
            let found = runner.call(conditions.clone(), kernel, &product.call());
            let what = format!("{:?} as {config} of {} tokens, {conditions:?}", case.kernel, case.counts.tokens);
            assert_close(&what, &found.rows(0), &expected[0], product.tolerance(HOPPER));
        }
    }
}

#[test]
fn any_number_of_rows_agrees_with_the_reference() {
    let mut cases = Vec::new();
    for config in configs(&base().into()) {
        let tokens: &[usize] = if config == Config::Few { &[0, 1, 8, 19] } else { &[0, 1, 64, 65, 200] };
        cases.extend(tokens.iter().map(|&tokens| (case(base(), tokens), config)));
    }
    assert_eq!(cases.len(), 4 + 3 * 5, "the streaming product, and three sizes of tiles");
    check(&cases);
}

/// Wide tiles: all epilogues of both types, experts too.
#[test]
fn wide_tiles_agree_with_the_reference() {
    let wide = [TileRows::Rows128, TileRows::Rows256].map(Config::Tiled);
    let mut cases = Vec::new();
    for format in [Elem::Bf16, Elem::I8, Elem::F8] {
        let base = linear::Spec { format, ..base() };
        let in_bf16 = linear::Spec { out: Elem::Bf16, ..base.clone() };
        let swiglu = linear_swiglu::Spec { n: 96, k: 72, format };
        for config in wide {
            let all = [case(base.clone(), 300), case(in_bf16.clone(), 300), case(swiglu.clone(), 300)];
            cases.extend(all.map(|case| (case, config)));
        }
        let (n_experts, top_k) = (6, 2);
        let out = Elem::F32;
        let odd = grouped_linear::Spec { n_experts, n: 40, k: 101, format, out, slots_per_row: 1, top_k };
        let in_bf16 = grouped_linear::Spec { n: 130, k: 72, out: Elem::Bf16, ..odd.clone() };
        let swiglu = grouped_swiglu::Spec { n_experts, n: 40, k: 136, format, slots_per_row: top_k, top_k };
        cases.extend([case(odd, 75), case(in_bf16, 75), case(swiglu, 75)].map(|case| (case, wide[0])));
    }
    check(&cases);
}

/// The bits of a row are the same alone and in a batch, at any position of a tile, in tiles of any size, with any number of
/// multiprocessors, in any order of blocks and warps.
#[test]
fn bits_depend_on_the_row_alone() {
    let (n, k, row) = (96, 200, 77);
    for format in [Elem::Bf16, Elem::I8, Elem::F8] {
        let linear = AnySpec::from(linear::Spec { k, format, ..base() });
        for (kernel, n_parameters) in [(linear, 1), (linear_swiglu::Spec { n, k, format }.into(), 2)] {
            let case = case(kernel, 150);
            let lowered: Vec<(&Case, Config)> =
                configs(&case.kernel).into_iter().map(|config| (&case, config)).collect();
            let runner = Runner::hopper(&lowered);
            let x = rounded(&random(7, 150 * k));
            let product = Product::new(&case.kernel, 1, HOPPER);
            assert_eq!(product.parameters().len(), n_parameters);
            let mut tiled: Option<Vec<f32>> = None;
            for kernel in &lowered {
                let run = |seed, n_sms, rows: std::ops::Range<usize>| {
                    let options = Options { seed, n_sms, exact_math: true, ..Options::default() };
                    let call = Call::tokens(rows.len()).rows(k, &x[rows.start * k..rows.end * k]);
                    let call = call.parameters(product.parameters().iter().map(Vec::as_slice)).gives(n);
                    runner.call(options, kernel, &call).rows(0)
                };
                let alone = run(1, 1, row..row + 1);
                let what = format!("{:?} as {}", case.kernel, kernel.1);
                assert_same_bits(&what, &run(2, 4, 0..150)[row * n..][..n], &alone);
                assert_same_bits(&what, &run(3, 2, 50..150)[(row - 50) * n..][..n], &alone);
                // The method for few rows sums in another order.
                if kernel.1 != Config::Few {
                    assert_same_bits(&what, &alone, tiled.get_or_insert_with(|| alone.clone()));
                }
            }
        }
    }
}
