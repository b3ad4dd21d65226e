//! Every op of the layer graph: operands, results, attributes, meaning.
//!
//! `T` is tokens, `S` sequences, `O` outputs. Activations are f32. Parameters have the dtype of the checkpoint and are widened to f32
//! before any arithmetic. The tokens of a step belong to sequences (a ragged batch): an op with a state reads and writes the state of
//! each token's sequence. States are values: an op takes the old state and returns the new one, in the slots of [`Op::state`].
//!
//! | op | operands | results | meaning |
//! |---|---|---|---|
//! | `input` | | any | a table that the runtime writes in each step |
//! | `parameter` | | any, fixed | a tensor of the checkpoint; `*` in its name stacks experts in dimension 0 |
//! | `state` | | `[S, …]` | a sequence's memory between steps |
//! | `embed` | ids i32\[T\], table \[V, D\] | \[T, D\] | row of the table per token |
//! | `rms_norm` | x \[…, D\], weight \[D\] | \[…, D\] | x · rsqrt(mean(x²) + eps) · weight (arXiv 1910.07467) |
//! | `add_rms_norm` | a, b \[…, D\], weight \[D\] | sum, normed | sum = a + b; normed = rms_norm(sum, weight) |
//! | `split_rms_norm` | x \[T, ΣLᵢ\], weights \[Lᵢ\]…, 2 to 4 | \[T, Lᵢ\]… | rms_norm of each part of the columns of x |
//! | `linear` | x \[R, I\], weight \[N, I\], bias \[N\]? | \[R, N\] | activation(x · weightᵀ + bias) |
//! | `split_linear` | x \[R, I\], weights \[Nᵢ, I\]… | \[R, size\]… | x · weightᵀ of the stacked weights, cut into sizes; no result spans two weights |
//! | `linear_swiglu` | x \[R, I\], gate, up \[N, I\] | \[R, N\] | swiglu(x · gateᵀ, x · upᵀ) |
//! | `norm_split_linear` | a, b \[R, I\], norm \[I\], weights \[Nᵢ, I\]… | sum, \[R, size\]… | sum, x = add_rms_norm(a, b, norm); split_linear(x, weights…) |
//! | `norm_linear_swiglu` | a, b \[R, I\], norm \[I\], gate, up \[N, I\] | sum, y \[R, N\] | sum, x = add_rms_norm(a, b, norm); y = linear_swiglu(x, gate, up) |
//! | `norm_proj_conv` | a, b \[T, I\], norm \[I\], weight \[2C, I\], operands of causal_conv1d after u | sum, y, z \[T, C\], state | sum, u, z = norm_split_linear(a, b, norm, weight); y, state = causal_conv1d(u, …); one token of each sequence |
//! | `slice` | x \[…, C\] | \[…, len\] | columns start … start + len |
//! | `silu` | x | like x | x / (1 + exp(−x)) |
//! | `softplus` | x | like x | log(1 + exp(x)) |
//! | `add` | a, b | like a | a + b |
//! | `mul` | a, b | like a | a · b; b is shaped like a or is one row \[C\] |
//! | `swiglu` | gate, up | like gate | silu(gate) · up (arXiv 2002.05202) |
//! | `causal_conv1d` | u \[T, C\], weight \[C, 1, K\], bias \[C\]?, state \[S, C, K−1\] | y \[T, C\], state | depthwise convolution over the last K inputs of the sequence, then activation; the state holds the last K−1 inputs, oldest first |
//! | `selective_scan` | u \[T, C\], a_log \[C, N\], state \[S, C, N\], operands of its [`Selection`], if gated d \[C\] and z \[T, C\] | y \[T, C\], state | h = exp(Δ · A) · h + Δ · u · B with A = −exp(a_log); y = h · C (arXiv 2312.00752), gated (y + d · u) · silu(z) |
//! | `kv_append` | cache \[S, context, 2, G, E\], k, v \[T, G·E\] | cache | appends the keys and values of the step's tokens to their sequences' caches |
//! | `append_attention` | q, k, v, cache | y, cache | attention over kv_append(cache, k, v); one token of each sequence |
//! | `attention` | q \[T, H·E\], cache | \[T, H·E\] | causal softmax(q · kᵀ · scale) · v; query head h reads KV head h / (H / G); no positions |
//! | `softmax` | x \[T, E\] | \[T, E\] | over the last dimension |
//! | `top_k` | p \[T, E\] | weights f32 \[T, k\], experts i32 \[T, k\] | the k largest, largest first, ties to the lower index; not renormalised |
//! | `moe_permute` | experts i32 \[T, k\] | slots i32 \[T, k\], offsets i32 \[E + 1\] | slots t·k + j sorted by expert (stable); expert e owns slots\[offsets\[e\] … offsets\[e + 1\]\] |
//! | `moe_route` | logits \[T, E\] | weights f32 \[T, k\], slots, offsets | weights, experts = top_k(softmax(logits)); slots, offsets = moe_permute(experts) |
//! | `grouped_linear` | x \[T, I\] or \[T, k, I\], weight \[E, N, I\], slots, offsets | \[T, k, N\] | each slot's row times the weight of the slot's expert |
//! | `grouped_swiglu` | x as grouped_linear's, gate, up \[E, N, I\], slots, offsets | \[T, k, N\] | swiglu(grouped_linear(x, gate), grouped_linear(x, up)) |
//! | `grouped_combine` | h \[T, k, I\], weight \[E, N, I\], weights \[T, k\], slots, offsets | \[T, N\] | moe_combine(grouped_linear(h, weight), weights) |
//! | `moe_combine` | y \[T, k, D\], weights \[T, k\] | \[T, D\] | Σⱼ weights\[t, j\] · y\[t, j\] |
//! | `select_rows` | x \[T, D\], rows i32\[O\] | \[O, D\] | the rows whose logits are computed |
//!
//! # How to add an op
//!
//! 1. Here: a row in the table above and a line in `ops!`, with the attributes. An op with a state has a line in [`Op::state`].
//! 2. `infer.rs`: its signature; limits of its attributes in `check_attributes`; examples in `infer/tests.rs`.
//! 3. `build.rs`: a method, where models emit the op.
//! 4. `kernels/reference/src`: the formula as a function, and a line in `evaluate.rs` that calls it.
//!
//! The text form, attribute checks and random graphs follow from `ops!` and the signature.

