//! linear_swiglu: bit-identical to two linears and a swiglu, for all remainders of rows, panels and inputs.

use jamba_plan::format::{Layout, PartOrder};
use jambac_graph::Activation;
use jambac_kernels::cases::{self, Case};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::elementwise::{self, Function};
use jambac_kernels::kernel::{Elem, LANES};
use jambac_kernels::linear as plain;
use jambac_kernels::linear_swiglu::Spec;
use jambac_kernels::target::X86Level;
use jambac_reference::{Tolerance, activation, linear};

use super::harness::{Arg, Kernels, V3, Weight, assert_close, assert_same_bits, random};

/// Weights of a spec and the input rows.
struct Operands {
    spec: Spec,
    x: Vec<f32>,
    weight: Weight,
}

impl Operands {
    fn new(spec: &Spec, n_rows: usize) -> Operands {
        let &Spec { n, k, .. } = spec;
        let [gate, up] = [2, 3].map(|seed| random(seed, n * k));
        Operands { spec: spec.clone(), x: random(1, n_rows * k), weight: pack(&[&gate, &up], spec) }
    }

    fn run(&self, kernels: &Kernels, x: &[f32]) -> Vec<f32> {
        let Spec { n, k, .. } = self.spec;
        let n_rows = x.len() / k;
        let args = [Arg::rows(k, x), Arg::weight(&self.weight), Arg::unwritten(n, n_rows), Arg::Scalar(n_rows)];
        kernels.run(&self.spec.clone().into(), &args)[0].f32()
    }

    /// The weights of gate and up.
    fn weights(&self) -> [&[f32]; 2] {
        let (gate, up) = self.weight.values.split_at(self.spec.n * self.spec.k);
        [gate, up]
    }
}

/// Interleaves the panels of the parts; the length of a part determines its rows.
fn pack(parts: &[&[f32]], spec: &Spec) -> Weight {
    let layout = Layout::in_panels(1, 0, spec.k as u64, LANES as u64);
    Weight::pack_parts(parts, PartOrder::Interleaved, layout, spec.format)
}

/// The cases that are fast enough for the scalar reference.
fn small_cases() -> impl Iterator<Item = (Spec, Case)> {
    cases::linear_swiglu().into_iter().filter(|case| case.operations() < 2e7).map(|case| {
        let AnySpec::LinearSwiglu(spec) = &case.kernel else { panic!("a case of another kernel: {case:?}") };
        (spec.clone(), case)
    })
}

fn check(level: X86Level, cases: &[(Spec, Case)]) {
    let Some(kernels) = Kernels::compile(level, cases.iter().map(|(_, case)| &case.kernel)) else { return };
    for (spec, case) in cases {
        let operands = Operands::new(spec, case.counts.tokens);
        let found = operands.run(&kernels, &operands.x);
        let shape = linear::Linear { n_in: spec.k, n_out: spec.n, activation: Activation::None };
        let [gate, up] = operands.weights().map(|weight| linear::linear(&operands.x, weight, None, shape));
        // Each sum has a linear's error; silu amplifies it by at most 1.1, the product by the other factor.
        let largest = |sums: &[f32]| sums.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
        let sum = 2.0 * (spec.k as f64 + 1.0) * 2f64.powi(-24);
        let tolerance = Tolerance { abs: sum * (1.1 * largest(&up) + largest(&gate) + 1.0), rel: 8.0 * 2f64.powi(-24) };
        let what = format!("{} of {} rows", case.symbol(), case.counts.tokens);
        assert_close(&what, &found, &activation::swiglu(&gate, &up), tolerance);
    }
}

#[test]
fn agrees_with_the_reference() {
    check(V3, &small_cases().collect::<Vec<_>>());
}

#[test]
fn agrees_without_fma() {
    let cases = small_cases().filter(|(spec, _)| spec.format != Elem::F16);
    check(X86Level::V2, &cases.collect::<Vec<_>>());
}

#[test]
fn agrees_with_avx512() {
    check(X86Level::V4, &small_cases().collect::<Vec<_>>());
}

#[test]
fn has_the_bits_of_its_three_steps() {
    let (base, _) = small_cases().next().expect("a base case");
    for n in [base.n, 5] {
        let spec = Spec { n, ..base.clone() };
        let Spec { n, k, format } = spec;
        let product =
            AnySpec::from(plain::Spec { n, k, format, bias: false, activation: Activation::None, out: Elem::F32 });
        let swiglu = AnySpec::from(elementwise::Spec::in_f32(Function::Swiglu, n));
        let Some(kernels) = Kernels::compile(V3, &[product.clone(), swiglu.clone(), spec.clone().into()]) else {
            return;
        };
        for n_rows in [1, 2, 7, 64] {
            let operands = Operands::new(&spec, n_rows);
            let [gate, up] = operands.weights().map(|weight| {
                let packed = pack(&[weight], &spec);
                let args =
                    [Arg::rows(k, &operands.x), Arg::weight(&packed), Arg::unwritten(n, n_rows), Arg::Scalar(n_rows)];
                kernels.run(&product, &args)[0].f32()
            });
            let args = [Arg::rows(n, &gate), Arg::rows(n, &up), Arg::unwritten(n, n_rows), Arg::Scalar(n_rows)];
            let expected = kernels.run(&swiglu, &args)[0].f32();
            let found = operands.run(&kernels, &operands.x);
            assert_same_bits(&format!("{n} outputs of {n_rows} rows"), &found, &expected);
        }
    }
}
