//! Gate and up of a feed-forward, and their product: neither is stored.
//!
//!     out[r, i] = silu(Σⱼ x[r, j] · gate[i, j]) · Σⱼ x[r, j] · up[i, j]
//!
//! The panels of [`crate::linear`], a panel of gate before each panel of up, so that one thread has both sums in registers at the
//! same time. The sums are those of two linears, bit for bit.
//! Bound as two linears: by the weights for few rows, by multiply-adds for many.

use crate::cpu::integer;
use crate::kernel::{Cost, Counts, Elem, Param, Rows, padded};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Outputs, as many as gate and up have rows.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Stored type of both weights.
    pub format: Elem,
    /// What the rows are.
    pub rows: Rows,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("linear_swiglu_{}_n{}_k{}", self.format.name(), self.n, self.k)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let mut params = vec![Param::read("x", Elem::F32, &[padded(self.k)]), Param::read("weight", self.format, &[])];
        params.extend(integer::scales(self.format));
        params.extend([Param::write("out", Elem::F32, &[padded(self.n)]), Param::scalar("rows")]);
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let rows = self.rows.count(counts) as f64;
        let weights = 2.0 * integer::weight_bytes(self.format, self.n, self.k);
        let (n, k) = (self.n as f64, self.k as f64);
        // Five for each swiglu.
        Cost { bytes: weights + rows * (n + k) * 4.0, flops: rows * n * (4.0 * k + 5.0) }
    }
}
