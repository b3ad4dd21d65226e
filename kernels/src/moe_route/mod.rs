//! From a router's logits to the experts' shares of the step: softmax, the k largest, slots sorted by expert.
//!
//!     p = softmax(logits[t, :]);  weights[t, j] = the j-th largest p[e], of equals the lowest e;  experts[t, j] = that e
//!     slots[offsets[e] … offsets[e + 1]] = the slots t · top_k + j with experts[t, j] = e, ascending
//!
//! The same bits as [`crate::softmax`], [`crate::top_k`] and [`crate::moe_permute`] one after the other. Weights are not
//! renormalised. `experts` is the kernel's own workspace.
//! Bound by latency: tokens · n_experts numbers.

use crate::kernel::{Cost, Counts, Elem, Param, padded};

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
        format!("moe_route_e{}_k{}", self.n_experts, self.top_k)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        vec![
            Param::read("logits", Elem::F32, &[padded(self.n_experts)]),
            Param::write("weights", Elem::F32, &[padded(self.top_k)]),
            Param::write("slots", Elem::I32, &[]),
            Param::write("offsets", Elem::I32, &[]),
            Param::write("experts", Elem::I32, &[self.top_k]),
            Param::scalar("rows"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let rows = counts.tokens as f64;
        let (n_experts, top_k) = (self.n_experts as f64, self.top_k as f64);
        Cost { bytes: (rows * (n_experts + 3.0 * top_k) + n_experts) * 4.0, flops: rows * n_experts * (12.0 + top_k) }
    }
}
