//! Kernel shapes shared by tests and benchmarks. Each kernel's folder lists its own ([`crate::node::Select::cases`]); lists that vary
//! the matrix products together are here. The first row of a list is the base; every other row changes one property: sizes with
//! vector tails; row counts with and without a partial tile; and at the end the sizes of real models. Their cost allows estimating
//! the run time of a scalar reference.

use jamba_plan::cost::Size;
use jamba_plan::format::TargetKind;
use jambac_graph::Activation;

use crate::catalog::{self, AnySpec};
use crate::kernel::{Config, Elem, Kernel, Launch, Rows};
use crate::{grouped_linear, grouped_swiglu, linear, linear_swiglu, split_linear};

#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Tokens of all sequences together.
    pub tokens: usize,
    pub sequences: usize,
    /// Rows of logits.
    pub outputs: usize,
    /// Tokens in the KV cache per sequence.
    pub context: usize,
}

/// A kernel and the sizes of one call.
#[derive(Clone, Debug)]
pub struct Case {
    pub kernel: AnySpec,
    pub counts: Counts,
    /// Rows that the step processes.
    pub rows: Rows,
}

impl Case {
    pub fn on_cpu(&self) -> Launch {
        self.kernel.lower(TargetKind::Cpu, Config::Only).swap_remove(0)
    }

    /// The symbol of the CPU launch.
    pub fn symbol(&self) -> String {
        self.on_cpu().symbol
    }

    /// Minimum bytes that the CPU launch reads and writes.
    pub fn bytes(&self) -> f64 {
        self.on_cpu().cost.of(self.rows).bytes.at(self.size())
    }

    /// Arithmetic operations of the CPU launch.
    pub fn operations(&self) -> f64 {
        self.on_cpu().cost.of(self.rows).operations.at(self.size())
    }

    /// The sizes in the form that costs expect.
    pub fn size(&self) -> Size {
        let [tokens, sequences, outputs, context] =
            [self.counts.tokens, self.counts.sequences, self.counts.outputs, self.counts.context].map(|n| n as f64);
        Size { tokens, sequences, outputs, context }
    }
}

/// `tokens` tokens of one sequence, with logits for each.
pub(crate) fn tokens(tokens: usize) -> Counts {
    Counts { tokens, sequences: 1, outputs: tokens, context: tokens }
}

pub(crate) fn case(kernel: impl Into<AnySpec>, n_tokens: usize) -> Case {
    Case { kernel: kernel.into(), counts: tokens(n_tokens), rows: Rows::TOKENS }
}

/// A step that decodes one token of each of `n` sequences.
pub(crate) fn decode(kernel: impl Into<AnySpec>, n: usize) -> Case {
    let counts = Counts { tokens: n, sequences: n, outputs: n, context: 1 };
    Case { kernel: kernel.into(), counts, rows: Rows::TOKENS }
}

/// The cases of all kernels.
pub fn all() -> Vec<Case> {
    let products = [integer_linear(), integer_grouped_linear(), by_tiles(), experts_by_tiles()].concat();
    catalog::cases().chain(products).collect()
}

/// Experts, experts per token, and tokens: less and more than the threads of a block on Hopper.
pub(crate) fn routers() -> impl Iterator<Item = (usize, usize, usize)> {
    let experts = [(16, 2), (4, 2), (1, 1), (7, 3), (64, 6)];
    experts
        .into_iter()
        .flat_map(|(n_experts, top_k)| [1, 3, 33, 512, 1100].map(|n_tokens| (n_experts, top_k, n_tokens)))
}

/// A prompt that ends in a second tile, and a few sequences: each takes another config of a matrix product on Hopper.
fn many_and_few(kernel: impl Into<AnySpec>) -> [Case; 2] {
    let kernel = kernel.into();
    [case(kernel.clone(), 71), decode(kernel, 5)]
}

/// As [`many_and_few`], for the rows of two slots per token that six experts share.
fn of_experts(kernel: impl Into<AnySpec>) -> [Case; 4] {
    let kernel = kernel.into();
    [case(kernel.clone(), 75), case(kernel.clone(), 0), decode(kernel.clone(), 7), decode(kernel, 1)]
}

