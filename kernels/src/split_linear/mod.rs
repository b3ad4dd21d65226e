//! Matrix products of one value whose results go to several places: in_proj's two halves, queries, keys and values.
//!
//!     outₚ[r, i] = Σⱼ x[r, j] · weightₚ[i, j]      for every part p
//!
//! The panels of [`crate::linear`], part after part, each part padded to whole panels: no panel holds outputs of two parts. The
//! panels of all parts are shared out together, and every sum is that of a linear of its part alone, bit for bit.
//! Bound as a linear of all outputs: by the weights for few rows, by multiply-adds for many.

use crate::cpu::integer;
use crate::kernel::{Cost, Counts, Elem, Param, Rows, padded};
use jambac_graph::op::MAX_PARTS;

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

/// The slots of the parts' results.
pub const OUTS: [&str; MAX_PARTS] = ["out0", "out1", "out2", "out3"];

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Outputs of each part, 1 … [`MAX_PARTS`] of them.
    pub sizes: Vec<usize>,
    /// Inputs.
    pub k: usize,
    /// Stored type of the weights.
    pub format: Elem,
    /// What the rows are.
    pub rows: Rows,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        let sizes: Vec<String> = self.sizes.iter().map(usize::to_string).collect();
        format!("split_linear_{}_n{}_k{}", self.format.name(), sizes.join("_"), self.k)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let mut params = vec![Param::read("x", Elem::F32, &[padded(self.k)]), Param::read("weight", self.format, &[])];
        params.extend(integer::scales(self.format));
        params.extend(OUTS.iter().zip(&self.sizes).map(|(name, &n)| Param::write(name, Elem::F32, &[padded(n)])));
        params.push(Param::scalar("rows"));
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let rows = self.rows.count(counts) as f64;
        let n = self.sizes.iter().sum();
        let weight = integer::weight_bytes(self.format, n, self.k);
        let (n, k) = (n as f64, self.k as f64);
        Cost { bytes: weight + rows * (n + k) * 4.0, flops: 2.0 * rows * n * k }
    }
}
