//! Jamba (arXiv 2403.19887, 2408.12570): layers of Mamba-1 or attention, each followed by a dense MLP or a mixture of
//! experts.

mod attention;
mod config;
mod lora;
mod mamba;
mod mlp;
mod model;
mod moe;
mod packed;
mod parameters;
mod stored;

pub use config::{
    Activation, Head, JambaConfig, kv_bytes_per_token, n_active_parameters, n_parameters, state_bytes_per_sequence,
};
pub use model::{Options, decode, prefill};
pub use parameters::{Parameter, ParameterSpec, Parameters, SCORE_BIAS, bind, bind_adapted, table};
pub use stored::StoredTensor;
