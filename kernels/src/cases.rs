//! Kernel shapes shared by tests and benchmarks. The first row of each list is the base; every other row changes one
//! property: sizes with vector tails; row counts with and without a partial tile; and at the end the sizes of real models.
//! Their cost allows estimating the run time of a scalar reference.

use crate::catalog::AnySpec;
use crate::elementwise::Function;
use crate::kernel::{Config, Elem, Kernel, LANES, Launch, Rows};
use crate::selective_scan::{Projection, Selection};
use crate::{
    attention, causal_conv1d, elementwise, embed, kv_append, moe_combine, moe_permute, moe_route, rms_norm,
    select_rows, selective_scan, slice, softmax, split_rms_norm, top_k,
};
use jamba_plan::cost::Size;
use jamba_plan::format::TargetKind;
use jambac_graph::Activation;

mod products;

pub use products::{
    by_tiles, experts_by_tiles, grouped_combine, grouped_linear, grouped_swiglu, integer_grouped_linear,
    integer_linear, linear, linear_swiglu, split_linear,
};

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
fn tokens(tokens: usize) -> Counts {
    Counts { tokens, sequences: 1, outputs: tokens, context: tokens }
}

fn case(kernel: impl Into<AnySpec>, n_tokens: usize) -> Case {
    Case { kernel: kernel.into(), counts: tokens(n_tokens), rows: Rows::TOKENS }
}

/// A step that decodes one token of each of `n` sequences.
fn decode(kernel: impl Into<AnySpec>, n: usize) -> Case {
    let counts = Counts { tokens: n, sequences: n, outputs: n, context: 1 };
    Case { kernel: kernel.into(), counts, rows: Rows::TOKENS }
}

/// The cases of all kernels.
pub fn all() -> Vec<Case> {
    let linears =
        [linear(), split_linear(), linear_swiglu(), grouped_linear(), grouped_swiglu(), grouped_combine()].concat();
    let norms = [rms_norm(), split_rms_norm()].concat();
    let stateless = [linears, norms, embed(), elementwise(), slice(), select_rows()].concat();
    let integer = [integer_linear(), integer_grouped_linear(), by_tiles(), experts_by_tiles()].concat();
    let stateful = [causal_conv1d(), selective_scan(), kv_append(), attention()].concat();
    let routing = [softmax(), top_k(), moe_permute(), moe_route(), moe_combine()].concat();
    [stateless, integer, stateful, routing].concat()
}

/// Cases of [`crate::embed`].
pub fn embed() -> Vec<Case> {
    let base = embed::Spec { vocab: 50, d_model: 72, format: Elem::Bf16, lanes: 1 };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2].map(|n_tokens| case(base.clone(), n_tokens)));
    cases.extend([5, 96].map(|d_model| case(embed::Spec { d_model, ..base.clone() }, 13)));
    cases.extend([Elem::F32, Elem::F16].map(|format| case(embed::Spec { format, ..base.clone() }, 13)));
    cases.push(case(embed::Spec { lanes: LANES, ..base.clone() }, 13));
    cases.extend([Elem::F32, Elem::F16].map(|format| case(embed::Spec { format, lanes: LANES, ..base.clone() }, 13)));
    cases.extend([1, 512].map(|n_tokens| case(embed::Spec { d_model: 2560, lanes: LANES, ..base.clone() }, n_tokens)));
    cases.extend([1, 9, 128, 4096].map(|d_model| case(embed::Spec { d_model, ..base.clone() }, 5)));
    cases
}

