//! The builder for models: one method per op. It panics on misuse, which is a bug in the model's code, not in its input.

use crate::graph::{Graph, ValueId};
use crate::op::{Activation, Op, Selection};
use crate::tensor::{DType, Dim, Type};

/// Builds a graph node by node; [`Builder::scope`] sets the source location of later nodes.
pub struct Builder {
    graph: Graph,
    scope: String,
}

impl Builder {
    pub fn new(name: &str) -> Builder {
        Builder { graph: Graph::new(name), scope: String::new() }
    }

    /// Sets the source of later nodes: `layers.3.mamba`.
    pub fn scope(&mut self, scope: impl Into<String>) {
        self.scope = scope.into();
    }

    /// Steps take one token of each sequence: [`Graph::one_token`].
    pub fn one_token(&mut self) {
        self.graph.one_token = true;
    }

    pub fn finish(self) -> Graph {
        self.graph
    }

    pub(crate) fn add(&mut self, op: Op, operands: &[ValueId]) -> Vec<ValueId> {
        let name = op.name();
        let node = self
            .graph
            .add(op, operands, self.scope.clone())
            .unwrap_or_else(|error| panic!("building {name} in {}: {error}", self.scope));
        (0..self.graph.node(node).results.len()).map(|result| ValueId { node, result }).collect()
    }

    /// The type of a value made so far.
    pub(crate) fn ty(&self, value: ValueId) -> &Type {
        self.graph.ty(value)
    }

    fn add1(&mut self, op: Op, operands: &[ValueId]) -> ValueId {
        self.add(op, operands)[0]
    }

    fn add2(&mut self, op: Op, operands: &[ValueId]) -> (ValueId, ValueId) {
        let results = self.add(op, operands);
        (results[0], results[1])
    }

    /// A table that the runtime fills in each step.
    pub fn input(&mut self, name: &str, ty: Type) -> ValueId {
        self.add1(Op::Input { name: name.into(), ty }, &[])
    }

    /// A tensor of the checkpoint.
    pub fn parameter(&mut self, name: &str, dtype: DType, shape: &[usize]) -> ValueId {
        self.add1(Op::Parameter { name: name.into(), ty: Type::new(dtype, shape.iter().copied()) }, &[])
    }

    /// A sequence's memory between steps: `[sequences, dims…]`.
    pub fn state(&mut self, name: &str, dtype: DType, dims: &[Dim]) -> ValueId {
        let mut shape = vec![Dim::Symbol(crate::tensor::Symbol::Sequences)];
        shape.extend_from_slice(dims);
        self.add1(Op::State { name: name.into(), ty: Type { dtype, shape } }, &[])
    }

    /// Names an output.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.graph.set_output(name, value);
    }

    /// Row of the table per token.
    pub fn embed(&mut self, ids: ValueId, table: ValueId) -> ValueId {
        self.add1(Op::Embed, &[ids, table])
    }

    /// x · rsqrt(mean(x²) + eps) · weight.
    pub fn rms_norm(&mut self, x: ValueId, weight: ValueId, eps: f64) -> ValueId {
        self.add1(Op::RmsNorm { eps }, &[x, weight])
    }

    /// x · weightᵀ + bias.
    pub fn linear(&mut self, x: ValueId, weight: ValueId, bias: Option<ValueId>) -> ValueId {
        let operands: Vec<ValueId> = [x, weight].into_iter().chain(bias).collect();
        self.add1(Op::Linear { activation: Activation::None }, &operands)
    }

    /// Columns start … start + len.
    pub fn slice(&mut self, x: ValueId, start: usize, len: usize) -> ValueId {
        self.add1(Op::Slice { start, len }, &[x])
    }

    /// x / (1 + exp(−x)).
    pub fn silu(&mut self, x: ValueId) -> ValueId {
        self.add1(Op::Silu, &[x])
    }

    /// log(1 + exp(x)).
    pub fn softplus(&mut self, x: ValueId) -> ValueId {
        self.add1(Op::Softplus, &[x])
    }

    /// a + b.
    pub fn add_values(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.add1(Op::Add, &[a, b])
    }

    /// a · b.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.add1(Op::Mul, &[a, b])
    }

    /// Depthwise causal convolution; returns the output and the next state.
    pub fn causal_conv1d(
        &mut self,
        u: ValueId,
        weight: ValueId,
        bias: Option<ValueId>,
        state: ValueId,
    ) -> (ValueId, ValueId) {
        let operands: Vec<ValueId> = [u, weight].into_iter().chain(bias).chain([state]).collect();
        self.add2(Op::CausalConv1d { bias: bias.is_some(), activation: Activation::None }, &operands)
    }

    /// The Mamba-1 recurrence; returns y and the next state.
    pub fn selective_scan(&mut self, operands: Scan) -> (ValueId, ValueId) {
        let Scan { dt, u, a_log, b, c, state } = operands;
        let op = Op::SelectiveScan { selection: Selection::Given, gated: false };
        self.add2(op, &[u, a_log, state, dt, b, c])
    }

    /// Appends keys and values to the cache; returns the next cache.
    pub fn kv_append(&mut self, cache: ValueId, k: ValueId, v: ValueId) -> ValueId {
        self.add1(Op::KvAppend, &[cache, k, v])
    }

    /// Causal attention of q over the cache.
    pub fn attention(&mut self, q: ValueId, cache: ValueId, n_heads: usize, scale: f64) -> ValueId {
        self.add1(Op::Attention { n_heads, scale }, &[q, cache])
    }

    /// Softmax over the last dimension.
    pub fn softmax(&mut self, x: ValueId) -> ValueId {
        self.add1(Op::Softmax, &[x])
    }

    /// The k largest of each row and their indices.
    pub fn top_k(&mut self, p: ValueId, k: usize) -> (ValueId, ValueId) {
        self.add2(Op::TopK { k }, &[p])
    }

    /// Slots sorted by expert, and the offset of each expert's first slot.
    pub fn moe_permute(&mut self, experts: ValueId, n_experts: usize) -> (ValueId, ValueId) {
        self.add2(Op::MoePermute { n_experts }, &[experts])
    }

    /// Each slot's row times the weight of the slot's expert.
    pub fn grouped_linear(&mut self, x: ValueId, weight: ValueId, slots: ValueId, offsets: ValueId) -> ValueId {
        self.add1(Op::GroupedLinear, &[x, weight, slots, offsets])
    }

    /// Weighted sum of each token's experts.
    pub fn moe_combine(&mut self, y: ValueId, weights: ValueId) -> ValueId {
        self.add1(Op::MoeCombine, &[y, weights])
    }

    /// Selects the rows whose logits are computed.
    pub fn select_rows(&mut self, x: ValueId, rows: ValueId) -> ValueId {
        self.add1(Op::SelectRows, &[x, rows])
    }
}

/// Operands of [`Builder::selective_scan`].
pub struct Scan {
    /// Step sizes Δ, after softplus.
    pub dt: ValueId,
    /// Inputs, after convolution and SiLU.
    pub u: ValueId,
    /// log(−A).
    pub a_log: ValueId,
    /// Input matrix B per token.
    pub b: ValueId,
    /// Output matrix C per token.
    pub c: ValueId,
    /// The state h.
    pub state: ValueId,
}
