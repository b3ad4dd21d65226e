//! Routing on Hopper, in one block: one thread per token, tile by tile.
//!
//! ```text
//! p = softmax(logits[t, :]);  weights[t, j] = p of the j-th largest logit, ties to the lowest e;  experts[t, j] = that e
//! the slots t · top_k + j, sorted by experts[t, j], ties ascending:
//! slots[i][0] = the i-th of them;  slots[slots[i][0]][1] = i;  offsets[e] = the number of slots with an expert below e
//! ```
//!
//! Weights are not renormalised. `experts` is a private workspace of the kernel.
//! Bound by latency: one SM reads tokens · n_experts numbers, about 10 µs for 8192 tokens.
//!
//! 1. for each tile: the largest logits and their probabilities; then the sort in `crate::hopper::select`

use super::{Spec, workspace};
use crate::hopper::facts::WARP;
use crate::hopper::operand::{read, write};
use crate::kernel::{
    Amount, Blocks, Config, Cost, Elem, Grid, Hopper, Launch, Lowering, Operand, Param, Per, Unsupported, hopper_body,
};
use crate::moe_permute::offsets;

/// Maximum number of experts: a thread holds a token's logits in registers.
pub(crate) const MAX_EXPERTS: usize = 64;

/// Above this number of experts, a block has half as many threads with twice as many registers each.
const FEW_EXPERTS: usize = 32;

pub(crate) fn check_experts(n_experts: usize, top_k: usize) -> Result<(), Unsupported> {
    match n_experts {
        ..=MAX_EXPERTS if top_k <= n_experts => Ok(()),
        ..=MAX_EXPERTS => {
            Err(Unsupported(format!("found {top_k} of {n_experts} experts, expected at most all on sm_90a")))
        }
        found => Err(Unsupported(format!("found {found} experts, expected at most {MAX_EXPERTS}"))),
    }
}

/// The slots by place, and the place of each slot: two words per slot.
pub(crate) fn slots(top_k: usize, result: usize) -> Operand {
    Operand::output(Param::write("slots", Elem::I32, &[2]), result).with_rows(Per::Row, top_k)
}

/// One block, because the sort covers all tokens.
pub(crate) fn grid(n_experts: usize) -> Grid {
    let shared_words = n_experts as u32 * (1 + threads(n_experts) / WARP);
    Grid::along_x(Blocks::Fixed(1), threads(n_experts), 4 * shared_words)
}

/// Threads of the block: tokens per tile.
fn threads(n_experts: usize) -> u32 {
    if n_experts <= FEW_EXPERTS { 512 } else { 256 }
}

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        check_experts(self.n_experts, self.top_k)
    }

    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { n_experts, top_k } = self;
        let (experts, chosen) = (n_experts as f64, top_k as f64);
        vec![Launch {
            op: "moe_route",
            symbol: format!("moe_route_e{n_experts}_k{top_k}_sm90"),
            operands: vec![
                read("logits", Elem::F32, n_experts, 0),
                write("weights", Elem::F32, top_k, 0),
                slots(top_k, 1),
                offsets(n_experts, 2),
                workspace(top_k),
                Operand::count("rows", Per::Row),
            ],
            cost: Cost {
                bytes: Amount { constant: experts * 4.0, rows: (experts + 4.0 * chosen) * 4.0, ..Amount::default() },
                operations: Amount::per_row(experts * (4.0 + chosen)),
            },
            grid: Some(grid(n_experts)),
            body: hopper_body!(self, emit),
        }]
    }
}

#[cfg(feature = "emit")]
mod emit;
#[cfg(feature = "emit")]
pub(crate) use emit::emit;