/// Cases of [`crate::rms_norm`].
pub fn rms_norm() -> Vec<Case> {
    let base = rms_norm::Spec { cols: 72, eps: 1e-6, residual: false, out: Elem::F32 };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
    cases.extend([1, 5, 16, 96, 173].map(|cols| case(rms_norm::Spec { cols, ..base.clone() }, 13)));
    cases.push(case(rms_norm::Spec { eps: 1e-2, ..base.clone() }, 13));
    cases.push(case(rms_norm::Spec { residual: true, ..base.clone() }, 13));
    cases.push(case(rms_norm::Spec { residual: true, cols: 96, ..base.clone() }, 13));
    cases.extend([1, 512].map(|n_rows| case(rms_norm::Spec { residual: true, cols: 2560, ..base.clone() }, n_rows)));
    // One warp to many of a block on Hopper, in both result types.
    for cols in [1, 7, 64, 130, 2560, 4096, 9001] {
        let in_f32 = rms_norm::Spec { cols, eps: 1e-5, ..base.clone() };
        let in_bf16 = rms_norm::Spec { out: Elem::Bf16, ..in_f32.clone() };
        let residual = rms_norm::Spec { residual: true, ..in_bf16.clone() };
        cases.extend([in_f32, in_bf16, residual].map(|spec| case(spec, 3)));
    }
    cases
}

/// Cases of [`crate::split_rms_norm`].
pub fn split_rms_norm() -> Vec<Case> {
    let in_f32 = |parts: &[usize]| parts.iter().map(|&cols| (cols, Elem::F32)).collect();
    let base = split_rms_norm::Spec { parts: in_f32(&[7, 5, 5]), eps: 1e-6 };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
    let parts: [&[usize]; 4] = [&[1, 1, 1], &[160, 16, 16], &[16, 33], &[3, 20, 1, 8]];
    cases.extend(parts.map(|parts| case(split_rms_norm::Spec { parts: in_f32(parts), ..base.clone() }, 13)));
    cases.push(case(split_rms_norm::Spec { eps: 1e-2, ..base.clone() }, 13));
    // Δ, B and C of Jamba Mini and 3B, mixed result types, one part.
    let (f32, bf16) = (Elem::F32, Elem::Bf16);
    let parts: [&[(usize, Elem)]; 4] = [
        &[(256, bf16), (16, f32), (16, f32)],
        &[(160, bf16), (16, f32), (16, f32)],
        &[(7, bf16), (33, f32), (1, bf16)],
        &[(512, f32)],
    ];
    cases.extend(parts.map(|parts| case(split_rms_norm::Spec { parts: parts.to_vec(), ..base.clone() }, 6)));
    cases
}

/// Cases of [`crate::elementwise`].
pub fn elementwise() -> Vec<Case> {
    use Function::{Add, Mul, MulRow, Silu, Softplus, Swiglu};
    let base = elementwise::Spec::in_f32(Silu, 72);
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
    cases.extend([5, 100].map(|cols| case(elementwise::Spec { cols, ..base.clone() }, 13)));
    cases.push(Case { rows: Rows { per: 2, ..Rows::TOKENS }, ..case(base, 13) });
    let functions = [Softplus, Add, Mul, MulRow, Swiglu];
    cases.extend(functions.map(|function| case(elementwise::Spec::in_f32(function, 72), 13)));
    let swiglu = elementwise::Spec::in_f32(Swiglu, 8192);
    cases.extend([1, 512].map(|n_rows| case(swiglu.clone(), n_rows)));
    // Operands and results of either type.
    let (f32, bf16) = (Elem::F32, Elem::Bf16);
    let types = [(f32, f32, f32), (bf16, bf16, bf16), (bf16, f32, f32), (f32, bf16, bf16)];
    let functions = [Silu, Softplus, Add, Mul, MulRow, Swiglu];
    for (cols, function) in [1, 30, 200, 4096].into_iter().flat_map(|cols| functions.map(|function| (cols, function))) {
        cases.extend(types.map(|(a, b, out)| {
            let b = match function {
                Silu | Softplus => None,
                MulRow => Some(f32),
                _ => Some(b),
            };
            case(elementwise::Spec { function, cols, a, b, out }, 4)
        }));
    }
    cases
}

