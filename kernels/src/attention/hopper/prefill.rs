//! Attention of any number of tokens per sequence on Hopper: tensor cores, online softmax (arXiv 2205.14135, 2407.08608).
//!
//! ```text
//! out[t, h, :] = Σⱼ pⱼ · value[j] / Σⱼ pⱼ,   pⱼ = exp2(cⱼ − maxⱼ cⱼ),   cⱼ = scale · log₂(e) · q[t, h, :] · key[j]
//! ```
//!
//! The query heads of a KV head, token after token, are the rows of a sequence's products: any number of heads can share a
//! key without padding. A piece of work is 128 rows of a sequence and a KV head, 64 for each of two warpgroups. The blocks
//! take the pieces in turn, a sequence's last rows first because they see the most keys. A producer warp copies keys and
//! values into a ring, in tiles of 64 tokens from the first: four pages of a head, one copy each, in the layout that wgmma
//! reads (the last page is repeated if the tile extends beyond it). If a head has more than 128 dimensions, a piece
//! computes only some columns of the values.
//!
//! A row's bits depend only on its position and its sequence: tiles start at multiples of 64 from the sequence's first
//! token, and a tile without any key visible to a row changes neither its maximum nor its sums. A non-finite value affects
//! all rows of its tile.
//!
//! Bound by the tensor cores: 4 · d_head operations per pair of a query head and a visible key.
//!
//! 1. load the queries as fragments, which stay in registers
//! 2. the first tile: scores, its part of the softmax
//! 3. for each further tile: compute its scores and, concurrently in flight, the previous tile's values weighted by their
//!    probabilities; then the tile's part of the softmax; rescale the sums to the new maximum. Tiles that some row sees
//!    only in part are masked.
//! 4. the last tile's values; divide, round, store

use crate::hopper::facts::{MBARRIER_BYTES, SHARED_BYTES, WARP};
use crate::hopper::operand::{read, write};
use crate::kernel::{Access, Blocks, Cost, Elem, Grid, Launch, Operand, Per, Unit, Work, hopper_body};
use crate::kv_append::PAGE_TOKENS;
use crate::kv_append::hopper::{blocks, head_bytes, pages};
use jamba_plan::format::Table;

/// Tokens per tile of keys and values.
const TILE_TOKENS: usize = 64;

/// Pages per tile.
const TILE_PAGES: usize = TILE_TOKENS / PAGE_TOKENS;

/// Rows per product, of one warpgroup.
const ROWS: usize = 64;

/// Number of consumer warpgroups; one more warpgroup produces.
const CONSUMERS: usize = 2;

/// Warps per warpgroup.
const WARPS: usize = 4;

/// Maximum number of tiles in the ring: enough to hide the copies.
const MAX_STAGES: usize = 6;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of KV heads; divides the number of query heads.
    pub n_kv_heads: usize,
    /// Dimensions per head; at most [`crate::kv_append::hopper::MAX_D_HEAD`].
    pub d_head: usize,
    /// Multiplies the scores.
    pub scale: f64,
}

/// The node's operand for the cache.
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
        grid: Some(Grid {
            work: Work { dependent_reads: 3, unit: Unit::TensorSoftmax, ..Work::default() },
            ..Grid::along_x(Blocks::PerSm(1), threads as u32, shared_bytes as u32)
        }),
        body: hopper_body!(spec, emit),
    }
}

impl Spec {
    /// Query heads per KV head.
    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Blocks of value columns that a piece of work computes.
    fn value_blocks(&self) -> usize {
        if blocks(self.d_head).is_multiple_of(2) { 2 } else { 1 }
    }

    /// Bytes per tile.
    fn stage_bytes(&self) -> usize {
        TILE_PAGES * head_bytes(self.d_head)
    }

    /// Number of tiles in the ring.
    fn stages(&self) -> usize {
        (SHARED_BYTES / (self.stage_bytes() + 2 * MBARRIER_BYTES)).min(MAX_STAGES)
    }

    /// Byte offset of the ring's barriers in shared memory, after the tiles: `full` of each stage, then `empty` of each
    /// stage.
    fn barriers(&self) -> usize {
        self.stages() * self.stage_bytes()
    }
}

#[cfg(feature = "emit")]
pub(crate) use emit::emit;

#[cfg(feature = "emit")]
mod emit;
