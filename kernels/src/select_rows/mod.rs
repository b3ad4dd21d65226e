//! The rows whose logits are wanted.
//!
//!     out[i, :] = x[rows[i], :]
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
        format!("select_rows_d{}", self.cols)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = &[padded(self.cols)];
        vec![
            Param::read("x", Elem::F32, row),
            Param::read("rows", Elem::I32, &[]),
            Param::write("out", Elem::F32, row),
            Param::scalar("outputs"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        Cost { bytes: (counts.outputs * self.cols) as f64 * 8.0, flops: 0.0 }
    }
}
