//! The dense feed-forward: SwiGLU (arXiv 2002.05202).

use jambac_graph::ValueId;

use crate::jamba::model::Model;

/// down(silu(gate(x)) · up(x)); x is normalised.
pub(super) fn feed_forward(m: &mut Model, x: ValueId) -> ValueId {
    let gate = m.linear(x, "feed_forward.gate_proj");
    let up = m.linear(x, "feed_forward.up_proj");
    let gate = m.b.silu(gate);
    let y = m.b.mul(gate, up);
    m.linear(y, "feed_forward.down_proj")
}
