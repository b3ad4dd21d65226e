//! Attention of one token of each sequence on Hopper, split over the cache.
//!
//!     partial[s, h, i, :] = Σⱼ exp2(cⱼ − maximum) · value[j]       cⱼ = scale · log₂(e) · q[s, h, :] · key[j], j in split i
//!     total = Σⱼ exp2(cⱼ − maximum),  maximum = maxⱼ cⱼ            behind the columns: maximum, total
//!
//! A piece of work is a split of a sequence for up to 16 query heads of a KV head: the rows of a product of 16. The splits
//! follow from the sequence's length alone ([`super::split`]); the blocks take the pieces in turn. [`super::combine`] sums the
//! splits. Each of four warps takes every fourth page of the split, through a ring of its own that the copy engine fills: a
//! page of a head is one copy, and lies as ldmatrix reads it. Nothing waits for another warp before the end of the split.
//!
//! Bound by memory: reads the cache once; two blocks on each multiprocessor have 96 KiB or more under way.
//!
//! 1. the queries as fragments; the first pages of each warp
//! 2. for each page of the warp: wait; scores of its 16 keys; the page's part of the softmax; values by probability; the next
//!    page into the same place
//! 3. the four warps' sums: to one maximum, then added pairwise
//! 4. store the split's sums, maximum and total

use super::split;
use crate::hopper::{WARP, row_stride};
use crate::kernel::{Cost, Counts, Elem, Param};
use crate::kv_append::hopper::head_bytes;
use jamba_plan::format::{Blocks, Launch};

/// Warps of a block.
const WARPS: usize = 4;

/// Blocks on each multiprocessor.
const PER_SM: u32 = 2;

/// Shared memory of one of them: half of 228 KiB, of which the system keeps 1 KiB a block.
const MAX_SHARED: usize = (228 / PER_SM as usize - 1) * 1024;

/// Rows of a product.
const ROWS: usize = 16;

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

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        let Spec { n_heads, n_kv_heads, d_head, scale } = *self;
        format!("attention_decode_h{n_heads}_g{n_kv_heads}_e{d_head}_s{:x}_sm90", (scale as f32).to_bits())
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        vec![
            Param::read("q", Elem::Bf16, &[row_stride(Elem::Bf16, self.n_heads * self.d_head)]),
            Param::read("cache", Elem::Bf16, &[]),
            Param::read("past", Elem::I32, &[]),
            Param::read("pages", Elem::I32, &[]),
            Param::write("partials", Elem::F32, &[self.partial_stride()]),
            Param::count("sequences"),
            Param::scalar("page_stride"),
            Param::scalar("pages_per_sequence"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let cached = (counts.sequences * counts.context * 2 * self.n_kv_heads * self.d_head) as f64;
        let rows = (counts.sequences * self.n_heads) as f64;
        let partials = rows * self.splits(counts.context).1 as f64 * (4 * self.partial_stride()) as f64;
        let flops = 4.0 * rows * (self.d_head * counts.context) as f64;
        Cost { bytes: 2.0 * cached + 2.0 * rows * self.d_head as f64 + partials, flops }
    }

    pub(crate) fn launch(&self) -> Launch {
        Launch::along_x(Blocks::PerSm(PER_SM), WARPS as u32 * WARP, self.shared().end as u32)
    }

    /// Rows of `partials` for each sequence: query heads by splits.
    pub fn partial_rows(&self) -> usize {
        self.n_heads * self.max_splits()
    }

    /// f32 from one row of `partials` to the next: the columns, then the maximum and the total.
    pub fn partial_stride(&self) -> usize {
        self.partial_columns() + 4
    }

    /// Columns of a row of `partials`.
    pub(super) fn partial_columns(&self) -> usize {
        self.d_head.next_multiple_of(8)
    }

    /// Splits of a sequence at most.
    pub fn max_splits(&self) -> usize {
        split::max_splits(self.n_kv_heads * self.tiles())
    }

    /// Pages of each split, and splits, of a sequence of `length` tokens.
    pub fn splits(&self, length: usize) -> (usize, usize) {
        split::splits(self.max_splits(), length)
    }

    /// Pieces that the query heads of a KV head are in.
    fn tiles(&self) -> usize {
        (self.n_heads / self.n_kv_heads).div_ceil(ROWS)
    }

    /// Query heads of such a piece, but the last.
    fn tile_heads(&self) -> usize {
        (self.n_heads / self.n_kv_heads).div_ceil(self.tiles())
    }

    /// Registers of a thread for the sums: columns by 8, then rows from 0 and from 8 on, if any, then two neighbours.
    fn sums(&self) -> usize {
        self.partial_columns() / 8 * self.halves() * 2
    }

    /// Halves of a product's rows that are query heads.
    fn halves(&self) -> usize {
        self.tile_heads().div_ceil(ROWS / 2)
    }

    fn shared(&self) -> Shared {
        // Two warps' sums, a register of all lanes after the other; then each warp's maxima and totals.
        let exchange = WARPS / 2 * self.sums() * 4 * WARP as usize + WARPS * ROWS * 8;
        let stage = WARPS * head_bytes(self.d_head);
        let stages = ((MAX_SHARED - exchange) / (stage + WARPS * 8)).clamp(2, 8);
        let (sums, end) = (stages * stage, stages * stage + exchange);
        Shared { stages, sums, totals: end - WARPS * ROWS * 8, barriers: end, end: end + stages * WARPS * 8 }
    }
}

/// Where things lie in shared memory; the rings, warp after warp, begin it.
struct Shared {
    /// Pages in the ring of a warp.
    stages: usize,
    /// Sums of two warps.
    sums: usize,
    /// Maxima and totals of each warp's rows.
    totals: usize,
    /// A barrier for each place of each ring.
    barriers: usize,
    /// Bytes of all.
    end: usize,
}

#[cfg(feature = "emit")]
pub(crate) use emit::emit;

#[cfg(feature = "emit")]
mod emit;
