//! jambac-passes: graph → graph. [`PIPELINE`] lists the passes; [`PassManager`] runs them.
//!
//! A graph leaves models/ op by op, as Hugging Face computes it. Each fusion is a pass in its own file, on by default, and keeps the
//! result of the interpreter.
//!
//! ```
//! use jambac_graph::text::{print, read};
//! use jambac_passes::{Fusion, PassManager};
//!
//! let mut graph = read(
//!     "graph @g {
//!         %gate = input \"gate\" : f32[tokens, 4]
//!         %up = input \"up\" : f32[tokens, 4]
//!         %silu = silu %gate : f32[tokens, 4]
//!         %y = mul %silu, %up : f32[tokens, 4]
//!         output \"y\" = %y
//!     }",
//! )?;
//! let report = PassManager::new(&Fusion::All).run(&mut graph).unwrap();
//! assert_eq!(report.last_rewrite.as_deref(), Some("fuse-swiglu: mul"));
//! assert!(print(&graph).contains("%2 = swiglu %0, %1 : f32[tokens, 4]"));
//! # Ok::<(), jambac_graph::Error>(())
//! ```
//!
//! To add a pass: a file with a [`Pass`] and its tests, and a line in [`PIPELINE`] with its ordering constraints.

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
mod fuse_norm_linear;
mod fuse_norms_scan;
mod fuse_proj_conv;
mod fuse_qkv;
mod fuse_residual_norm;
mod fuse_router;
mod fuse_scan_gate;
mod fuse_swiglu;
mod fusion;
mod hoist_select_rows;
mod pass;
mod pipeline;
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
pub use fuse_norm_linear::FuseNormLinear;
pub use fuse_norms_scan::FuseNormsScan;
pub use fuse_proj_conv::FuseProjConv;
pub use fuse_qkv::FuseQkv;
pub use fuse_residual_norm::FuseResidualNorm;
pub use fuse_router::FuseRouter;
pub use fuse_scan_gate::FuseScanGate;
pub use fuse_swiglu::FuseSwiglu;
pub use fusion::Fusion;
pub use hoist_select_rows::HoistSelectRows;
pub use pass::{Pass, PassManager, PassReport, Report};
pub use pipeline::{Order, PIPELINE, Planned, check_order, fused_ops};
pub use rewrite::{Changed, Rewriter, rewrite_each};

#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
