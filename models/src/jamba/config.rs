//! Sizes of weights and of state, from the dimensions alone.
//!
//! [`JambaConfig`] lists every dimension with its Hugging Face key.

pub use jambac_checkpoint::{Activation, Head, JambaConfig};
use jambac_graph::DType;

use crate::jamba::parameters::{ParameterSpec, table};

/// Elements of all parameters.
pub fn n_parameters(config: &JambaConfig) -> usize {
    table(config).iter().map(ParameterSpec::n_elements).sum()
}

/// Elements of the parameters that are active for one token: without the experts that the router does not select.
pub fn n_active_parameters(config: &JambaConfig) -> usize {
    let active = |spec: &ParameterSpec| match spec.shape[0] {
        n_experts if spec.is_stacked() => spec.n_elements() / n_experts * config.top_k,
        _ => spec.n_elements(),
    };
    table(config).iter().map(active).sum()
}

/// Bytes of KV cache per token, over all attention layers.
pub fn kv_bytes_per_token(config: &JambaConfig, kv_dtype: DType) -> usize {
    let n_attention = (0..config.n_layers).filter(|&layer| config.is_attention(layer)).count();
    n_attention * 2 * config.n_kv_heads * config.d_head * kv_dtype.bytes()
}

/// Bytes of convolution and SSM state per sequence, over all Mamba layers, in f32.
pub fn state_bytes_per_sequence(config: &JambaConfig) -> usize {
    let n_mamba = (0..config.n_layers).filter(|&layer| !config.is_attention(layer)).count();
    n_mamba * config.d_inner * (config.d_conv - 1 + config.d_state) * DType::F32.bytes()
}

#[cfg(test)]
mod tests;
