//! Slots sorted by expert on Hopper, by one block: [`crate::moe_route::hopper`] without the choice of experts.
//!
//!     the slots t · top_k + j, sorted by experts[t, j], equals ascending:
//!     slots[i][0] = the i-th of them;  slots[slots[i][0]][1] = i;  offsets[e] = the number with an expert below e
//!
//! Bound by latency: tokens · top_k integers, read by one multiprocessor.
//!
//! 1. the experts of each token, from memory; then the sort of `crate::hopper::select`

use crate::kernel::{Cost, Counts, Elem, Param, Rows};
use crate::moe_route;
use jamba_plan::format::Launch;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Experts; [`moe_route::hopper::MAX_EXPERTS`] at most.
    pub n_experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// What the tokens are.
    pub rows: Rows,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("moe_permute_e{}_k{}_sm90", self.n_experts, self.top_k)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        vec![
            Param::read("experts", Elem::I32, &[self.top_k]),
            Param::write("slots", Elem::I32, &[2]),
            Param::write("offsets", Elem::I32, &[]),
            Param::count("rows"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let slots = (self.rows.count(counts) * self.top_k) as f64;
        Cost { bytes: (slots * 3.0 + self.n_experts as f64) * 4.0, flops: 0.0 }
    }

    pub(crate) fn launch(&self) -> Launch {
        let &Spec { n_experts, top_k, rows } = self;
        moe_route::hopper::Spec { n_experts, top_k, rows }.launch()
    }
}

#[cfg(feature = "emit")]
use crate::hopper::{
    Builder,
    select::{experts_of, sort_by_expert},
};

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let &Spec { n_experts, top_k, .. } = spec;
    // 1. experts
    sort_by_expert(b, n_experts, top_k, |token| experts_of(b, top_k, token));
}
