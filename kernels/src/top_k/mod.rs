//! The k largest of each row, largest first; ties go to the lower index. Not renormalised.
//!
//! Bound by latency: rows are short (the experts of a router).

use crate::kernel::{Cost, Counts, Elem, Param, padded};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns.
    pub cols: usize,
    /// How many are taken.
    pub k: usize,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("top_{}_d{}", self.k, self.cols)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        vec![
            Param::read("p", Elem::F32, &[padded(self.cols)]),
            Param::write("weights", Elem::F32, &[padded(self.k)]),
            Param::write("experts", Elem::I32, &[self.k]),
            Param::scalar("rows"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        Cost {
            bytes: (counts.tokens * (self.cols + 2 * self.k)) as f64 * 4.0,
            flops: (counts.tokens * self.cols * self.k) as f64,
        }
    }
}