/// Cases of [`crate::slice`].
pub fn slice() -> Vec<Case> {
    let base = slice::Spec { cols: 72, start: 8, len: 40, x: Elem::F32, out: Elem::F32 };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
    cases.extend([0, 7, 32].map(|start| case(slice::Spec { start, ..base.clone() }, 13)));
    cases.extend([5, 64].map(|len| case(slice::Spec { len, ..base.clone() }, 13)));
    // With and without partial vectors, up to the last column or not, inside a 16-column row without padding; in both types.
    let shapes = [(40, 8, 16), (41, 24, 17), (17, 7, 5), (512, 256, 256), (32, 0, 32), (32, 29, 3), (9, 8, 1)];
    for (x, out) in [Elem::F32, Elem::Bf16].into_iter().flat_map(|x| [Elem::F32, Elem::Bf16].map(|out| (x, out))) {
        cases.extend(shapes.map(|(cols, start, len)| case(slice::Spec { cols, start, len, x, out }, 3)));
    }
    cases
}

/// Cases of [`crate::select_rows`].
pub fn select_rows() -> Vec<Case> {
    let base = select_rows::Spec { cols: 72, elem: Elem::F32 };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
    cases.extend([5, 96].map(|cols| case(select_rows::Spec { cols, ..base.clone() }, 13)));
    let shapes = [(1, Elem::Bf16), (75, Elem::F32), (4096, Elem::Bf16), (4096, Elem::F32)];
    cases.extend(shapes.map(|(cols, elem)| case(select_rows::Spec { cols, elem }, 4)));
    cases.into_iter().map(|case| Case { rows: Rows::OUTPUTS, ..case }).collect()
}

/// Cases of [`crate::causal_conv1d`].
pub fn causal_conv1d() -> Vec<Case> {
    let base = causal_conv1d::Spec { channels: 216, taps: 4, bias: true, activation: Activation::Silu };
    let mut cases = vec![case(base.clone(), 17)];
    cases.extend([16, 20].map(|channels| case(causal_conv1d::Spec { channels, ..base.clone() }, 17)));
    cases.extend([1, 2, 3].map(|taps| case(causal_conv1d::Spec { taps, ..base.clone() }, 17)));
    cases.push(case(causal_conv1d::Spec { bias: false, ..base.clone() }, 17));
    let activations = [Activation::None, Activation::Softplus];
    cases.extend(activations.map(|activation| case(causal_conv1d::Spec { activation, ..base.clone() }, 17)));
    // Jamba Mini.
    cases.extend([1, 512].map(|n_tokens| case(causal_conv1d::Spec { channels: 8192, ..base.clone() }, n_tokens)));
    // Several blocks of channels on Hopper; fewer than a block; more taps.
    let wide = causal_conv1d::Spec { channels: 600, ..base.clone() };
    let plain = causal_conv1d::Spec { bias: false, activation: Activation::None, ..wide.clone() };
    let two_taps = causal_conv1d::Spec { channels: 33, taps: 2, ..base.clone() };
    let softplus = causal_conv1d::Spec { channels: 5, taps: 7, bias: false, activation: Activation::Softplus };
    cases.extend(
        [wide.clone(), plain, causal_conv1d::Spec { channels: 7, ..base }, two_taps, softplus]
            .map(|spec| case(spec, 17)),
    );
    let one_tap = causal_conv1d::Spec { taps: 1, bias: false, ..wide.clone() };
    cases.extend([wide, one_tap].map(|spec| decode(spec, 5)));
    cases
}

