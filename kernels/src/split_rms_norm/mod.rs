//! RMS norm (arXiv 1910.07467) of the parts of a row, each by itself.
//!
//!     out_p[r, i] = x[r, start_p + i] · weight_p[i] / sqrt(mean(part²) + eps)       part = x[r, start_p … start_p + cols_p]
//!
//! Bound by memory: each row read once and written once.

use jambac_graph::op::MAX_PARTS;

use crate::kernel::{Cost, Counts, Elem, Param, Rows, padded};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

/// Names of the slots of each part.
const SLOTS: [(&str, &str); MAX_PARTS] =
    [("weight_0", "out_0"), ("weight_1", "out_1"), ("weight_2", "out_2"), ("weight_3", "out_3")];

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns of each part, one after another; [`MAX_PARTS`] at most.
    pub parts: Vec<usize>,
    /// Added to the means of squares.
    pub eps: f64,
    /// What the rows are.
    pub rows: Rows,
}

impl Spec {
    /// The slots of the parts in order: weight and result.
    pub fn slots(&self) -> &'static [(&'static str, &'static str)] {
        &SLOTS[..self.parts.len()]
    }

    /// The number of a part by the name of its weight's slot.
    pub fn part_of(&self, weight: &str) -> Option<usize> {
        self.slots().iter().position(|&(name, _)| name == weight)
    }

    fn cols(&self) -> usize {
        self.parts.iter().sum()
    }

    pub(crate) fn symbol(&self) -> String {
        let parts: Vec<String> = self.parts.iter().map(usize::to_string).collect();
        format!("split_rms_norm_d{}_e{:x}", parts.join("_"), (self.eps as f32).to_bits())
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let slots = || self.slots().iter().zip(&self.parts);
        let mut params = vec![Param::read("x", Elem::F32, &[padded(self.cols())])];
        params.extend(slots().map(|(&(weight, _), _)| Param::read(weight, Elem::F32, &[])));
        params.extend(slots().map(|(&(_, out), &cols)| Param::write(out, Elem::F32, &[padded(cols)])));
        params.push(Param::scalar("rows"));
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let elements = (self.rows.count(counts) * self.cols()) as f64;
        Cost { bytes: elements * 8.0, flops: elements * 4.0 }
    }
}
