//! Softmax over a row.
//!
//!     out[r, i] = exp(x[r, i] − max x[r, :]) / Σⱼ exp(x[r, j] − max x[r, :])
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
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("softmax_d{}", self.cols)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = &[padded(self.cols)];
        vec![Param::read("x", Elem::F32, row), Param::write("out", Elem::F32, row), Param::scalar("rows")]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let elements = (counts.tokens * self.cols) as f64;
        Cost { bytes: elements * 8.0, flops: elements * 12.0 }
    }
}
