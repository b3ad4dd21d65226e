//! Columns of a row, as rows of their own.
//!
//!     out[r, i] = x[r, start + i]
//!
//! Bound by memory: the columns read and written once.

use crate::kernel::{Cost, Counts, Elem, Param, padded};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns of x.
    pub cols: usize,
    /// First column taken.
    pub start: usize,
    /// Columns taken.
    pub len: usize,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("slice_d{}_s{}_n{}", self.cols, self.start, self.len)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        vec![
            Param::read("x", Elem::F32, &[padded(self.cols)]),
            Param::write("out", Elem::F32, &[padded(self.len)]),
            Param::scalar("rows"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        Cost { bytes: (counts.tokens * self.len) as f64 * 8.0, flops: 0.0 }
    }
}
