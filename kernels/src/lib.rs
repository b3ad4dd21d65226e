//! jambac-kernels: the kernel catalog. Specs, operands and minimum costs are always compiled; MLIR bodies require the
//! feature `emit`.
//!
//! [`catalog`] lists the kernels, one per line. Each kernel has one folder: `mod.rs` holds its spec, the lowering from a
//! graph node, operands and cost; `cpu.rs` and `hopper.rs` hold target-specific parts and the bodies.

#![cfg_attr(not(feature = "emit"), allow(dead_code, reason = "bodies use what the catalog alone does not"))]

pub mod cases;
pub mod catalog;
mod cost;
pub mod cpu;
mod elem;
pub mod hopper;
pub mod kernel;
pub mod node;
mod operand;
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