/// Cases of [`crate::selective_scan`].
pub fn selective_scan() -> Vec<Case> {
    let base = selective_scan::Spec { channels: 216, d_state: 16, selection: Selection::Given, gated: true };
    let projection = Projection { dt_rank: 7, format: Elem::Bf16 };
    let normed = Selection::Normed { projection, eps: 1e-6 };
    let with = |selection| selective_scan::Spec { selection, ..base.clone() };
    let mut cases = vec![case(base.clone(), 17)];
    cases.extend([16, 20].map(|channels| case(selective_scan::Spec { channels, ..base.clone() }, 17)));
    cases.extend([1, 5, 8, 27, 64].map(|d_state| case(selective_scan::Spec { d_state, ..base.clone() }, 17)));
    cases.push(case(selective_scan::Spec { gated: false, ..base.clone() }, 17));
    cases.push(case(with(Selection::Projected(projection)), 17));
    cases.push(case(with(normed), 17));
    let others = [(1, Elem::Bf16), (33, Elem::Bf16), (16, Elem::F32), (7, Elem::F16)];
    cases.extend(others.map(|(dt_rank, format)| {
        case(with(Selection::Normed { projection: Projection { dt_rank, format }, eps: 1e-6 }), 17)
    }));
    let eps = Selection::Normed { projection, eps: 1e-2 };
    cases.push(case(selective_scan::Spec { channels: 20, d_state: 5, gated: false, ..with(eps) }, 17));
    // Jamba Mini.
    let projection = Projection { dt_rank: 256, format: Elem::Bf16 };
    let selections = [Selection::Given, Selection::Projected(projection), Selection::Normed { projection, eps: 1e-6 }];
    for selection in selections {
        cases.extend([1, 8, 512].map(|n| case(selective_scan::Spec { channels: 8192, ..with(selection) }, n)));
    }
    // On Hopper the first has four states per lane; odd numbers of channels and states.
    let shapes = [
        (7700, 16, true),
        (160, 16, true),
        (40, 16, false),
        (9, 64, true),
        (40, 5, true),
        (3, 1, false),
        (11, 40, true),
    ];
    let selection = Selection::Given;
    cases.extend(
        shapes.map(|(channels, d_state, gated)| case(selective_scan::Spec { channels, d_state, selection, gated }, 17)),
    );
    cases
}

/// Cases of [`crate::kv_append`].
pub fn kv_append() -> Vec<Case> {
    let base = kv_append::Spec { n_kv_heads: 2, d_head: 12, format: Elem::F32 };
    let mut cases = vec![case(base.clone(), 17)];
    cases.push(case(kv_append::Spec { n_kv_heads: 1, ..base.clone() }, 17));
    cases.extend([16, 128].map(|d_head| case(kv_append::Spec { d_head, ..base.clone() }, 17)));
    cases.push(case(kv_append::Spec { format: Elem::Bf16, ..base.clone() }, 17));
    // Jamba Mini.
    cases.extend(
        [1, 512].map(|n_tokens| case(kv_append::Spec { n_kv_heads: 8, d_head: 128, ..base.clone() }, n_tokens)),
    );
    cases
}

/// Cases of [`crate::attention`].
pub fn attention() -> Vec<Case> {
    let base = attention::Spec {
        n_heads: 6,
        n_kv_heads: 2,
        d_head: 12,
        scale: 12f64.powf(-0.5),
        format: Elem::F32,
        appends: false,
    };
    let heads = |n_heads, n_kv_heads| attention::Spec { n_heads, n_kv_heads, ..base.clone() };
    let mut cases = vec![case(base.clone(), 17)];
    cases.push(case(attention::Spec { format: Elem::Bf16, ..base.clone() }, 17));
    // Query heads per KV head: 1, 2, 4, 5, 7, 20.
    cases.extend([(4, 4), (4, 2), (4, 1), (5, 1), (7, 1), (20, 1)].map(|(h, g)| case(heads(h, g), 17)));
    cases.extend([1, 16, 32, 72, 128].map(|d_head| case(attention::Spec { d_head, ..base.clone() }, 17)));
    cases.push(case(attention::Spec { d_head: 128, ..heads(2, 2) }, 17));
    cases.push(case(attention::Spec { d_head: 128, format: Elem::Bf16, ..heads(4, 2) }, 17));
    // Jamba tiny; on Hopper head sizes that are not multiples of the vector size, odd ones, several column blocks, and sizes with
    // more than one part of the values.
    let shapes = [(4, 2, 32), (6, 3, 10), (3, 1, 9), (7, 1, 24), (2, 2, 72), (2, 1, 192), (17, 1, 16)];
    // Jamba Mini and Reasoning 3B.
    for (n_heads, n_kv_heads, d_head) in shapes.into_iter().chain([(32, 8, 128), (20, 1, 128)]) {
        let scale = (d_head as f64).powf(-0.5);
        cases.push(case(attention::Spec { d_head, scale, format: Elem::Bf16, ..heads(n_heads, n_kv_heads) }, 17));
    }
    // Jamba Mini.
    let mini = attention::Spec { d_head: 128, scale: 128f64.powf(-0.5), ..heads(32, 8) };
    let bf16 = attention::Spec { format: Elem::Bf16, ..mini.clone() };
    cases.push(case(mini, 512));
    let decode = Counts { tokens: 1, sequences: 1, outputs: 1, context: 8192 };
    cases.extend([case(bf16.clone(), 512), Case { counts: decode, ..case(bf16, 1) }]);
    cases
}

