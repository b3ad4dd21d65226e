//! The split of a sequence's tokens over the blocks of a decode step. It depends only on the sequence's length, so that the
//! sequence's bits do not depend on other sequences.

use super::decode::PER_SM;
#[cfg(feature = "emit")]
use crate::cpu::builder::Value;
use crate::hopper::facts::N_SMS;
use crate::kv_append::PAGE_TOKENS;

/// Minimum pages per split, if the sequence has that many: shorter splits do not hide the latency of their copies.
pub const MIN_PAGES: usize = 16;

/// Number of blocks that run at once.
const BLOCKS: usize = PER_SM as usize * N_SMS;

/// Number of splits that is always allowed for a long sequence, however many pieces each split has.
const MIN_MAX_SPLITS: usize = 32;

/// Maximum number of splits of a sequence whose splits have `tiles` pieces of work each: one sequence fills the GPU.
pub fn max_splits(tiles: usize) -> usize {
    (BLOCKS / tiles).clamp(MIN_MAX_SPLITS, N_SMS)
}

/// Pages per split (except the last) and the number of splits of `length` tokens.
pub fn splits(max_splits: usize, length: usize) -> (usize, usize) {
    let pages = length.div_ceil(PAGE_TOKENS);
    let per_split = pages.div_ceil(max_splits).max(MIN_PAGES);
    (per_split, pages.div_ceil(per_split))
}

/// [`splits`] computed in a kernel; i32.
#[cfg(feature = "emit")]
pub(super) struct Splits {
    /// Pages of the sequence.
    pub(super) pages: Value,
    /// Pages per split, except the last.
    pub(super) per_split: Value,
    /// Number of splits.
    pub(super) count: Value,
}

#[cfg(feature = "emit")]
impl Splits {
    #[track_caller]
    pub(super) fn of(max_splits: usize, length: Value) -> Splits {
        let pages = (length + (PAGE_TOKENS - 1)) >> PAGE_TOKENS.ilog2();
        let even = (pages + (max_splits - 1)) / max_splits;
        let per_split = even.max(MIN_PAGES);
        let count = (pages + per_split - 1) / per_split;
        Splits { pages, per_split, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_cover_the_pages() {
        for max in [MIN_MAX_SPLITS, 33, N_SMS] {
            for length in [1, 16, 17, 256, 257, 4096, 8448, 8449, 100_000, 262_144] {
                let (per_split, count) = splits(max, length);
                let pages = length.div_ceil(PAGE_TOKENS);
                assert!(count <= max && (count - 1) * per_split < pages && pages <= count * per_split, "{length}");
            }
        }
        assert_eq!(splits(33, 4096), (16, 16));
        assert_eq!(splits(33, 262_144), (497, 33));
    }
}
