//! Routing on Hopper, by one block: a thread for each token, tiles of tokens one after the other.
//!
//!     p = softmax(logits[t, :]);  weights[t, j] = the p of the j-th largest logit, ties to the lowest e;  experts[t, j] = that e
//!     the slots t · top_k + j, sorted by experts[t, j], equals ascending:
//!     slots[i][0] = the i-th of them;  slots[slots[i][0]][1] = i;  offsets[e] = the number with an expert below e
//!
//! Weights are not renormalised. `experts` is the kernel's own workspace.
//! Bound by latency: tokens · n_experts numbers, read by one multiprocessor: some 10 µs for 8192 tokens.
//!
//! 1. for each tile: the largest logits and their probabilities; then the sort of `crate::hopper::select`

use crate::hopper::{WARP, row_stride};
use crate::kernel::{Cost, Counts, Elem, Param, Rows};
use jamba_plan::format::{Blocks, Launch};

/// Experts at most: a thread holds the logits of a token in registers.
pub const MAX_EXPERTS: usize = 64;

/// Experts beyond which a block has half as many threads, of twice as many registers.
const FEW_EXPERTS: usize = 32;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Experts; [`MAX_EXPERTS`] at most.
    pub n_experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// What the tokens are.
    pub rows: Rows,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("moe_route_e{}_k{}_sm90", self.n_experts, self.top_k)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        vec![
            Param::read("logits", Elem::F32, &[row_stride(Elem::F32, self.n_experts)]),
            Param::write("weights", Elem::F32, &[row_stride(Elem::F32, self.top_k)]),
            Param::write("slots", Elem::I32, &[2]),
            Param::write("offsets", Elem::I32, &[]),
            Param::write("experts", Elem::I32, &[self.top_k]),
            Param::count("rows"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let rows = self.rows.count(counts) as f64;
        let (n_experts, top_k) = (self.n_experts as f64, self.top_k as f64);
        Cost { bytes: (rows * (n_experts + 4.0 * top_k) + n_experts) * 4.0, flops: rows * n_experts * (4.0 + top_k) }
    }

    pub(crate) fn launch(&self) -> Launch {
        let shared_words = self.n_experts as u32 * (1 + self.threads() / WARP);
        Launch::along_x(Blocks::Fixed(1), self.threads(), 4 * shared_words)
    }

    /// Threads of the block: tokens of a tile.
    fn threads(&self) -> u32 {
        if self.n_experts <= FEW_EXPERTS { 512 } else { 256 }
    }
}

#[cfg(feature = "emit")]
mod emit;
#[cfg(feature = "emit")]
pub(crate) use emit::emit;