/// Cases of [`crate::softmax`].
pub fn softmax() -> Vec<Case> {
    let base = softmax::Spec { cols: 16 };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
    cases.extend([1, 4, 17, 72, 173].map(|cols| case(softmax::Spec { cols }, 13)));
    cases.extend([1, 3, 16, 64, 300, 5000].map(|cols| case(softmax::Spec { cols }, 3)));
    cases.push(case(base, 512));
    cases
}

/// Experts, experts per token, and tokens: less and more than the threads of a block on Hopper.
fn routers() -> impl Iterator<Item = (usize, usize, usize)> {
    let experts = [(16, 2), (4, 2), (1, 1), (7, 3), (64, 6)];
    experts
        .into_iter()
        .flat_map(|(n_experts, top_k)| [1, 3, 33, 512, 1100].map(|n_tokens| (n_experts, top_k, n_tokens)))
}

/// Cases of [`crate::top_k`].
pub fn top_k() -> Vec<Case> {
    let base = top_k::Spec { cols: 16, k: 2 };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
    cases.extend([4, 5, 17].map(|cols| case(top_k::Spec { cols, ..base.clone() }, 13)));
    cases.extend([1, 3, 16].map(|k| case(top_k::Spec { k, ..base.clone() }, 13)));
    cases.extend(routers().map(|(cols, k, n_tokens)| case(top_k::Spec { cols, k }, n_tokens)));
    cases.push(case(base, 512));
    cases
}

/// Cases of [`crate::moe_permute`].
pub fn moe_permute() -> Vec<Case> {
    let base = moe_permute::Spec { n_experts: 16, top_k: 2 };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2].map(|n_tokens| case(base.clone(), n_tokens)));
    cases.extend([1, 4, 17].map(|n_experts| case(moe_permute::Spec { n_experts, ..base.clone() }, 13)));
    cases.extend([1, 3].map(|top_k| case(moe_permute::Spec { top_k, ..base.clone() }, 13)));
    cases.extend(routers().map(|(n_experts, top_k, n)| case(moe_permute::Spec { n_experts, top_k }, n)));
    cases.push(case(base, 512));
    cases
}

/// Cases of [`crate::moe_route`].
pub fn moe_route() -> Vec<Case> {
    let base = moe_route::Spec { n_experts: 16, top_k: 2 };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2].map(|n_tokens| case(base.clone(), n_tokens)));
    cases.extend([4, 17].map(|n_experts| case(moe_route::Spec { n_experts, ..base.clone() }, 13)));
    cases.extend([1, 3, 16].map(|top_k| case(moe_route::Spec { top_k, ..base.clone() }, 13)));
    cases.extend(routers().map(|(n_experts, top_k, n)| case(moe_route::Spec { n_experts, top_k }, n)));
    cases.push(case(base, 512));
    cases
}

/// Cases of [`crate::moe_combine`].
pub fn moe_combine() -> Vec<Case> {
    let base = moe_combine::Spec { cols: 72, top_k: 2 };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2].map(|n_tokens| case(base.clone(), n_tokens)));
    cases.extend([5, 96].map(|cols| case(moe_combine::Spec { cols, ..base.clone() }, 13)));
    cases.extend([1, 3].map(|top_k| case(moe_combine::Spec { top_k, ..base.clone() }, 13)));
    cases.extend([1, 5, 512].map(|n_tokens| case(moe_combine::Spec { cols: 4096, ..base.clone() }, n_tokens)));
    let shapes = [(9, 2, 1), (130, 3, 20), (64, 1, 7)];
    cases.extend(shapes.map(|(cols, top_k, n)| case(moe_combine::Spec { cols, top_k }, n)));
    cases
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
