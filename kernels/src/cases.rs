//! Kernel shapes shared by tests and benchmarks. The first row of each list is the base; every other row changes one
//! property: sizes with vector tails; row counts with and without a partial tile; and at the end the sizes of real models.
//! Their cost allows estimating the run time of a scalar reference.

use crate::catalog::AnySpec;
use crate::elementwise::Function;
use crate::kernel::{Config, Elem, Kernel, LANES, Launch, Rows};
use crate::selective_scan::{Projection, Selection};
use crate::{
    attention, causal_conv1d, elementwise, embed, grouped_combine, grouped_linear, grouped_swiglu, kv_append, linear,
    linear_swiglu, moe_combine, moe_permute, moe_route, rms_norm, select_rows, selective_scan, slice, softmax,
    split_linear, split_rms_norm, top_k,
};
use jamba_plan::cost::Size;
use jamba_plan::format::TargetKind;
use jambac_graph::Activation;

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

/// The cases of all kernels.
pub fn all() -> Vec<Case> {
    let linears =
        [linear(), split_linear(), linear_swiglu(), grouped_linear(), grouped_swiglu(), grouped_combine()].concat();
    let norms = [rms_norm(), split_rms_norm()].concat();
    let stateless = [linears, norms, embed(), elementwise(), slice(), select_rows()].concat();
    let integer = [integer_linear(), integer_grouped_linear()].concat();
    let stateful = [causal_conv1d(), selective_scan(), kv_append(), attention()].concat();
    let routing = [softmax(), top_k(), moe_permute(), moe_route(), moe_combine()].concat();
    [stateless, integer, stateful, routing].concat()
}

/// Cases of [`crate::linear`].
pub fn linear() -> Vec<Case> {
    let base =
        linear::Spec { n: 96, k: 72, format: Elem::Bf16, out: Elem::F32, bias: false, activation: Activation::None };
    let with = |n, k| linear::Spec { n, k, ..base.clone() };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2, 3, 4, 5, 6, 7, 12, 64].map(|n_rows| case(base.clone(), n_rows)));
    // Partial panels, partial groups of panels, fewer panels than threads.
    cases.extend([1, 16, 72, 173].map(|n| case(with(n, base.k), 13)));
    cases.extend([1, 16, 72, 173].map(|n| case(with(n, base.k), 1)));
    // Rows distributed over threads instead of panels.
    cases.push(case(with(5, base.k), 64));
    cases.extend([1, 7, 100].map(|k| case(with(base.n, k), 13)));
    // Several blocks of rows, the last one partial.
    cases.push(case(with(16, 8195), 61));
    cases.extend([Elem::F32, Elem::F16].map(|format| case(linear::Spec { format, ..base.clone() }, 13)));
    cases.push(case(linear::Spec { bias: true, ..base.clone() }, 13));
    cases.extend([1, 13].map(|n_rows| case(linear::Spec { activation: Activation::Silu, ..base.clone() }, n_rows)));
    let softplus = linear::Spec { bias: true, activation: Activation::Softplus, ..base.clone() };
    cases.extend([1, 13].map(|n_rows| case(softplus.clone(), n_rows)));
    cases.push(case(linear::Spec { n: 16, k: 8195, ..softplus.clone() }, 61));
    // dt_proj of Jamba Mini.
    cases.extend([1, 512].map(|n_rows| case(linear::Spec { n: 8192, k: 256, ..softplus.clone() }, n_rows)));
    // Gate of Jamba 3B, in_proj of Jamba Mini, router of Jamba Mini.
    cases.extend([1, 4, 48, 512].map(|n_rows| case(with(8192, 2560), n_rows)));
    cases.extend([1, 48, 512].map(|n_rows| case(with(16384, 4096), n_rows)));
    cases.extend([1, 512].map(|n_rows| case(with(16, 4096), n_rows)));
    cases
}

