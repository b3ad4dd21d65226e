//! Weighted sum of each token's experts.
//!
//!     out[t, i] = Σⱼ weights[t, j] · y[t · top_k + j, i]         j from 0 to top_k − 1
//!
//! Bound by memory.

use crate::kernel::{Cost, Counts, Elem, Param, padded};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns.
    pub cols: usize,
    /// Experts per token.
    pub top_k: usize,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("moe_combine_d{}_k{}", self.cols, self.top_k)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = &[padded(self.cols)];
        vec![
            Param::read("y", Elem::F32, row),
            Param::read("weights", Elem::F32, &[padded(self.top_k)]),
            Param::write("out", Elem::F32, row),
            Param::scalar("rows"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let elements = (counts.tokens * self.cols) as f64;
        let top_k = self.top_k as f64;
        Cost { bytes: elements * 4.0 * (top_k + 1.0), flops: elements * 2.0 * top_k }
    }
}