use crate::tensor::Type;

mod attribute;
#[macro_use]
mod table;

pub use attribute::AttributeValue;
pub(crate) use attribute::{Attribute, Choose, Reader};

/// The function that a linear or a convolution applies to its biased sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Activation {
    /// The identity.
    None,
    /// x / (1 + exp(−x)).
    Silu,
    /// log(1 + exp(x)).
    Softplus,
}

impl Activation {
    pub const ALL: [Activation; 3] = [Activation::None, Activation::Silu, Activation::Softplus];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Activation::None => "none",
            Activation::Silu => "silu",
            Activation::Softplus => "softplus",
        }
    }
}

/// Most results of a `split_linear` or a `split_rms_norm`.
pub const MAX_PARTS: usize = 4;

/// Rows of one of a `split_linear`'s weights that make one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index of the weight.
    pub weight: usize,
    pub first_row: usize,
    pub rows: usize,
}

/// The rows of each result of a `split_linear`, for result `sizes` and the `rows` of each weight. `None` if a part would span two
/// weights, or if rows are left over.
pub fn parts(sizes: &[usize], rows: &[usize]) -> Option<Vec<Part>> {
    let (mut weight, mut first_row) = (0, 0);
    let mut parts = Vec::with_capacity(sizes.len());
    for &size in sizes {
        let left = rows.get(weight)?.checked_sub(first_row)?;
        if size == 0 || size > left {
            return None;
        }
        parts.push(Part { weight, first_row, rows: size });
        (weight, first_row) = if size == left { (weight + 1, 0) } else { (weight, first_row + size) };
    }
    ((weight, first_row) == (rows.len(), 0)).then_some(parts)
}

