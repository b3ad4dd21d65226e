//! A product of up to 8 rows. Weights are streamed from global memory into registers, 16 bytes per lane, and used once.
//!
//! A tile is 16 outputs by 8 rows of x. The eight warps of a block take shares of the inputs in turn; their sums are added
//! in shared memory in warp order. Blocks are persistent. While a warp multiplies, the loads of its next weights are in
//! flight, also across tiles. Bound by memory: n · k weights, once.
//!
//! A lane reads 16 consecutive bytes of rows g and g + 8 of the weight, and the same inputs of row g of x: 8 bf16 inputs,
//! or 16 inputs of one byte in the order of [`super::super::weight`]. Weights and x are permuted identically, so the order of
//! inputs inside a step does not matter.

use super::{Batch, Product};
use crate::hopper::facts::WARP;
use crate::hopper::row_threads;
use crate::kernel::{Blocks, Elem, Grid, Unit};

#[cfg(feature = "emit")]
pub(super) mod emit;

/// Outputs per tile.
pub(super) const OUTPUTS: usize = 16;

/// Rows of x per tile.
pub(super) const ROWS: usize = 8;

/// Warps per block.
pub(super) const WARPS: usize = 8;

/// Blocks per SM; registers allow for this many.
const BLOCKS: u32 = 2;

/// Maximum number of rows that a block norms. Each block norms all rows: more take longer than a launch of their own.
pub(crate) const NORMED_ROWS: usize = 2;

/// Bytes of a warp's sums in shared memory.
pub(super) const PARTIAL_BYTES: usize = OUTPUTS * ROWS * 4;

/// Bytes of a block's sums: double-buffered, so that one barrier per tile is sufficient.
pub(super) const PARTIALS_BYTES: usize = 2 * WARPS * PARTIAL_BYTES;

/// Loads of a weight row by its four lanes, 64 bytes each, that a warp has in registers at a time. Two shares and x are in registers
/// at the same time; for weights of one byte, x needs twice the registers.
fn loads(product: &Product) -> usize {
    if product.is_widened() { 2 } else { 4 }
}

/// Bytes of a weight row that its four lanes load at a time.
const LOAD_BYTES: usize = 64;

/// Normed rows of x in shared memory, behind the warps' sums.
struct Normed {
    /// Bytes of a row: whole shares of all warps, and 16 so that the rows begin in different banks.
    row_bytes: usize,
    /// Warps of the block that norms a row by itself, whose order of sums is kept.
    n_warps: usize,
}

impl Normed {
    fn of(product: &Product) -> Normed {
        let share = WARPS * loads(product) * LOAD_BYTES / product.format.bytes();
        let row_bytes = product.k.next_multiple_of(share) * Elem::Bf16.bytes() + 16;
        Normed { row_bytes, n_warps: (row_threads(product.k) / WARP) as usize }
    }

    /// Bytes of the rows, and of a sum of each warp.
    fn bytes(&self) -> usize {
        NORMED_ROWS * self.row_bytes + self.n_warps * Elem::F32.bytes()
    }
}

pub(super) fn grid(product: &Product) -> Grid {
    let n_offsets = match product.batch {
        Batch::Dense => 0,
        Batch::Experts { n_experts, .. } => n_experts + 1,
    };
    let bytes =
        PARTIALS_BYTES + n_offsets * Elem::I32.bytes() + product.fused.norm.map_or(0, |_| Normed::of(product).bytes());
    let work = product.work([OUTPUTS, ROWS], Unit::Warps);
    Grid { work, ..Grid::along_x(Blocks::PerSm(BLOCKS), WARPS as u32 * WARP, bytes as u32) }
}
