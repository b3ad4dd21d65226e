//! The mixture of experts: softmax over all experts, then the top k, not renormalised; no shared expert, no capacity.

use jambac_graph::ValueId;

use crate::jamba::model::Model;

/// Σ over a token's experts of probability · SwiGLU MLP; x is normalised.
pub(super) fn feed_forward(m: &mut Model, x: ValueId) -> ValueId {
    let scores = m.linear(x, "feed_forward.router");
    let probabilities = m.b.softmax(scores);
    let (weights, experts) = m.b.top_k(probabilities, m.config.top_k);
    let (slots, offsets) = m.b.moe_permute(experts, m.config.n_experts);

    let gate_proj = m.weight("feed_forward.experts.*.gate_proj.weight");
    let up_proj = m.weight("feed_forward.experts.*.up_proj.weight");
    let down_proj = m.weight("feed_forward.experts.*.down_proj.weight");
    let gate = m.b.grouped_linear(x, gate_proj, slots, offsets);
    let up = m.b.grouped_linear(x, up_proj, slots, offsets);
    let gate = m.b.silu(gate);
    let y = m.b.mul(gate, up);
    let y = m.b.grouped_linear(y, down_proj, slots, offsets);
    m.b.moe_combine(y, weights)
}
