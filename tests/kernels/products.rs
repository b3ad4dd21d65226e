//! Operands, expected results and tolerances of a matrix product, whichever kernel computes it.

use std::ops::Range;

use jamba_plan::format::TargetKind;
use jambac_graph::Activation;
use jambac_harness::{
    Call, Conditions, SEEDS, Subject, Target, assert_close, random, random_indices, random_weights, rounded,
};
use jambac_kernels::cases::Case;
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::kernel::Elem;
use jambac_reference::linear::{Linear, linear};
use jambac_reference::{Tolerance, activation, moe};
use ptxsim::Options;

use super::BF16;

/// A rounding of f32 to half a unit in the last place, of values below 1.
const ULP: f64 = 1.0 / (1 << 24) as f64;

/// Relative error of f32 sums and approximate functions on Hopper.
const APPROXIMATE: f64 = 2e-6;

/// What is done with the sums.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Finish {
    Linear {
        bias: bool,
        activation: Activation,
    },
    Split,
    Swiglu,
    /// A sum over the slots of a token, by their weights.
    Combine,
}

/// The experts of a product.
#[derive(Clone, Copy, Debug)]
struct Experts {
    n_experts: usize,
    top_k: usize,
    /// Whether x has a row per slot instead of one per token.
    per_slot: bool,
}

/// The shape of any product.
#[derive(Clone, Debug)]
struct Shape {
    /// Outputs of each part.
    sizes: Vec<usize>,
    k: usize,
    format: Elem,
    /// Type of the results on Hopper.
    out: Elem,
    finish: Finish,
    experts: Option<Experts>,
}

impl Shape {
    fn of(spec: &AnySpec) -> Shape {
        let plain = Finish::Linear { bias: false, activation: Activation::None };
        let (sizes, k, format, out, finish, experts) = match spec {
            AnySpec::Linear(s) => {
                let finish = Finish::Linear { bias: s.bias, activation: s.activation };
                (vec![s.n], s.k, s.format, s.out, finish, None)
            }
            AnySpec::SplitLinear(s) => (s.sizes.clone(), s.k, s.format, s.out, Finish::Split, None),
            AnySpec::LinearSwiglu(s) => (vec![s.n], s.k, s.format, Elem::Bf16, Finish::Swiglu, None),
            AnySpec::GroupedLinear(s) => {
                let experts = Experts { n_experts: s.n_experts, top_k: s.top_k, per_slot: s.slots_per_row == 1 };
                (vec![s.n], s.k, s.format, s.out, plain, Some(experts))
            }
            AnySpec::GroupedSwiglu(s) => {
                let experts = Experts { n_experts: s.n_experts, top_k: s.top_k, per_slot: s.slots_per_row == 1 };
                (vec![s.n], s.k, s.format, Elem::Bf16, Finish::Swiglu, Some(experts))
            }
            AnySpec::GroupedCombine(s) => {
                let experts = Experts { n_experts: s.n_experts, top_k: s.top_k, per_slot: true };
                (vec![s.n], s.k, s.format, Elem::F32, Finish::Combine, Some(experts))
            }
            other => panic!("{other:?} is no matrix product"),
        };
        Shape { sizes, k, format, out, finish, experts }
    }
}

/// A product with its operands.
pub struct Product {
    shape: Shape,
    n_tokens: usize,
    x: Vec<f32>,
    /// `[experts, n, k]` each, exact in the stored type.
    parameters: Vec<Vec<f32>>,
    bias: Vec<f32>,
    /// The expert of each slot.
    experts: Vec<i32>,
    /// The weight of each slot.
    weights: Vec<f32>,
}

impl Product {
    /// A product of the tokens of a subject's step; distinct experts per token, as a router returns them.
    pub fn of(on: &Subject) -> Product {
        let product = Product::new(&on.case.kernel, on.n_tokens(), on.target.kind());
        match on.target {
            Target::Cpu(target) if target.rounds_inputs() => Product { x: rounded(&product.x), ..product },
            _ => product,
        }
    }

