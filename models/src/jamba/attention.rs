//! Grouped-query attention without positional encoding: in Jamba the Mamba layers carry the position.

use jambac_graph::ValueId;

use crate::jamba::model::Model;

/// The attention mixer of a layer; x is normalised.
pub(super) fn mixer(m: &mut Model, layer: usize, x: ValueId) -> ValueId {
    let q = m.linear(x, "self_attn.q_proj");
    let k = m.linear(x, "self_attn.k_proj");
    let v = m.linear(x, "self_attn.v_proj");
    let cache = m.kv_cache(layer);
    let cache = m.b.kv_append(cache, k, v);
    m.next_state(layer, "kv", cache);
    let scale = 1.0 / (m.config.d_head as f64).sqrt();
    let y = m.b.attention(q, cache, m.config.n_heads, scale);
    m.linear(y, "self_attn.o_proj")
}
