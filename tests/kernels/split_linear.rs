//! split_linear: the same sums as a linear per part, for any part sizes.

use jamba_plan::format::{Layout, PartOrder};
use jambac_graph::Activation;
use jambac_kernels::cases::{self, Case};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::kernel::{Elem, LANES};
use jambac_kernels::linear as plain;
use jambac_kernels::split_linear::Spec;
use jambac_kernels::target::X86Level;
use jambac_reference::{Tolerance, linear};

use super::harness::{Arg, Kernels, V3, Weight, assert_close, assert_same_bits, random};

/// Weights of a spec and the input rows.
struct Operands {
    spec: Spec,
    x: Vec<f32>,
    weight: Weight,
}

impl Operands {
    fn new(spec: &Spec, n_rows: usize) -> Operands {
        let parts: Vec<Vec<f32>> = (2..).zip(&spec.sizes).map(|(seed, n)| random(seed, n * spec.k)).collect();
        let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
        Operands { spec: spec.clone(), x: random(1, n_rows * spec.k), weight: pack(&parts, spec) }
    }

    /// One result per part.
    fn run(&self, kernels: &Kernels, x: &[f32]) -> Vec<Vec<f32>> {
        let n_rows = x.len() / self.spec.k;
        let mut args = vec![Arg::rows(self.spec.k, x), Arg::weight(&self.weight)];
        args.extend(self.spec.sizes.iter().map(|&n| Arg::unwritten(n, n_rows)));
        args.push(Arg::Scalar(n_rows));
        kernels.run(&self.spec.clone().into(), &args).iter().map(|array| array.f32()).collect()
    }

    /// Each part with its weights.
    fn parts(&self) -> impl Iterator<Item = (usize, &[f32])> {
        let mut rest = self.weight.values.as_slice();
        self.spec.sizes.iter().map(move |&n| {
            let (part, others) = rest.split_at(n * self.spec.k);
            rest = others;
            (n, part)
        })
    }

    /// As in linear: k roundings of sums with random signs.
    fn tolerance(&self) -> Tolerance {
        Tolerance { abs: 2.0 * (self.spec.k as f64 + 1.0) * 2f64.powi(-24), rel: 4.0 * 2f64.powi(-24) }
    }
}

/// Concatenates the parts; the length of a part determines its rows.
fn pack(parts: &[&[f32]], spec: &Spec) -> Weight {
    let layout = Layout::in_panels(1, 0, spec.k as u64, LANES as u64);
    Weight::pack_parts(parts, PartOrder::Stacked, layout, spec.format)
}

/// The cases that are fast enough for the scalar reference.
fn small_cases() -> impl Iterator<Item = (Spec, Case)> {
    cases::split_linear().into_iter().filter(|case| case.operations() < 2e7).map(|case| {
        let AnySpec::SplitLinear(spec) = &case.kernel else { panic!("a case of another kernel: {case:?}") };
        (spec.clone(), case)
    })
}

fn check(level: X86Level, cases: &[(Spec, Case)]) {
    let Some(kernels) = Kernels::compile(level, cases.iter().map(|(_, case)| &case.kernel)) else { return };
    for (spec, case) in cases {
        let operands = Operands::new(spec, case.counts.tokens);
        let found = operands.run(&kernels, &operands.x);
        assert_eq!(found.len(), spec.sizes.len());
        for (p, ((n_out, weight), found)) in operands.parts().zip(&found).enumerate() {
            let shape = linear::Linear { n_in: spec.k, n_out, activation: Activation::None };
            let expected = linear::linear(&operands.x, weight, None, shape);
            let what = format!("part {p} of {} of {} rows", case.symbol(), case.counts.tokens);
            assert_close(&what, found, &expected, operands.tolerance());
        }
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
fn every_part_has_the_bits_of_its_own_linear() {
    let (base, case) = small_cases().next().expect("a base case");
    for sizes in [base.sizes.clone(), vec![5, 33], vec![17, 1, 33, 16]] {
        let spec = Spec { sizes, ..base.clone() };
        let alone = |&n: &usize| plain::Spec {
            n,
            k: spec.k,
            format: spec.format,
            bias: false,
            activation: Activation::None,
            out: Elem::F32,
        };
        let mut compiled: Vec<AnySpec> = spec.sizes.iter().map(|n| alone(n).into()).collect();
        compiled.push(spec.clone().into());
        let Some(kernels) = Kernels::compile(V3, &compiled) else { return };
        for n_rows in [1, 7, case.counts.tokens] {
            let operands = Operands::new(&spec, n_rows);
            let found = operands.run(&kernels, &operands.x);
            for (p, (n, weight)) in operands.parts().enumerate() {
                let packed = pack(&[weight], &spec);
                let args = [
                    Arg::rows(spec.k, &operands.x),
                    Arg::weight(&packed),
                    Arg::unwritten(n, n_rows),
                    Arg::Scalar(n_rows),
                ];
                let expected = kernels.run(&alone(&n).into(), &args)[0].f32();
                assert_same_bits(&format!("part {p} of {:?}, {n_rows} rows", spec.sizes), &found[p], &expected);
            }
        }
    }
}
