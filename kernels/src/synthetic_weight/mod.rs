//! Rows of a synthetic weight, with the bits of [`jamba_plan::synthetic::fill`].
//!
//!     bits = mix(key + i · 0x9e3779b97f4a7c15)               SplitMix64's mix of a counter; i as jamba_plan::synthetic::DrawnRows says
//!     x    = (the sum of its four quarters − 131070) · scale + offset     of a normal distribution
//!     x    = (its upper 24 bits) · scale + offset                         of a uniform one
//!     out  = x as f32, rounded to bf16, or round(x / unit) as int8
//!
//! For a GPU only, when a plan is opened: the weights need not travel to it.

use jamba_plan::format::TargetKind;

use crate::kernel::{Config, Elem, Kernel, Launch, Unsupported};

mod hopper;

/// Draws of the weights of one format.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Stored type of the values: f32, bf16 or int8.
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
