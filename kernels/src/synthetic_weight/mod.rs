//! Rows of a synthetic weight, bit-identical to [`jamba_plan::synthetic::fill`].
//!
//! ```text
//! bits = mix(key + i · 0x9e3779b97f4a7c15)        SplitMix64's mix of a counter; i as in jamba_plan::synthetic::DrawnRows
//! x    = (the sum of its four quarters − 131070) · scale + offset     for a normal distribution
//! x    = (its upper 24 bits) · scale + offset                         for a uniform distribution
//! out  = x as f32, rounded to bf16, or x / unit rounded to int8 or E4M3
//! ```
//!
//! Only for GPUs, when a plan is opened: the weights need not be copied to the GPU.

use jamba_plan::format::TargetKind;

use crate::kernel::{Config, Elem, Kernel, Launch, Unsupported};

mod hopper;

/// Draws weights of one format.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Stored type of the values: f32, bf16, int8 or fp8.
    pub format: Elem,
}

impl Kernel for Spec {
    fn supports(&self, target: TargetKind) -> Result<(), Unsupported> {
        match target {
            TargetKind::Sm90a => Ok(()),
            TargetKind::Cpu => Err(Unsupported("synthetic weights are drawn by the runtime, expected a GPU".into())),
        }
    }

    fn lower(&self, _: TargetKind, _: Config) -> Vec<Launch> {
        vec![hopper::launch(self)]
    }
}
