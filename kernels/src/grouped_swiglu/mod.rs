//! Gate, up and their product, of each slot with the weights of the slot's expert.
//!
//!     for every expert e and every slot s of slots[offsets[e] … offsets[e + 1]], with r = s / slots_per_row:
//!         out[s, i] = silu(Σⱼ x[r, j] · gate[e, i, j]) · Σⱼ x[r, j] · up[e, i, j]
//!
//! The weight holds gate and up of each expert, a panel of gate before its panel of up; neither product is stored. The bits
//! are those of [`crate::grouped_linear`] twice and of a swiglu.
//! Bound by the weights of the experts in use for few tokens, by multiply-adds for many.

use crate::cpu::integer;
use crate::kernel::{Cost, Counts, Elem, Param, Rows, padded};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

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
    /// Slots that share a row of x: top_k when x has a row per token, 1 when it has a row per slot.
    pub slots_per_row: usize,
    /// Experts per token.
    pub top_k: usize,
    /// What the tokens are.
    pub rows: Rows,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        let &Spec { n_experts, n, k, slots_per_row, .. } = self;
        format!("grouped_swiglu_{}_e{n_experts}_n{n}_k{k}_s{slots_per_row}", self.format.name())
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let mut params = vec![Param::read("x", Elem::F32, &[padded(self.k)]), Param::read("weight", self.format, &[])];
        params.extend(integer::scales(self.format));
        params.extend([
            Param::read("slots", Elem::I32, &[]),
            Param::read("offsets", Elem::I32, &[]),
            Param::write("out", Elem::F32, &[padded(self.n)]),
        ]);
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let n_slots = self.rows.count(counts) * self.top_k;
        let (slots, experts) = (n_slots as f64, n_slots.min(self.n_experts) as f64);
        let (n, k) = (self.n as f64, self.k as f64);
        let inputs = slots / self.slots_per_row as f64;
        let weights = experts * 2.0 * integer::weight_bytes(self.format, self.n, self.k);
        Cost { bytes: weights + (slots * n + inputs * k) * 4.0, flops: slots * n * (4.0 * k + 5.0) }
    }
}