/// Cases of [`crate::split_linear`].
pub fn split_linear() -> Vec<Case> {
    let base = split_linear::Spec { sizes: vec![72, 24, 24], weights: 3, k: 72, format: Elem::Bf16, out: Elem::F32 };
    let with = |sizes: &[usize]| split_linear::Spec { sizes: sizes.to_vec(), weights: sizes.len(), ..base.clone() };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2, 3, 4, 5, 6, 7, 12, 64].map(|n_rows| case(base.clone(), n_rows)));
    // One to four results; parts of less than a panel, of whole panels, of a panel and a remainder.
    let several: [&[usize]; 6] = [&[40], &[48, 48], &[1, 5, 5], &[173, 16], &[17, 1, 33, 16], &[5, 72]];
    cases.extend(several.map(|sizes| case(with(sizes), 13)));
    cases.extend(several.map(|sizes| case(with(sizes), 1)));
    // Rows distributed over threads instead of panels.
    cases.push(case(with(&[5, 16]), 64));
    cases.extend([1, 7, 100].map(|k| case(split_linear::Spec { k, ..base.clone() }, 13)));
    cases.push(case(split_linear::Spec { k: 8195, ..with(&[5, 16]) }, 61));
    cases.extend([Elem::F32, Elem::F16].map(|format| case(split_linear::Spec { format, ..base.clone() }, 13)));
    // in_proj and attention of Jamba Mini.
    let mini = |sizes: &[usize]| split_linear::Spec { k: 4096, ..with(sizes) };
    cases.extend([1, 512].map(|n_rows| case(mini(&[8192, 8192]), n_rows)));
    cases.extend([1, 512].map(|n_rows| case(mini(&[4096, 1024, 1024]), n_rows)));
    cases
}

/// Cases of [`crate::linear_swiglu`].
pub fn linear_swiglu() -> Vec<Case> {
    let base = linear_swiglu::Spec { n: 96, k: 72, format: Elem::Bf16 };
    let with = |n, k| linear_swiglu::Spec { n, k, ..base.clone() };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2, 3, 4, 5, 6, 7, 12, 64].map(|n_rows| case(base.clone(), n_rows)));
    cases.extend([1, 16, 72, 173].map(|n| case(with(n, base.k), 13)));
    cases.extend([1, 16, 72, 173].map(|n| case(with(n, base.k), 1)));
    // Rows distributed over threads instead of panels.
    cases.push(case(with(5, base.k), 64));
    cases.extend([1, 7, 100].map(|k| case(with(base.n, k), 13)));
    cases.push(case(with(16, 8195), 61));
    cases.extend([Elem::F32, Elem::F16].map(|format| case(linear_swiglu::Spec { format, ..base.clone() }, 13)));
    // Jamba 3B, Jamba Mini.
    cases.extend([1, 4, 48, 512].map(|n_rows| case(with(8192, 2560), n_rows)));
    cases.extend([1, 512].map(|n_rows| case(with(14336, 4096), n_rows)));
    cases
}

/// Cases of [`crate::grouped_linear`].
pub fn grouped_linear() -> Vec<Case> {
    let base = grouped_linear::Spec {
        n_experts: 4,
        n: 40,
        k: 72,
        format: Elem::Bf16,
        out: Elem::F32,
        slots_per_row: 2,
        top_k: 2,
    };
    let mut cases = vec![case(base.clone(), 13)];
    // A single token leaves experts without slots.
    cases.extend([0, 1, 2, 7, 64].map(|n_tokens| case(base.clone(), n_tokens)));
    cases.push(case(grouped_linear::Spec { slots_per_row: 1, ..base.clone() }, 13));
    cases.push(case(grouped_linear::Spec { slots_per_row: 1, top_k: 1, ..base.clone() }, 13));
    cases.push(case(grouped_linear::Spec { slots_per_row: 3, top_k: 3, n_experts: 5, ..base.clone() }, 13));
    cases.extend([5, 100].map(|n| case(grouped_linear::Spec { n, ..base.clone() }, 13)));
    cases.push(case(grouped_linear::Spec { k: 8195, n_experts: 2, n: 16, ..base.clone() }, 64));
    cases.extend([Elem::F32, Elem::F16].map(|format| case(grouped_linear::Spec { format, ..base.clone() }, 13)));
    // Gate of half of Jamba Mini's experts.
    let mini = grouped_linear::Spec { n_experts: 8, n: 14336, k: 4096, ..base };
    cases.extend([1, 64].map(|n_tokens| case(mini.clone(), n_tokens)));
    cases
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
    [Elem::I8, Elem::I4].map(of_format).concat()
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
    [Elem::I8, Elem::I4].map(of_format).concat()
}

