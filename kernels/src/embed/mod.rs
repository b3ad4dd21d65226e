//! Row of the embedding table per token.
//!
//!     out[t, :] = table[ids[t], :]
//!
//! Bound by memory: tokens · d_model elements of the table read, as many f32 written.
//! A tied table lies in the panels of the output projection (16 rows side by side) and is read from there.

use crate::kernel::{Cost, Counts, Elem, Param, padded};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns.
    pub d_model: usize,
    /// Stored type of the table.
    pub format: Elem,
    /// Rows side by side in the table's layout: 1 (row-major) or [`crate::kernel::LANES`].
    pub lanes: usize,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("embed_{}_d{}_l{}", self.format.name(), self.d_model, self.lanes)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        vec![
            Param::read("ids", Elem::I32, &[]),
            Param::read("table", self.format, &[]),
            Param::write("out", Elem::F32, &[padded(self.d_model)]),
            Param::scalar("tokens"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let elements = (counts.tokens * self.d_model) as f64;
        Cost { bytes: elements * (self.format.bytes() + 4) as f64, flops: 0.0 }
    }
}
