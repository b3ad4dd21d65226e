//! jambac-passes: graph → graph. [`PIPELINE`] lists the passes; [`PassManager`] runs them.
//!
//! A graph leaves models/ as Hugging Face computes it, op by op. Each fusion is a pass in a file of its own, on unless switched off,
//! and keeps the answer of the interpreter.

mod eliminate_dead;
mod error;
mod fuse_conv_silu;
mod fuse_dt_norms;
mod fuse_dt_scan;
mod fuse_dt_softplus;
mod fuse_experts;
mod fuse_gate_up;
mod fuse_in_proj;
mod fuse_kv_append;
mod fuse_norms_scan;
mod fuse_qkv;
mod fuse_residual_norm;
mod fuse_router;
mod fuse_scan_gate;
mod fuse_swiglu;
mod fusion;
mod hoist_select_rows;
mod pass;
mod rewrite;

pub use eliminate_dead::EliminateDead;
pub use error::Error;
pub use fuse_conv_silu::FuseConvSilu;
pub use fuse_dt_norms::FuseDtNorms;
pub use fuse_dt_scan::FuseDtScan;
pub use fuse_dt_softplus::FuseDtSoftplus;
pub use fuse_experts::FuseExperts;
pub use fuse_gate_up::FuseGateUp;
pub use fuse_in_proj::FuseInProj;
pub use fuse_kv_append::FuseKvAppend;
pub use fuse_norms_scan::FuseNormsScan;
pub use fuse_qkv::FuseQkv;
pub use fuse_residual_norm::FuseResidualNorm;
pub use fuse_router::FuseRouter;
pub use fuse_scan_gate::FuseScanGate;
pub use fuse_swiglu::FuseSwiglu;
pub use fusion::Fusion;
pub use hoist_select_rows::HoistSelectRows;
pub use pass::{AnyPass, Pass, PassManager, PassReport, Report};
pub use rewrite::{Changed, Rewriter};

/// Every pass in the order in which they run, and why it stands there.
pub const PIPELINE: &[(&dyn AnyPass, &str)] = &[
    (&EliminateDead, "first: a dead reader keeps a value from being fused; fusions leave none"),
    (&FuseConvSilu, "anywhere: nothing else takes a convolution"),
    (&FuseDtSoftplus, "anywhere: nothing else takes a linear"),
    (&FuseDtNorms, "before fusions of a linear with slices of its result, which would take x_proj's"),
    (&FuseDtScan, "after fuse-dt-softplus: takes the linear with its softplus"),
    (&FuseNormsScan, "after fuse-dt-norms and fuse-dt-scan: takes what both leave"),
    (&FuseScanGate, "before fuse-swiglu, which would take the gate's silu and mul"),
    (
        &HoistSelectRows,
        "after fuse-scan-gate, so that no scan loses its gate; before other fusions: it moves single ops",
    ),
    (&FuseSwiglu, "after fuse-scan-gate: what is left of silu and mul is a feed-forward"),
    (&FuseInProj, "after fuse-dt-norms, which takes the slices of x_proj"),
    (&FuseQkv, "before fuse-kv-append, which takes the attention that it starts from"),
    (&FuseGateUp, "after fuse-swiglu: takes its swiglu where gate and up are linears"),
    (&FuseRouter, "anywhere: nothing else takes a softmax"),
    (&FuseExperts, "after fuse-swiglu, whose result it takes"),
    (&FuseKvAppend, "anywhere: nothing else takes an attention"),
    (&FuseResidualNorm, "anywhere: nothing else takes a norm"),
];

#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
