//! Slots sorted by expert: a counting sort by the first thread, stable.
//!
//!     slots[offsets[e] … offsets[e + 1]] = the slots t · top_k + j with experts[t, j] = e, ascending
//!
//! Bound by latency: tokens · top_k integers.

use crate::kernel::{Cost, Counts, Elem, Param};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Experts.
    pub n_experts: usize,
    /// Experts per token.
    pub top_k: usize,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("moe_permute_e{}_k{}", self.n_experts, self.top_k)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        vec![
            Param::read("experts", Elem::I32, &[self.top_k]),
            Param::write("slots", Elem::I32, &[]),
            Param::write("offsets", Elem::I32, &[]),
            Param::scalar("rows"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        Cost { bytes: (counts.tokens * self.top_k * 3 + self.n_experts) as f64 * 4.0, flops: 0.0 }
    }
}
