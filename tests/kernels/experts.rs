//! grouped_swiglu and grouped_combine: the sums of grouped_linear for any number of tokens, experts and remainders.

use jamba_plan::format::{Layout, PartOrder};
use jambac_kernels::cases::{self, Case};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::elementwise::{self, Function};
use jambac_kernels::kernel::{Elem, LANES};
use jambac_kernels::target::X86Level;
use jambac_kernels::{grouped_combine, grouped_linear, grouped_swiglu};
use jambac_reference::{Tolerance, activation, moe};

use super::harness::{Arg, Kernels, V3, Weight, assert_close, assert_same_bits, random, random_indices};

/// Slots sorted by expert, with the offset of each expert.
struct Experts {
    slots: Vec<i32>,
    offsets: Vec<i32>,
    n_tokens: usize,
    top_k: usize,
}

impl Experts {
    /// Distinct experts per token, as a router returns them.
    fn new(n_experts: usize, top_k: usize, n_tokens: usize) -> Experts {
        let first = random_indices(3, n_tokens, n_experts);
        let choice = |(first, j): (i32, usize)| (first + j as i32) % n_experts as i32;
        let experts: Vec<i32> =
            first.iter().flat_map(|&first| (0..top_k).map(move |j| (first, j))).map(choice).collect();
        let (slots, offsets) = moe::moe_permute(&experts, n_experts).expect("indices of experts");
        Experts { slots, offsets, n_tokens, top_k }
    }

    /// Dot products of rows with the rows of some matrices.
    fn products(&self, x: &[f32], weight: &[f32], n: usize, k: usize) -> Vec<f32> {
        let (slots, offsets) = (&self.slots, &self.offsets);
        moe::grouped_linear(&moe::GroupedLinear { x, weight, slots, offsets, n_in: k, n_out: n })
    }
}

fn layout(n_experts: usize, n: usize, k: usize) -> Layout {
    Layout::in_panels(n_experts as u64, n as u64, k as u64, LANES as u64)
}

/// The cases that are fast enough for the scalar reference.
fn small(cases: Vec<Case>) -> Vec<Case> {
    cases.into_iter().filter(|case| case.operations() < 5e7).collect()
}

/// Gate, up and input rows of a grouped_swiglu.
struct Swiglu {
    spec: grouped_swiglu::Spec,
    experts: Experts,
    x: Vec<f32>,
    weight: Weight,
}

impl Swiglu {
    fn new(spec: &grouped_swiglu::Spec, n_tokens: usize) -> Swiglu {
        let grouped_swiglu::Spec { n_experts, n, k, format, slots_per_row, top_k, .. } = *spec;
        let [gate, up] = [4, 5].map(|seed| random(seed, n_experts * n * k));
        Swiglu {
            spec: spec.clone(),
            experts: Experts::new(n_experts, top_k, n_tokens),
            x: random(1, n_tokens * top_k / slots_per_row * k),
            weight: Weight::pack_parts(&[&gate, &up], PartOrder::Interleaved, layout(n_experts, 0, k), format),
        }
    }

    fn run(&self, kernels: &Kernels) -> Vec<f32> {
        let args = [
            Arg::rows(self.spec.k, &self.x),
            Arg::weight(&self.weight),
            Arg::i32(&self.experts.slots),
            Arg::i32(&self.experts.offsets),
            Arg::unwritten(self.spec.n, self.experts.slots.len()),
        ];
        kernels.run(&self.spec.clone().into(), &args)[0].f32()
    }

    /// The weights of gate and up.
    fn weights(&self) -> [&[f32]; 2] {
        let (gate, up) = self.weight.values.split_at(self.weight.values.len() / 2);
        [gate, up]
    }
}

fn check_swiglu(level: X86Level, cases: &[Case]) {
    let Some(kernels) = Kernels::compile(level, cases.iter().map(|case| &case.kernel)) else { return };
    for case in cases {
        let AnySpec::GroupedSwiglu(spec) = &case.kernel else { panic!("a case of another kernel: {case:?}") };
        let operands = Swiglu::new(spec, case.counts.tokens);
        let [gate, up] =
            operands.weights().map(|weight| operands.experts.products(&operands.x, weight, spec.n, spec.k));
        let what = format!("{} of {} tokens", case.symbol(), case.counts.tokens);
        // Sums of about √k with √k roundings each, multiplied with each other.
        let tolerance = Tolerance { abs: 4.0 * (spec.k as f64).powf(1.5) * 2f64.powi(-24), rel: 1e-6 };
        assert_close(&what, &operands.run(&kernels), &activation::swiglu(&gate, &up), tolerance);
    }
}

#[test]
fn swiglu_agrees_with_the_reference() {
    check_swiglu(V3, &small(cases::grouped_swiglu()));
}

#[test]
fn swiglu_of_targets_without_fma_agrees() {
    let cases = small(cases::grouped_swiglu());
    check_swiglu(X86Level::V2, &[cases[0].clone(), cases[2].clone()]);
}

