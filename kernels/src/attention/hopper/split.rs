//! How the tokens of a sequence are split over the blocks of a decoding step: by the sequence's length alone, so that its
//! bits depend on no other sequence.

use crate::kv_append::PAGE_TOKENS;

/// Pages of a split at least, while the sequence has as many: below, a block has finished before its copies pay.
pub const MIN_PAGES: usize = 16;

/// Blocks that a Hopper GPU of 132 multiprocessors holds at once, two on each.
const BLOCKS: usize = 264;

/// Splits of a sequence at most, where each split is `tiles` pieces of work: one sequence fills the GPU.
pub fn max_splits(tiles: usize) -> usize {
    (BLOCKS / tiles).clamp(32, 132)
}

/// Pages of each split, but the last, of `length` tokens, and the number of splits.
pub fn splits(max_splits: usize, length: usize) -> (usize, usize) {
    let pages = length.div_ceil(PAGE_TOKENS);
    let per_split = pages.div_ceil(max_splits).max(MIN_PAGES);
    (per_split, pages.div_ceil(per_split))
}

#[cfg(feature = "emit")]
pub(super) use emit::Splits;

#[cfg(feature = "emit")]
mod emit {
    use super::{MIN_PAGES, PAGE_TOKENS};
    use crate::cpu::builder::Value;
    use crate::hopper::Builder;

    /// [`super::splits`] in a kernel; i32.
    pub struct Splits {
        /// Pages of the sequence.
        pub pages: Value,
        /// Pages of each split but the last.
        pub per_split: Value,
        /// Splits.
        pub count: Value,
    }

    impl Splits {
        #[track_caller]
        pub fn of(b: &Builder, max_splits: usize, length: Value) -> Splits {
            let pages = b.shr(b.add(length, b.i32(PAGE_TOKENS as i32 - 1)), PAGE_TOKENS.ilog2());
            let max_splits = max_splits as i32;
            let even = b.div(b.add(pages, b.i32(max_splits - 1)), b.i32(max_splits));
            let per_split = b.max(even, b.i32(MIN_PAGES as i32));
            let count = b.div(b.sub(b.add(pages, per_split), b.i32(1)), per_split);
            Splits { pages, per_split, count }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_cover_the_pages() {
        for max in [32, 33, 132] {
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
