//! A product of a handful of rows: the weights stream from global memory into registers, 16 bytes a lane, and are used once.
//!
//! A tile is 16 outputs and 8 rows of x. The eight warps of a block share out the inputs, in turn, and their sums are added
//! through shared memory in the order of the warps. Blocks stay; while a warp multiplies, its next weights are on their way,
//! those of the block's next tile too. Bound by memory: n · k weights, once.
//!
//! A lane reads 16 consecutive bytes of row g and of row g + 8 of the weight and the same inputs of row g of x: 8 inputs of
//! bf16, or 16 of int8 in the order of [`super::super::weight`]. Which input a lane's elements are does not matter to a
//! product as long as weights and x agree.

use super::{Batch, Product};
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
    Grid::along_x(Blocks::PerSm(BLOCKS), 32 * WARPS as u32, bytes as u32)
}
