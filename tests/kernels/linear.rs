//! linear: all remainders of rows, panels and inputs; equal sums for one row and for many.

use jamba_plan::format::Layout;
use jambac_graph::Activation;
use jambac_kernels::cases::{self, Case};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::kernel::{Elem, LANES};
use jambac_kernels::linear::Spec;
use jambac_kernels::target::X86Level;
use jambac_reference::{Tolerance, linear};

use super::harness::{Arg, Kernels, V3, Weight, assert_close, assert_same_bits, random};

/// Weights and bias of a spec, and the input rows.
struct Operands {
    spec: Spec,
    x: Vec<f32>,
    weight: Weight,
    bias: Vec<f32>,
}

impl Operands {
    fn new(spec: &Spec, n_rows: usize) -> Operands {
        let (n, k) = (spec.n, spec.k);
        let layout = Layout::in_panels(1, n as u64, k as u64, LANES as u64);
        Operands {
            spec: spec.clone(),
            x: random(1, n_rows * k),
            weight: Weight::pack(&random(2, n * k), layout, spec.format),
            bias: if spec.bias { random(3, n) } else { Vec::new() },
        }
    }

    fn run(&self, kernels: &Kernels, x: &[f32]) -> Vec<f32> {
        let Spec { n, k, .. } = self.spec;
        let mut args = vec![Arg::rows(k, x), Arg::weight(&self.weight)];
        args.extend(self.spec.bias.then(|| Arg::vector(&self.bias)));
        args.extend([Arg::unwritten(n, x.len() / k), Arg::Scalar(x.len() / k)]);
        kernels.run(&self.spec.clone().into(), &args)[0].f32()
    }

    fn expected(&self) -> Vec<f32> {
        let Spec { n, k, activation, .. } = self.spec;
        let bias = self.spec.bias.then_some(self.bias.as_slice());
        linear::linear(&self.x, &self.weight.values, bias, linear::Linear { n_in: k, n_out: n, activation })
    }

    /// k roundings, each 2⁻²⁴ of a partial sum of about √k terms |x · w| ≤ 1. They have random signs, so √k of them remain. The
    /// activations add a few roundings of their result and amplify an error by at most 1.1.
    fn tolerance(&self) -> Tolerance {
        Tolerance { abs: 2.0 * (self.spec.k as f64 + 1.0) * 2f64.powi(-24), rel: 4.0 * 2f64.powi(-24) }
    }
}

/// The cases that are fast enough for the scalar reference.
fn small_cases() -> impl Iterator<Item = (Spec, Case)> {
    cases::linear().into_iter().filter(|case| case.operations() < 2e7).map(|case| {
        let AnySpec::Linear(spec) = &case.kernel else { panic!("a case of another kernel: {case:?}") };
        (spec.clone(), case)
    })
}

fn check(level: X86Level, cases: &[(Spec, Case)]) {
    let Some(kernels) = Kernels::compile(level, cases.iter().map(|(_, case)| &case.kernel)) else { return };
    for (spec, case) in cases {
        let operands = Operands::new(spec, case.counts.tokens);
        let found = operands.run(&kernels, &operands.x);
        let what = format!("{} of {} rows", case.symbol(), case.counts.tokens);
        assert_close(&what, &found, &operands.expected(), operands.tolerance());
    }
}

#[test]
fn agrees_with_the_reference() {
    check(V3, &small_cases().collect::<Vec<_>>());
}

#[test]
fn agrees_without_fma() {
    // The tiles differ between levels; half precision needs F16C.
    let cases = small_cases().filter(|(spec, _)| spec.format != Elem::F16);
    check(X86Level::V2, &cases.collect::<Vec<_>>());
}

#[test]
fn agrees_with_avx512() {
    check(X86Level::V4, &small_cases().collect::<Vec<_>>());
}

#[test]
fn a_row_alone_has_the_bits_it_has_in_any_batch() {
    // Tiles of every height, and two row blocks if there are many inputs.
    let (base, _) = small_cases().next().expect("a base case");
    let specs = [base.clone(), Spec { k: 8195, bias: true, activation: Activation::Softplus, ..base }];
    let Some(kernels) = Kernels::compile(V3, &specs.clone().map(AnySpec::from)) else { return };
    for spec in specs {
        let operands = Operands::new(&spec, 64);
        let together = operands.run(&kernels, &operands.x);
        for n_rows in [1, 2, 3, 5, 6, 7, 13, 49] {
            let some = operands.run(&kernels, &operands.x[..n_rows * spec.k]);
            assert_same_bits(&format!("{n_rows} of 64 rows"), &some, &together[..n_rows * spec.n]);
        }
        let last = operands.run(&kernels, &operands.x[63 * spec.k..]);
        assert_same_bits("the last of 64 rows", &last, &together[63 * spec.n..]);
    }
}
