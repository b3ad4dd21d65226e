//! Weighted sum of each token's experts, straight from their products.
//!
//!     out[t, i] = Σ weights[t, j] · (Σₗ x[t · top_k + j, l] · weight[e, i, l])         e the expert of slot t · top_k + j
//!
//! The outer sum runs in the order of the experts' numbers, whatever the order of the token's choices, from 0 on, by
//! multiply-adds in f32: the same for a token alone and in any batch. The products are never stored.
//! Bound by the weights of the experts in use for few tokens, by multiply-adds for many.

use crate::cpu::integer;
use crate::kernel::{Cost, Counts, Elem, Param, Rows, padded};

#[cfg(feature = "emit")]
pub(crate) mod cpu;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Experts.
    pub n_experts: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Stored type of the weights.
    pub format: Elem,
    /// Experts per token.
    pub top_k: usize,
    /// What the tokens are.
    pub rows: Rows,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        let &Spec { n_experts, n, k, top_k, .. } = self;
        format!("grouped_combine_{}_e{n_experts}_n{n}_k{k}_t{top_k}", self.format.name())
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let mut params = vec![Param::read("x", Elem::F32, &[padded(self.k)]), Param::read("weight", self.format, &[])];
        params.extend(integer::scales(self.format));
        params.extend([
            Param::read("weights", Elem::F32, &[padded(self.top_k)]),
            Param::read("slots", Elem::I32, &[]),
            Param::read("offsets", Elem::I32, &[]),
            Param::write("out", Elem::F32, &[padded(self.n)]),
            Param::scalar("rows"),
        ]);
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let rows = self.rows.count(counts);
        let (slots, experts) = ((rows * self.top_k) as f64, (rows * self.top_k).min(self.n_experts) as f64);
        let (n, k) = (self.n as f64, self.k as f64);
        let weights = experts * integer::weight_bytes(self.format, self.n, self.k);
        Cost { bytes: weights + (slots * k + rows as f64 * n) * 4.0, flops: slots * n * (2.0 * k + 2.0) }
    }
}