#[test]
fn swiglu_gives_the_bits_of_three_kernels() {
    let spec = grouped_swiglu::Spec { n_experts: 4, n: 40, k: 72, format: Elem::Bf16, slots_per_row: 2, top_k: 2 };
    let grouped_swiglu::Spec { n_experts, n, k, format, slots_per_row, top_k } = spec;
    let product = AnySpec::from(grouped_linear::Spec { n_experts, n, k, format, out: Elem::F32, slots_per_row, top_k });
    let swiglu = AnySpec::from(elementwise::Spec::in_f32(Function::Swiglu, n));
    let Some(kernels) = Kernels::compile(V3, [&product, &swiglu, &spec.clone().into()]) else { return };
    for n_tokens in [1, 3, 13] {
        let operands = Swiglu::new(&spec, n_tokens);
        let n_slots = n_tokens * top_k;
        let [gate, up] = operands.weights().map(|weight| {
            let args = [
                Arg::rows(k, &operands.x),
                Arg::weight(&Weight::pack(weight, layout(n_experts, n, k), format)),
                Arg::i32(&operands.experts.slots),
                Arg::i32(&operands.experts.offsets),
                Arg::unwritten(n, n_slots),
            ];
            kernels.run(&product, &args)[0].f32()
        });
        let args = [Arg::rows(n, &gate), Arg::rows(n, &up), Arg::unwritten(n, n_slots), Arg::Scalar(n_slots)];
        let expected = kernels.run(&swiglu, &args)[0].f32();
        assert_same_bits(&format!("{n_tokens} tokens"), &operands.run(&kernels), &expected);
    }
}

/// Weights and input rows of a grouped_combine.
struct Combine {
    spec: grouped_combine::Spec,
    experts: Experts,
    x: Vec<f32>,
    weight: Weight,
    weights: Vec<f32>,
}

impl Combine {
    fn new(spec: &grouped_combine::Spec, n_tokens: usize) -> Combine {
        let grouped_combine::Spec { n_experts, n, k, format, top_k, .. } = *spec;
        Combine {
            spec: spec.clone(),
            experts: Experts::new(n_experts, top_k, n_tokens),
            x: random(1, n_tokens * top_k * k),
            weight: Weight::pack(&random(4, n_experts * n * k), layout(n_experts, n, k), format),
            weights: random(2, n_tokens * top_k),
        }
    }

    fn run(&self, kernels: &Kernels) -> Vec<f32> {
        let args = [
            Arg::rows(self.spec.k, &self.x),
            Arg::weight(&self.weight),
            Arg::rows(self.spec.top_k, &self.weights),
            Arg::i32(&self.experts.slots),
            Arg::i32(&self.experts.offsets),
            Arg::unwritten(self.spec.n, self.experts.n_tokens),
            Arg::Scalar(self.experts.n_tokens),
        ];
        kernels.run(&self.spec.clone().into(), &args)[0].f32()
    }

    /// The same problem for a single token.
    fn token(&self, t: usize) -> Combine {
        let (k, top_k) = (self.spec.k, self.spec.top_k);
        let of = |slot: usize| (0..self.spec.n_experts).find(|&e| self.slots_of(e).contains(&(slot as i32)));
        let experts: Vec<i32> =
            (t * top_k..(t + 1) * top_k).map(|slot| of(slot).expect("every slot has an expert") as i32).collect();
        let (slots, offsets) = moe::moe_permute(&experts, self.spec.n_experts).expect("indices of experts");
        Combine {
            spec: self.spec.clone(),
            experts: Experts { slots, offsets, n_tokens: 1, top_k },
            x: self.x[t * top_k * k..][..top_k * k].to_vec(),
            weight: self.weight.clone(),
            weights: self.weights[t * top_k..][..top_k].to_vec(),
        }
    }

    fn slots_of(&self, expert: usize) -> &[i32] {
        let bounds = &self.experts.offsets[expert..=expert + 1];
        &self.experts.slots[bounds[0] as usize..bounds[1] as usize]
    }
}

fn check_combine(level: X86Level, cases: &[Case]) {
    let Some(kernels) = Kernels::compile(level, cases.iter().map(|case| &case.kernel)) else { return };
    for case in cases {
        let AnySpec::GroupedCombine(spec) = &case.kernel else { panic!("a case of another kernel: {case:?}") };
        let operands = Combine::new(spec, case.counts.tokens);
        let products = operands.experts.products(&operands.x, &operands.weight.values, spec.n, spec.k);
        let expected = moe::moe_combine(&products, &operands.weights, operands.experts.top_k, spec.n);
        let what = format!("{} of {} tokens", case.symbol(), case.counts.tokens);
        // Per expert the error of grouped_linear, plus one rounding of the total sum.
        let tolerance = Tolerance::abs((3 * spec.k * spec.top_k) as f64 * 2f64.powi(-24));
        assert_close(&what, &operands.run(&kernels), &expected, tolerance);
    }
}

#[test]
fn combine_agrees_with_the_reference() {
    check_combine(V3, &small(cases::grouped_combine()));
}

#[test]
fn combine_of_targets_without_fma_agrees() {
    let cases = small(cases::grouped_combine());
    check_combine(X86Level::V2, &[cases[0].clone(), cases[2].clone()]);
}

#[test]
fn a_token_has_the_bits_of_one_alone() {
    let base = grouped_combine::Spec { n_experts: 5, n: 40, k: 72, format: Elem::Bf16, top_k: 3 };
    let Some(kernels) = Kernels::compile(V3, [&base.clone().into()]) else { return };
    let operands = Combine::new(&base, 17);
    let together = operands.run(&kernels);
    for t in 0..17 {
        let alone = operands.token(t).run(&kernels);
        assert_same_bits(&format!("token {t}"), &together[t * base.n..][..base.n], &alone);
    }
}