/// Cases of [`crate::grouped_swiglu`].
pub fn grouped_swiglu() -> Vec<Case> {
    let base = grouped_swiglu::Spec { n_experts: 4, n: 40, k: 72, format: Elem::Bf16, slots_per_row: 2, top_k: 2 };
    let mut cases = vec![case(base.clone(), 13)];
    // A single token leaves experts without slots.
    cases.extend([0, 1, 2, 7, 64].map(|n_tokens| case(base.clone(), n_tokens)));
    cases.push(case(grouped_swiglu::Spec { slots_per_row: 1, ..base.clone() }, 13));
    cases.push(case(grouped_swiglu::Spec { slots_per_row: 3, top_k: 3, n_experts: 5, ..base.clone() }, 13));
    cases.extend([5, 100].map(|n| case(grouped_swiglu::Spec { n, ..base.clone() }, 13)));
    cases.extend([1, 7].map(|k| case(grouped_swiglu::Spec { k, ..base.clone() }, 13)));
    cases.push(case(grouped_swiglu::Spec { k: 8195, n_experts: 2, n: 16, ..base.clone() }, 64));
    cases.extend([Elem::F32, Elem::F16].map(|format| case(grouped_swiglu::Spec { format, ..base.clone() }, 13)));
    // Half of Jamba Mini's experts.
    let mini = grouped_swiglu::Spec { n_experts: 8, n: 14336, k: 4096, ..base };
    cases.extend([1, 64].map(|n_tokens| case(mini.clone(), n_tokens)));
    cases
}

/// Cases of [`crate::grouped_combine`].
pub fn grouped_combine() -> Vec<Case> {
    let base = grouped_combine::Spec { n_experts: 4, n: 40, k: 72, format: Elem::Bf16, top_k: 2 };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2, 7, 64].map(|n_tokens| case(base.clone(), n_tokens)));
    cases.push(case(grouped_combine::Spec { top_k: 1, ..base.clone() }, 13));
    cases.push(case(grouped_combine::Spec { top_k: 3, n_experts: 5, ..base.clone() }, 13));
    cases.extend([5, 100].map(|n| case(grouped_combine::Spec { n, ..base.clone() }, 13)));
    cases.extend([1, 7].map(|k| case(grouped_combine::Spec { k, ..base.clone() }, 13)));
    cases.push(case(grouped_combine::Spec { k: 8195, n_experts: 2, n: 16, ..base.clone() }, 64));
    cases.extend([Elem::F32, Elem::F16].map(|format| case(grouped_combine::Spec { format, ..base.clone() }, 13)));
    // Half of Jamba Mini's experts.
    let mini = grouped_combine::Spec { n_experts: 8, n: 4096, k: 14336, ..base };
    cases.extend([1, 64].map(|n_tokens| case(mini.clone(), n_tokens)));
    cases
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
    cases.push(case(split_rms_norm::Spec { eps: 1e-2, ..base }, 13));
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
    cases
}

/// Cases of [`crate::slice`].
pub fn slice() -> Vec<Case> {
    let base = slice::Spec { cols: 72, start: 8, len: 40, x: Elem::F32, out: Elem::F32 };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
    cases.extend([0, 7, 32].map(|start| case(slice::Spec { start, ..base.clone() }, 13)));
    cases.extend([5, 64].map(|len| case(slice::Spec { len, ..base.clone() }, 13)));
    cases
}

/// Cases of [`crate::select_rows`].
pub fn select_rows() -> Vec<Case> {
    let base = select_rows::Spec { cols: 72, elem: Elem::F32 };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
    cases.extend([5, 96].map(|cols| case(select_rows::Spec { cols, ..base.clone() }, 13)));
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
    cases.push(case(base, 512));
    cases
}

/// Cases of [`crate::top_k`].
pub fn top_k() -> Vec<Case> {
    let base = top_k::Spec { cols: 16, k: 2 };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
    cases.extend([4, 5, 17].map(|cols| case(top_k::Spec { cols, ..base.clone() }, 13)));
    cases.extend([1, 3, 16].map(|k| case(top_k::Spec { k, ..base.clone() }, 13)));
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
    cases.extend([1, 512].map(|n_tokens| case(moe_combine::Spec { cols: 4096, ..base.clone() }, n_tokens)));
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
