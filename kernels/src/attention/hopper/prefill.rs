//! Attention of any number of tokens of each sequence on Hopper: tensor cores, softmax online (arXiv 2205.14135, 2407.08608).
//!
//!     out[t, h, :] = Σⱼ pⱼ · value[j] / Σⱼ pⱼ,   pⱼ = exp2(cⱼ − maxⱼ cⱼ),   cⱼ = scale · log₂(e) · q[t, h, :] · key[j]
//!
//! The query heads of a KV head, token after token, are the rows of a sequence's products: any number of heads shares a key
//! without a gap. A piece of work is 128 rows of a sequence and a KV head, 64 for each of two warpgroups, and the blocks take the
//! pieces in turn, a sequence's last rows, which see most, first. A producer warp brings keys and values, tiles of 64 tokens
//! from the first, into a ring: four pages of a head, one copy each, in the layout that wgmma reads (the last page is
//! repeated where the tile ends beyond it). Where a head has more than 128 dimensions, a piece gives some columns of the values only.
//!
//! A row's bits depend on its position and its sequence alone: tiles begin at multiples of 64 from the sequence's first token,
//! and a tile that a row sees nothing of changes neither maximum nor sums. A value that is not finite affects all rows of its
//! tile.
//!
//! Bound by the tensor cores: 4 · d_head operations for each pair of a query head and a key that it sees.
//!
//! 1. the queries as fragments, which stay in registers
//! 2. the first tile: scores, its part of the softmax
//! 3. for each further tile: its scores and, in flight beside them, the values of the tile before by their probabilities;
//!    the tile's part of the softmax; the sums to the new maximum. Tiles that some row does not see whole are masked.
//! 4. the last tile's values; divide, round, store

use crate::hopper::facts::{MBARRIER_BYTES, SHARED_BYTES, WARP};
use crate::hopper::operand::{read, write};
use crate::kernel::{Access, Blocks, Cost, Elem, Grid, Launch, Operand, Per, hopper_body};
use crate::kv_append::PAGE_TOKENS;
use crate::kv_append::hopper::{blocks, head_bytes, pages};
use jamba_plan::format::Table;

/// Tokens of a tile of keys and values.
const TILE_TOKENS: usize = 64;

/// Pages of a tile.
const TILE_PAGES: usize = TILE_TOKENS / PAGE_TOKENS;

/// Rows of a product, of one warpgroup.
const ROWS: usize = 64;

/// Warpgroups that multiply; one more produces.
const CONSUMERS: usize = 2;

/// Warps of a warpgroup.
const WARPS: usize = 4;

/// Tiles in the ring at most: enough to hide the copies.
const MAX_STAGES: usize = 6;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Query heads.
    pub n_heads: usize,
    /// KV heads; divides the query heads.
    pub n_kv_heads: usize,
    /// Dimensions of a head; [`crate::kv_append::hopper::MAX_D_HEAD`] at most.
    pub d_head: usize,
    /// Multiplies the scores.
    pub scale: f64,
}

/// The node's operand that is the cache.
const CACHE: usize = 1;

pub(super) fn launch(spec: &Spec, cost: Cost) -> Launch {
    let &Spec { n_heads, n_kv_heads, d_head, scale } = spec;
    let mut operands = vec![read("q", Elem::Bf16, n_heads * d_head, 0), pages(Access::Read, CACHE, n_kv_heads, d_head)];
    operands.extend([Table::Starts, Table::Past, Table::Pages].map(Operand::table));
    operands.extend([write("out", Elem::Bf16, n_heads * d_head, 0), Operand::count("sequences", Per::Sequence)]);
    operands.extend(Operand::page_strides(CACHE));
    let threads = (1 + CONSUMERS) * WARPS * WARP as usize;
    let shared_bytes = spec.barriers() + 2 * MBARRIER_BYTES * spec.stages();
    Launch {
        op: "attention",
        symbol: format!("attention_prefill_h{n_heads}_g{n_kv_heads}_e{d_head}_s{:x}_sm90", (scale as f32).to_bits()),
        operands,
        cost,
        grid: Some(Grid::along_x(Blocks::PerSm(1), threads as u32, shared_bytes as u32)),
        body: hopper_body!(spec, emit),
    }
}

impl Spec {
    /// Query heads of a KV head.
    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Blocks of columns of the values that a piece of work gives.
    fn value_blocks(&self) -> usize {
        if blocks(self.d_head).is_multiple_of(2) { 2 } else { 1 }
    }

    /// Bytes of a tile.
    fn stage_bytes(&self) -> usize {
        TILE_PAGES * head_bytes(self.d_head)
    }

    /// Tiles in the ring.
    fn stages(&self) -> usize {
        (SHARED_BYTES / (self.stage_bytes() + 2 * MBARRIER_BYTES)).min(MAX_STAGES)
    }

    /// Where the ring's barriers lie in shared memory, behind its tiles: `full` of each, then `empty` of each.
    fn barriers(&self) -> usize {
        self.stages() * self.stage_bytes()
    }
}

#[cfg(feature = "emit")]
pub(crate) use emit::emit;

#[cfg(feature = "emit")]
mod emit;