/// Cases of [`crate::linear`] with integer weights.
pub fn integer_linear() -> Vec<Case> {
    let of_format = |format: Elem| {
        let base = linear::Spec { n: 96, k: 72, format, out: Elem::F32, bias: false, activation: Activation::None };
        let with = |n, k| linear::Spec { n, k, ..base.clone() };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2, 3, 4, 5, 6, 7, 12, 64, 150].map(|n_rows| case(base.clone(), n_rows)));
        cases.extend([1, 16, 173].map(|n| case(with(n, base.k), 13)));
        // Rows distributed over threads instead of panels.
        cases.push(case(with(5, base.k), 64));
        // Less than a group of inputs, whole groups, and a partial last group, with and without padding.
        cases.extend([1, 31, 32, 128, 160, 256, 300].map(|k| case(with(base.n, k), 13)));
        cases.extend([1, 300].map(|k| case(with(base.n, k), 3)));
        // Several blocks of rows, the last one partial.
        cases.push(case(with(16, 8195), 61));
        cases.push(case(linear::Spec { bias: true, ..base.clone() }, 13));
        let softplus = linear::Spec { bias: true, activation: Activation::Softplus, ..base.clone() };
        cases.extend([1, 13].map(|n_rows| case(softplus.clone(), n_rows)));
        cases.extend([1, 13].map(|n_rows| case(linear::Spec { activation: Activation::Silu, ..base.clone() }, n_rows)));
        // Gate and down of a model of 318 M parameters, its logits; the gate of Jamba 3B.
        cases.extend([1, 8, 512].map(|n_rows| case(with(2560, 768), n_rows)));
        cases.extend([1, 8, 512].map(|n_rows| case(with(768, 2560), n_rows)));
        cases.extend([1, 8].map(|n_rows| case(with(65536, 768), n_rows)));
        cases.extend([1, 8, 512].map(|n_rows| case(with(8192, 2560), n_rows)));
        cases
    };
    [Elem::I8, Elem::I4, Elem::I3].map(of_format).concat()
}

/// Cases of [`crate::grouped_linear`] with integer weights.
pub fn integer_grouped_linear() -> Vec<Case> {
    let of_format = |format: Elem| {
        let base =
            grouped_linear::Spec { n_experts: 4, n: 40, k: 72, format, out: Elem::F32, slots_per_row: 2, top_k: 2 };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2, 64].map(|n_tokens| case(base.clone(), n_tokens)));
        cases.push(case(grouped_linear::Spec { slots_per_row: 1, ..base.clone() }, 13));
        cases.push(case(grouped_linear::Spec { n: 100, k: 300, ..base }, 13));
        cases
    };
    [Elem::I8, Elem::I4, Elem::I3].map(of_format).concat()
}

/// Cases of [`crate::linear`], [`crate::split_linear`] and [`crate::linear_swiglu`] for tiles of 64 rows and outputs and steps of 64
/// inputs: remainders of each, several rounds of a ring of tiles, every epilogue and result type, the weight types of Hopper.
pub fn by_tiles() -> Vec<Case> {
    let of_format = |format| {
        let base = linear::Spec { n: 96, k: 72, format, out: Elem::F32, bias: false, activation: Activation::None };
        let with = |n, k| linear::Spec { n, k, ..base.clone() };
        let in_bf16 = |n, k| linear::Spec { out: Elem::Bf16, ..with(n, k) };
        let finish = |bias, activation| linear::Spec { bias, activation, ..base.clone() };
        let split = |sizes: &[usize], k, out| split_linear::Spec {
            sizes: sizes.to_vec(),
            weights: sizes.len(),
            k,
            format,
            out,
        };
        let swiglu = |n, k| linear_swiglu::Spec { n, k, format };
        let specs: Vec<AnySpec> = vec![
            base.clone().into(),
            in_bf16(96, 72).into(),
            with(40, 24).into(),
            with(7, 5).into(),
            with(129, 64).into(),
            with(130, 65).into(),
            with(64, 1100).into(),
            in_bf16(203, 136).into(),
            finish(true, Activation::None).into(),
            finish(true, Activation::Softplus).into(),
            finish(false, Activation::Silu).into(),
            split(&[70, 40], 72, Elem::Bf16).into(),
            split(&[64, 1, 130, 65], 136, Elem::F32).into(),
            swiglu(96, 72).into(),
            swiglu(41, 136).into(),
        ];
        specs.into_iter().flat_map(many_and_few).collect::<Vec<Case>>()
    };
    [Elem::Bf16, Elem::I8, Elem::F8].map(of_format).concat()
}

/// Cases of [`crate::grouped_linear`] and [`crate::grouped_swiglu`] for tiles: weights of an odd number of blocks, so that the last
/// tile of an expert extends into the next one's; both result types and the weight types of Hopper.
pub fn experts_by_tiles() -> Vec<Case> {
    let of_format = |format| {
        let (n_experts, top_k) = (6, 2);
        let odd = grouped_linear::Spec { n_experts, n: 40, k: 101, format, out: Elem::F32, slots_per_row: 1, top_k };
        let in_bf16 = grouped_linear::Spec { n: 130, k: 72, out: Elem::Bf16, ..odd.clone() };
        let swiglu = grouped_swiglu::Spec { n_experts, n: 40, k: 136, format, slots_per_row: top_k, top_k };
        [of_experts(odd), of_experts(in_bf16), of_experts(swiglu)].concat()
    };
    [Elem::Bf16, Elem::I8, Elem::F8].map(of_format).concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Specs with the same symbol have the same code: they may differ only in values that costs and extents depend on.
    #[test]
    fn symbols_tell_kernels_apart() {
        let mut specs: BTreeMap<String, AnySpec> = BTreeMap::new();
        for case in all() {
            let launch = case.on_cpu();
            let known = specs.entry(launch.symbol.clone()).or_insert_with(|| case.kernel.clone());
            let known = known.lower(TargetKind::Cpu, Config::Only).swap_remove(0);
            assert_eq!(known.params(), launch.params(), "{} is the symbol of two kernels", launch.symbol);
        }
    }
}
