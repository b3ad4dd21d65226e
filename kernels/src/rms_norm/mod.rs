//! RMS norm (arXiv 1910.07467), with the residual sum before it where fused.
//!
//!     s = a + b                       (fused form only; s is written too)
//!     y[r, i] = s[r, i] · weight[i] / sqrt(mean(s[r, :]²) + eps)
//!
//! Bound by memory: each row read once and written once.

use crate::kernel::{Cost, Counts, Elem, Param, Rows, padded};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns.
    pub cols: usize,
    /// Added to the mean of squares.
    pub eps: f64,
    /// True of `add_rms_norm`: two inputs are summed, and the sum is a result.
    pub residual: bool,
    /// What the rows are.
    pub rows: Rows,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        let name = if self.residual { "add_rms_norm" } else { "rms_norm" };
        format!("{name}_d{}_e{:x}", self.cols, (self.eps as f32).to_bits())
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = &[padded(self.cols)];
        let mut params = vec![Param::read("a", Elem::F32, row)];
        if self.residual {
            params.push(Param::read("b", Elem::F32, row));
        }
        params.push(Param::read("weight", Elem::F32, &[]));
        if self.residual {
            params.push(Param::write("sum", Elem::F32, row));
        }
        params.extend([Param::write("out", Elem::F32, row), Param::scalar("rows")]);
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let streams = if self.residual { 4.0 } else { 2.0 };
        let elements = (self.rows.count(counts) * self.cols) as f64;
        Cost { bytes: elements * 4.0 * streams, flops: elements * if self.residual { 5.0 } else { 4.0 } }
    }
}
