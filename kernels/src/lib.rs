//! jambac-kernels: the catalog of kernels. What each computes, its arguments and its least cost are always here; the MLIR
//! bodies stand behind the feature `emit`.
//!
//! [`kernel::Kernel`] lists them all; a kernel is one folder: `mod.rs` holds what is true on every target, `cpu.rs` one way
//! of doing it.

mod amount;
pub mod cases;
pub mod cpu;
pub mod hopper;
pub mod kernel;
pub mod target;

pub mod attention;
pub mod causal_conv1d;
pub mod elementwise;
pub mod embed;
pub mod grouped_combine;
pub mod grouped_linear;
pub mod grouped_swiglu;
pub mod kv_append;
pub mod linear;
pub mod linear_swiglu;
pub mod moe_combine;
pub mod moe_gather;
pub mod moe_permute;
pub mod moe_route;
pub mod rms_norm;
pub mod sample;
pub mod select_rows;
pub mod selective_scan;
pub mod slice;
pub mod softmax;
pub mod split_linear;
pub mod split_rms_norm;
pub mod synthetic_weight;
pub mod top_k;
