//! Mamba-1 (arXiv 2312.00752) with Jamba's three norms on Δ, B and C.

use jambac_graph::ValueId;
use jambac_graph::build::Scan;

use crate::jamba::config::JambaConfig;
use crate::jamba::model::Model;

/// The Mamba mixer of a layer; x is normalised.
pub(super) fn mixer(m: &mut Model, layer: usize, x: ValueId) -> ValueId {
    let &JambaConfig { d_inner, d_state, d_conv, dt_rank, conv_bias, proj_bias, .. } = m.config;

    let uz = if proj_bias { m.linear_with_bias(x, "mamba.in_proj") } else { m.linear(x, "mamba.in_proj") };
    let u = m.b.slice(uz, 0, d_inner);
    let z = m.b.slice(uz, d_inner, d_inner);

    let taps = m.weight("mamba.conv1d.weight");
    let bias = if conv_bias { Some(m.weight("mamba.conv1d.bias")) } else { None };
    let state = m.recurrent_state(layer, "conv", [d_inner, d_conv - 1]);
    let (u, state) = m.b.causal_conv1d(u, taps, bias, state);
    m.next_state(layer, "conv", state);
    let u = m.b.silu(u);

    let dt_b_c = m.linear(u, "mamba.x_proj");
    let dt = m.b.slice(dt_b_c, 0, dt_rank);
    let b = m.b.slice(dt_b_c, dt_rank, d_state);
    let c = m.b.slice(dt_b_c, dt_rank + d_state, d_state);
    let dt = m.norm(dt, "mamba.dt_layernorm");
    let b = m.norm(b, "mamba.b_layernorm");
    let c = m.norm(c, "mamba.c_layernorm");
    let dt = m.linear_with_bias(dt, "mamba.dt_proj");
    let dt = m.b.softplus(dt);

    let a_log = m.weight("mamba.A_log");
    let state = m.recurrent_state(layer, "ssm", [d_inner, d_state]);
    let (y, state) = m.b.selective_scan(Scan { dt, u, a_log, b, c, state });
    m.next_state(layer, "ssm", state);

    let d = m.weight("mamba.D");
    let skip = m.b.mul(u, d);
    let y = m.b.add_values(y, skip);
    let gate = m.b.silu(z);
    let y = m.b.mul(y, gate);
    if proj_bias { m.linear_with_bias(y, "mamba.out_proj") } else { m.linear(y, "mamba.out_proj") }
}
