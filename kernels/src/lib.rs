//! jambac-kernels: the kernel catalog. Specs, operands and minimum costs are always compiled; MLIR bodies require the
//! feature `emit`.
//!
//! The catalog is the list of kernels at the end of this file, one line each; nothing else names all of them. Each kernel has
//! one folder: `mod.rs` holds its spec, how it is made of a graph node, operands and cost; `cpu.rs` and `hopper.rs` hold
//! target-specific parts and the bodies.
//!
//! ```
//! use jamba_plan::format::TargetKind;
//! use jambac_kernels::kernel::{Config, Elem, Kernel};
//! use jambac_kernels::rms_norm;
//!
//! let norm = rms_norm::Spec { cols: 64, eps: 1e-6, residual: false, out: Elem::F32 };
//! norm.supports(TargetKind::Sm90a)?;
//! let launches = norm.lower(TargetKind::Sm90a, Config::Only);
//! assert_eq!(launches[0].symbol, "rms_norm_f32_d64_e358637bd_sm90");
//! assert_eq!(launches[0].operands.len(), 4); // a, weight, out, rows
//! # Ok::<(), jambac_kernels::kernel::Unsupported>(())
//! ```

#![cfg_attr(not(feature = "emit"), allow(dead_code, reason = "bodies use what the catalog alone does not"))]

pub mod cases;
pub mod catalog;
mod cost;
pub mod cpu;
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
pub mod norm_linear;
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

// The catalog: the spec, its folder, and the ops of the graph that the folder computes.
catalog::catalog! {
    ops {
        Embed(embed): "embed";
        RmsNorm(rms_norm): "rms_norm" | "add_rms_norm";
        SplitRmsNorm(split_rms_norm): "split_rms_norm";
        Linear(linear): "linear";
        SplitLinear(split_linear): "split_linear";
        LinearSwiglu(linear_swiglu): "linear_swiglu";
        NormLinear(norm_linear): "norm_split_linear" | "norm_linear_swiglu" | "norm_proj_conv";
        GroupedLinear(grouped_linear): "grouped_linear";
        GroupedSwiglu(grouped_swiglu): "grouped_swiglu";
        GroupedCombine(grouped_combine): "grouped_combine";
        Slice(slice): "slice";
        Elementwise(elementwise): "silu" | "softplus" | "add" | "mul" | "swiglu";
        CausalConv1d(causal_conv1d): "causal_conv1d";
        SelectiveScan(selective_scan): "selective_scan";
        KvAppend(kv_append): "kv_append";
        Attention(attention): "attention" | "append_attention";
        Softmax(softmax): "softmax";
        TopK(top_k): "top_k";
        MoePermute(moe_permute): "moe_permute";
        MoeRoute(moe_route): "moe_route";
        MoeCombine(moe_combine): "moe_combine";
        SelectRows(select_rows): "select_rows";
    }
    // Kernels that no op of the graph names: a GPU picks tokens and draws synthetic weights.
    others {
        SampleArgmax(sample::hopper::argmax);
        SampleDraw(sample::hopper::draw);
        SyntheticWeight(synthetic_weight);
    }
}