    /// A product for a target, which holds x exactly.
    pub fn new(spec: &AnySpec, n_tokens: usize, target: TargetKind) -> Product {
        let shape = Shape::of(spec);
        let k = shape.k;
        let (n_experts, top_k, per_slot) = shape.experts.map_or((1, 1, false), |e| (e.n_experts, e.top_k, e.per_slot));
        let x = random(1, n_tokens * if per_slot { top_k } else { 1 } * k);
        let n_parameters = if shape.finish == Finish::Swiglu { 2 } else { shape.sizes.len() };
        let parameter = |part: usize| {
            let n = shape.sizes[part % shape.sizes.len()];
            random_weights(part as u64 + 2, shape.format, k, n_experts * n * k)
        };
        let first = random_indices(3, n_tokens, n_experts);
        let experts = first.iter().flat_map(|&first| (0..top_k as i32).map(move |j| (first + j) % n_experts as i32));
        Product {
            n_tokens,
            x: if target == TargetKind::Sm90a { rounded(&x) } else { x },
            parameters: (0..n_parameters).map(parameter).collect(),
            bias: random(9, shape.sizes[0]),
            experts: experts.collect(),
            weights: random(8, n_tokens * top_k),
            shape,
        }
    }

    /// With these experts of the slots.
    pub fn with_experts(self, experts: Vec<i32>) -> Product {
        assert_eq!(experts.len(), self.experts.len(), "an expert per slot");
        Product { experts, ..self }
    }

    /// The expert of each slot.
    pub fn experts(&self) -> &[i32] {
        &self.experts
    }

    /// The rows of x.
    pub fn x(&self) -> &[f32] {
        &self.x
    }

    /// The parameters, `[experts, n, k]` each.
    pub fn parameters(&self) -> &[Vec<f32>] {
        &self.parameters
    }

    /// The whole call.
    pub fn call(&self) -> Call {
        self.call_of(0..self.n_tokens)
    }

    /// The call for some of the tokens.
    pub fn call_of(&self, tokens: Range<usize>) -> Call {
        let Shape { sizes, k, finish, experts, .. } = &self.shape;
        let of = |values: &[f32], per_token: usize| values[tokens.start * per_token..tokens.end * per_token].to_vec();
        let call = Call::tokens(tokens.len());
        let Some(Experts { n_experts, top_k, per_slot }) = *experts else {
            let call = call.rows(*k, &of(&self.x, *k)).parameters(self.parameters.iter().map(Vec::as_slice));
            let call = match finish {
                Finish::Linear { bias: true, .. } => call.parameter(&self.bias),
                _ => call,
            };
            return sizes.iter().fold(call, |call, &n| call.gives(n));
        };
        let experts = &self.experts[tokens.start * top_k..tokens.end * top_k];
        let (slots, offsets) = moe::moe_permute(experts, n_experts).expect("indices of experts");
        let call = match per_slot {
            true => call.slot_rows(*k, &of(&self.x, top_k * k)),
            false => call.rows(*k, &of(&self.x, *k)),
        };
        let call = call.parameters(self.parameters.iter().map(Vec::as_slice));
        match finish {
            Finish::Combine => {
                call.rows(top_k, &of(&self.weights, top_k)).slots(&slots).integers(&offsets).gives(sizes[0])
            }
            _ => call.slots(&slots).integers(&offsets).gives_slot_rows(sizes[0]),
        }
    }

    /// The sums with a parameter, in the order of rows or slots.
    fn sums(&self, parameter: usize, bias: Option<&[f32]>, activation: Activation) -> Vec<f32> {
        let (weight, k) = (&self.parameters[parameter], self.shape.k);
        match self.shape.experts {
            None => {
                let n_out = self.shape.sizes[parameter % self.shape.sizes.len()];
                linear(&self.x, weight, bias, Linear { n_in: k, n_out, activation })
            }
            Some(Experts { n_experts, .. }) => {
                let (slots, offsets) = moe::moe_permute(&self.experts, n_experts).expect("indices of experts");
                let (slots, offsets, n_out) = (&slots, &offsets, self.shape.sizes[0]);
                moe::grouped_linear(&moe::GroupedLinear { x: &self.x, weight, slots, offsets, n_in: k, n_out })
            }
        }
    }

    /// The results of the reference, one per part.
    pub fn expected(&self) -> Vec<Vec<f32>> {
        let plain = |parameter| self.sums(parameter, None, Activation::None);
        match (self.shape.finish, self.shape.experts) {
            (Finish::Linear { bias, activation }, _) => {
                vec![self.sums(0, bias.then_some(&self.bias[..]), activation)]
            }
            (Finish::Split, _) => (0..self.shape.sizes.len()).map(plain).collect(),
            (Finish::Swiglu, _) => vec![activation::swiglu(&plain(0), &plain(1))],
            (Finish::Combine, Some(Experts { top_k, .. })) => {
                vec![moe::moe_combine(&plain(0), &self.weights, top_k, self.shape.sizes[0])]
            }
            (Finish::Combine, None) => panic!("a combination has experts"),
        }
    }

