//! Sorts slots by expert on Hopper, in one block: [`crate::moe_route::hopper`] without the choice of experts.
//!
//! ```text
//! the slots t · top_k + j, sorted by experts[t, j], ties ascending:
//! slots[i][0] = the i-th of them;  slots[slots[i][0]][1] = i;  offsets[e] = the number of slots with an expert below e
//! ```
//!
//! Bound by latency: one SM reads tokens · top_k integers.
//!
//! 1. load the experts of each token, then sort with `crate::hopper::select`

use super::{Spec, offsets};
use crate::kernel::{Config, Elem, Hopper, Launch, Lowering, Operand, Param, Per, Unsupported, hopper_body};
use crate::moe_route;

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        moe_route::hopper::check_experts(self.n_experts, self.top_k)
    }

    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { n_experts, top_k } = self;
        vec![Launch {
            op: "moe_permute",
            symbol: format!("moe_permute_e{n_experts}_k{top_k}_sm90"),
            operands: vec![
                Operand::input(Param::read("experts", Elem::I32, &[top_k]), 0),
                moe_route::hopper::slots(top_k, 0),
                offsets(n_experts, 1),
                Operand::count("rows", Per::Row),
            ],
            cost: self.cost(),
            grid: Some(moe_route::hopper::grid(n_experts)),
            body: hopper_body!(self, emit),
        }]
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