/// The source of Δ \[T, C\], B and C \[T, N\] in a selective scan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Selection {
    /// Operands dt \[T, C\], b, c \[T, N\]: Δ, B and C.
    Given,
    /// Operands dt \[T, R\], b, c \[T, N\], dt_weight \[C, R\], dt_bias \[C\]: Δ = softplus(dt · dt_weightᵀ + dt_bias), B and C.
    Projected,
    /// Operands x \[T, R + 2N\], dt_norm \[R\], b_norm, c_norm \[N\], dt_weight, dt_bias: `split_rms_norm` of x gives dt, b and c
    /// of [`Selection::Projected`].
    Normed {
        /// Added to the mean squares.
        eps: f64,
    },
}

impl Selection {
    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Selection::Given => "given",
            Selection::Projected => "projected",
            Selection::Normed { .. } => "normed",
        }
    }

    /// Slots of its operands among the scan's.
    pub fn operands(self) -> std::ops::Range<usize> {
        match self {
            Selection::Given => 3..6,
            Selection::Projected => 3..8,
            Selection::Normed { .. } => 3..9,
        }
    }
}

ops! {
    sources {
        /// A table that the runtime writes in each step: `ids`.
        input: Input,
        /// A tensor of the checkpoint by its canonical name; `*` is every expert's number, stacked in dimension 0.
        parameter: Parameter,
        /// A sequence's memory between steps, `f32[sequences, …]`, keys and values also bf16. The output of the same name is its next
        /// value.
        state: State,
    }
    ops {
        embed: Embed,
        rms_norm: RmsNorm { eps: f64 },
        add_rms_norm: AddRmsNorm { eps: f64 },
        /// As many parts as weights.
        split_rms_norm: SplitRmsNorm { eps: f64 },
        /// The third operand, a bias, is optional.
        linear: Linear { activation: Activation },
        /// Columns of each result, at most [`MAX_PARTS`] of them.
        split_linear: SplitLinear { sizes: Vec<usize> },
        linear_swiglu: LinearSwiglu,
        /// As `split_linear`.
        norm_split_linear: NormSplitLinear { eps: f64, sizes: Vec<usize> },
        norm_linear_swiglu: NormLinearSwiglu { eps: f64 },
        /// As `causal_conv1d`.
        norm_proj_conv: NormProjConv { eps: f64, bias: bool, activation: Activation },
        slice: Slice { start: usize, len: usize },
        silu: Silu,
        softplus: Softplus,
        add: Add,
        mul: Mul,
        swiglu: Swiglu,
        /// The third operand is a bias if `bias` is set; the state is always last.
        causal_conv1d: CausalConv1d { bias: bool, activation: Activation },
        /// `gated` adds the skip d · u and the gate silu(z).
        selective_scan: SelectiveScan { selection: Selection, gated: bool },
        kv_append: KvAppend,
        /// `n_heads` query heads, a multiple of the cache's KV heads.
        attention: Attention { n_heads: usize, scale: f64 },
        append_attention: AppendAttention { n_heads: usize, scale: f64 },
        softmax: Softmax,
        top_k: TopK { k: usize },
        moe_permute: MoePermute { n_experts: usize },
        moe_route: MoeRoute { k: usize },
        grouped_linear: GroupedLinear,
        grouped_swiglu: GroupedSwiglu,
        grouped_combine: GroupedCombine,
        moe_combine: MoeCombine,
        select_rows: SelectRows,
    }
}

/// The slots of an op's old and next state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSlots {
    pub operand: usize,
    pub result: usize,
}

impl Op {
    /// The slots of the state that an op updates.
    pub fn state(&self) -> Option<StateSlots> {
        match self {
            Op::CausalConv1d { bias, .. } => Some(StateSlots { operand: 2 + usize::from(*bias), result: 1 }),
            Op::NormProjConv { bias, .. } => Some(StateSlots { operand: 5 + usize::from(*bias), result: 3 }),
            Op::SelectiveScan { .. } => Some(StateSlots { operand: 2, result: 1 }),
            Op::KvAppend => Some(StateSlots { operand: 0, result: 0 }),
            Op::AppendAttention { .. } => Some(StateSlots { operand: 3, result: 1 }),
            _ => None,
        }
    }
}
