//! Matrix product of each slot with the weight of the slot's expert.
//!
//!     for every expert e and every slot s of slots[offsets[e] … offsets[e + 1]]:
//!         out[s, i] = Σⱼ x[s / slots_per_row, j] · weight[e, i, j]
//!
//! A slot is token · top_k + choice. The panels of [`crate::linear`], one stack per expert; each expert's weights are read once
//! per step and only when it has slots.
//! Bound by the weights of the experts in use for few tokens, by multiply-adds for many.

use crate::cpu::integer;
use crate::kernel::{Cost, Counts, Elem, Param, padded};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
#[cfg(feature = "emit")]
pub(crate) mod experts;
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
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!(
            "grouped_linear_{}_e{}_n{}_k{}_s{}",
            self.format.name(),
            self.n_experts,
            self.n,
            self.k,
            self.slots_per_row
        )
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
        let slots = (counts.tokens * self.top_k) as f64;
        let experts = (counts.tokens * self.top_k).min(self.n_experts) as f64;
        let (n, k) = (self.n as f64, self.k as f64);
        let inputs = slots / self.slots_per_row as f64;
        let weight = experts * integer::weight_bytes(self.format, self.n, self.k);
        Cost { bytes: weight + (slots * n + inputs * k) * 4.0, flops: 2.0 * slots * n * k }
    }
}
