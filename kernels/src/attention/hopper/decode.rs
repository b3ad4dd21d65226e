//! Attention of one token per sequence on Hopper, split over the cache.
//!
//! ```text
//! partial[s, h, i, :] = Σⱼ exp2(cⱼ − maximum) · value[j]       cⱼ = scale · log₂(e) · q[s, h, :] · key[j], j in split i
//! total = Σⱼ exp2(cⱼ − maximum),  maximum = maxⱼ cⱼ            stored after the columns: maximum, total
//! ```
//!
//! A piece of work is a split of a sequence for up to 16 query heads of a KV head: the rows of a 16-row product. The
//! sequence's length alone determines the splits ([`super::split`]); the blocks take the pieces in turn. [`super::combine`]
//! sums the splits. Each of the four warps takes every fourth page of the split through a private ring that the copy engine
//! fills: a head's page is one copy, in the layout that ldmatrix reads. Warps are independent until the end of the split.
//!
//! Bound by memory: reads the cache once; two blocks per SM keep at least 96 KiB in flight.
//!
//! 1. load the queries as fragments; start the copies of each warp's first pages
//! 2. for each page of the warp: wait; compute the scores of its 16 keys, the page's part of the softmax, and the values
//!    weighted by probability; start the copy of the next page into the same stage
//! 3. join the four warps' sums: rescale to one maximum, then add pairwise
//! 4. store the split's sums, maximum and total

use super::split;
use crate::hopper::facts::{MBARRIER_BYTES, WARP, shared_bytes};
use crate::hopper::operand::read;
use crate::kernel::{
    Access, Amount, Blocks, Cost, Elem, Extent, Grid, Launch, Operand, Param, Per, Source, Unit, Work, hopper_body,
};
use crate::kv_append::PAGE_TOKENS;
use crate::kv_append::hopper::{head_bytes, pages};
use jamba_plan::format::Table;

/// Warps per block.
const WARPS: usize = 4;

/// Blocks per SM.
pub(super) const PER_SM: u32 = 2;

/// Rows per product.
const ROWS: usize = 16;

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

/// The scratch buffer that holds the splits' partial sums.
pub(super) const PARTIALS: Source = Source::Scratch("partials");

/// The node's operand for the cache.
const CACHE: usize = 1;

pub(super) fn launch(spec: &Spec) -> Launch {
    let &Spec { n_heads, n_kv_heads, d_head, scale } = spec;
    let mut operands = vec![read("q", Elem::Bf16, n_heads * d_head, 0), pages(Access::Read, CACHE, n_kv_heads, d_head)];
    operands.extend([Table::Past, Table::Pages].map(Operand::table));
    operands.push(spec.partials(Access::Write));
    operands.push(Operand::count("sequences", Per::Sequence));
    operands.extend(Operand::page_strides(CACHE));
    let cached = (2 * n_kv_heads * d_head * Elem::Bf16.bytes()) as f64;
    let heads = n_heads as f64;
    Launch {
        op: "attention",
        symbol: format!("attention_decode_h{n_heads}_g{n_kv_heads}_e{d_head}_s{:x}_sm90", (scale as f32).to_bits()),
        operands,
        cost: Cost {
            bytes: Amount {
                sequences: 2.0 * heads * d_head as f64,
                sequence_context: cached + spec.partial_bytes(),
                ..Amount::default()
            },
            operations: Amount { sequence_context: 4.0 * heads * d_head as f64, ..Amount::default() },
        },
        grid: Some(Grid {
            work: Work { dependent_reads: 3, unit: Unit::Warps, ..Work::default() },
            ..Grid::along_x(Blocks::PerSm(PER_SM), WARPS as u32 * WARP, spec.shared().end as u32)
        }),
        body: hopper_body!(spec, emit),
    }
}

impl Spec {
    /// The operand for the partial sums: one row per query head and split.
    pub(super) fn partials(&self, access: Access) -> Operand {
        let inner = vec![self.partial_stride()];
        let param = Param::Buffer { name: "partials", access, elem: Elem::F32, inner };
        Operand::new(param, PARTIALS, Extent::per(Per::Sequence, self.partial_rows()))
    }

    /// Bytes of partial sums per token of context: one row per query head and split of [`split::MIN_PAGES`] pages.
    pub(super) fn partial_bytes(&self) -> f64 {
        (self.n_heads * 4 * self.partial_stride()) as f64 / (split::MIN_PAGES * PAGE_TOKENS) as f64
    }

    /// Rows of `partials` per sequence: query heads times splits.
    pub fn partial_rows(&self) -> usize {
        self.n_heads * self.max_splits()
    }

    /// Row stride of `partials` in f32: the columns, the maximum and the total.
    pub fn partial_stride(&self) -> usize {
        self.partial_columns() + 4
    }

    /// Columns per row of `partials`.
    pub(super) fn partial_columns(&self) -> usize {
        self.d_head.next_multiple_of(8)
    }

    /// Maximum number of splits of a sequence.
    pub fn max_splits(&self) -> usize {
        split::max_splits(self.n_kv_heads * self.tiles())
    }

    /// Pages per split and number of splits of a sequence of `length` tokens.
    pub fn splits(&self, length: usize) -> (usize, usize) {
        split::splits(self.max_splits(), length)
    }

    /// Pieces per KV head: its query heads divided into tiles.
    fn tiles(&self) -> usize {
        (self.n_heads / self.n_kv_heads).div_ceil(ROWS)
    }

    /// Query heads per tile, except the last.
    fn tile_heads(&self) -> usize {
        (self.n_heads / self.n_kv_heads).div_ceil(self.tiles())
    }

    /// Registers per thread for the sums, `[columns / 8][halves in use][2 adjacent columns]`.
    fn sums(&self) -> usize {
        self.partial_columns() / 8 * self.halves() * 2
    }

    /// Halves of a product's rows that contain query heads.
    fn halves(&self) -> usize {
        self.tile_heads().div_ceil(ROWS / 2)
    }

    fn shared(&self) -> Shared {
        // Two warps' sums, register by register for all lanes; then each warp's maxima and totals.
        let exchange = WARPS / 2 * self.sums() * 4 * WARP as usize + WARPS * ROWS * 8;
        let stage = WARPS * head_bytes(self.d_head);
        let stages = ((shared_bytes(PER_SM) - exchange) / (stage + 2 * WARPS * MBARRIER_BYTES)).clamp(2, 8);
        let (sums, end) = (stages * stage, stages * stage + exchange);
        Shared {
            stages,
            sums,
            totals: end - WARPS * ROWS * 8,
            barriers: end,
            end: end + 2 * stages * WARPS * MBARRIER_BYTES,
        }
    }
}

/// Layout of shared memory, offsets in bytes; the warps' rings are at byte 0.
#[cfg_attr(not(feature = "emit"), allow(dead_code, reason = "only the body reads offsets"))]
struct Shared {
    /// Pages in the ring of a warp.
    stages: usize,
    /// Sums of two warps.
    sums: usize,
    /// Maxima and totals of each warp's rows.
    totals: usize,
    /// Two barriers per stage of each ring: full, empty.
    barriers: usize,
    /// Total size.
    end: usize,
}

#[cfg(feature = "emit")]
pub(crate) use emit::emit;

#[cfg(feature = "emit")]
mod emit;
