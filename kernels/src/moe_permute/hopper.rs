//! Sorts slots by expert on Hopper, in one block: [`crate::moe_route::hopper`] without the choice of experts.
//!
//!     the slots t · top_k + j, sorted by experts[t, j], ties ascending:
//!     slots[i][0] = the i-th of them;  slots[slots[i][0]][1] = i;  offsets[e] = the number of slots with an expert below e
//!
//! Bound by latency: one SM reads tokens · top_k integers.
//!
//! 1. load the experts of each token, then sort with `crate::hopper::select`

use super::{Spec, offsets};
use crate::kernel::{Elem, Launch, Operand, Param, Per, Unsupported, hopper_body};
use crate::moe_route;

pub(super) fn supports(spec: &Spec) -> Result<(), Unsupported> {
    moe_route::hopper::check_experts(spec.n_experts)
}

pub(super) fn launch(spec: &Spec) -> Launch {
    let &Spec { n_experts, top_k } = spec;
    Launch {
        op: "moe_permute",
        symbol: format!("moe_permute_e{n_experts}_k{top_k}_sm90"),
        operands: vec![
            Operand::input(Param::read("experts", Elem::I32, &[top_k]), 0),
            moe_route::hopper::slots(top_k, 0),
            offsets(n_experts, 1),
            Operand::count("rows", Per::Row),
        ],
        cost: spec.cost(),
        grid: Some(moe_route::hopper::grid(n_experts)),
        body: hopper_body!(spec, emit),
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