    /// How close a target's results are to the reference.
    pub fn tolerance(&self, target: TargetKind) -> Tolerance {
        match target {
            TargetKind::Cpu => self.cpu_tolerance(),
            TargetKind::Sm90a => self.hopper_tolerance(),
        }
    }

    /// A sum has k roundings, each 2⁻²⁴ of a partial sum of about √k terms |x · w| ≤ 1. They have random signs, so √k of them
    /// remain. The activations add a few roundings of their result and amplify an error by at most 1.1.
    fn cpu_tolerance(&self) -> Tolerance {
        let k = self.shape.k as f64;
        let sum = 2.0 * (k + 1.0) * ULP;
        match (self.shape.finish, self.shape.experts) {
            (Finish::Linear { .. } | Finish::Split, None) => Tolerance { abs: sum, rel: 4.0 * ULP },
            (Finish::Linear { .. } | Finish::Split, Some(_)) => Tolerance::abs(2.0 * k * ULP),
            // Each sum has a linear's error; silu amplifies it by at most 1.1, the product by the other factor.
            (Finish::Swiglu, None) => {
                let largest = |parameter| {
                    let sums = self.sums(parameter, None, Activation::None);
                    sums.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max)
                };
                Tolerance { abs: sum * (1.1 * largest(1) + largest(0) + 1.0), rel: 8.0 * ULP }
            }
            // Sums of about √k with √k roundings each, multiplied with each other.
            (Finish::Swiglu, Some(_)) => Tolerance { abs: 4.0 * k.powf(1.5) * ULP, rel: 1e-6 },
            // Per expert the error of grouped_linear, plus one rounding of the total sum.
            (Finish::Combine, experts) => {
                Tolerance::abs(3.0 * k * experts.map_or(1, |experts| experts.top_k) as f64 * ULP)
            }
        }
    }

    /// Sums of k products of |x| ≤ 1 and |weight| ≤ 1.5 have an error below √k units of 2⁻²²; those of swiglu are multiplied
    /// with each other, those of a token's experts are added.
    fn hopper_tolerance(&self) -> Tolerance {
        let k = self.shape.k as f64;
        let sum = k.sqrt() * 4.0 * ULP;
        let abs = match (self.shape.finish, self.shape.experts) {
            (Finish::Swiglu, _) => sum * k.sqrt(),
            (Finish::Combine, Some(Experts { top_k, .. })) => sum * top_k as f64,
            _ => sum,
        };
        Tolerance { abs, rel: APPROXIMATE + if self.shape.out == Elem::Bf16 { BF16 } else { 0.0 } }
    }
}

/// Compares a product with the reference.
pub fn check(on: &Subject, product: &Product) {
    let found = on.call(&product.call());
    for (part, expected) in product.expected().iter().enumerate() {
        assert_close(&format!("{on}, part {part}"), &found.rows(part), expected, product.tolerance(on.target.kind()));
    }
}

/// Three multiprocessors: blocks process several tiles, and the ring wraps around several times.
pub fn three_multiprocessors() -> [Conditions; 3] {
    SEEDS.map(|seed| Options { seed, n_sms: 3, ..Options::default() }.into())
}

/// The cases with floating-point weights that are fast enough for the scalar reference. (`integer` compares those of integers with
/// their own arithmetic.)
pub fn small(cases: Vec<Case>) -> impl Iterator<Item = Case> {
    // Experts have few rows each.
    let most = |case: &Case| if Shape::of(&case.kernel).experts.is_some() { 5e7 } else { 2e7 };
    let is_small = move |case: &Case| case.operations() < most(case);
    let of_floats = |case: &Case| !matches!(Shape::of(&case.kernel).format, Elem::I8 | Elem::I4 | Elem::I3);
    cases.into_iter().filter(move |case| is_small(case) && of_floats(case))
}

/// The cases that are fast enough for the simulator.
pub fn simulated(cases: Vec<Case>) -> impl Iterator<Item = Case> {
    cases.into_iter().filter(|case| case.operations() < 1.1e7)
}
