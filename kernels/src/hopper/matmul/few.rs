//! A product of up to 8 rows: weights are streamed from global memory into registers, 16 bytes per lane, and used once.
//!
//! A tile is 16 outputs by 8 rows of x. The eight warps of a block take shares of the inputs in turn; their sums are added in
//! shared memory in warp order. Blocks are persistent. While a warp multiplies, the loads of its next weights are in flight,
//! across tiles too. Bound by memory: n · k weights, once.
//!
//! A lane reads 16 consecutive bytes of row g and of row g + 8 of the weight and the same inputs of row g of x: 8 inputs of
//! bf16, or 16 of int8 in the order of [`super::super::weight`]. Weights and x are permuted
//! alike, so the order of inputs inside a step does not matter.

use super::{Batch, Product};
use crate::hopper::facts::WARP;
use crate::kernel::{Blocks, Elem, Grid};

#[cfg(feature = "emit")]
pub(super) mod emit;

/// Outputs of a tile.
pub(super) const OUTPUTS: usize = 16;

/// Rows of x in a tile.
pub(super) const ROWS: usize = 8;

/// Warps of a block.
pub(super) const WARPS: usize = 8;

/// Blocks on a multiprocessor, which the registers allow.
const BLOCKS: u32 = 2;

/// Sums of a warp in shared memory.
pub(super) const PARTIAL_BYTES: usize = OUTPUTS * ROWS * 4;

/// Sums of a block: two tiles', so that one barrier a tile is enough.
pub(super) const PARTIALS_BYTES: usize = 2 * WARPS * PARTIAL_BYTES;

pub(super) fn grid(product: &Product) -> Grid {
    let n_offsets = match product.batch {
        Batch::Dense => 0,
        Batch::Experts { n_experts, .. } => n_experts + 1,
    };
    let bytes = PARTIALS_BYTES + n_offsets * Elem::I32.bytes();
    Grid::along_x(Blocks::PerSm(BLOCKS), WARPS as u32 * WARP, bytes as u32)
}
