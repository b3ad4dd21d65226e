//! Memory planning: assigns blocks with live ranges to offsets in one arena.
//!
//! Minimizing the arena is NP-complete (dynamic storage allocation, Garey and Johnson SR2); greedy placement in a good order
//! comes close to the optimum (arXiv 2001.03288). The planner places blocks one by one, each into a gap between blocks that are
//! live at the same time. It tries several orders and both gap choices. Then it repeatedly moves the blocks with the highest
//! ends to the front of the best order. The smallest arena wins; ties go to the earlier plan, so the result is deterministic.
//! The search stops when a plan reaches the peak of live bytes, which is a lower bound.

use std::cmp::Reverse;

use jamba_plan::format::ALIGN_BYTES;

/// Memory that is live from one point in time to another, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) bytes: u64,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

impl Block {
    /// Length including padding to the next valid block offset.
    fn padded_bytes(&self) -> u64 {
        self.bytes.next_multiple_of(ALIGN_BYTES)
    }

    fn overlaps(&self, other: &Block) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    fn duration(&self) -> u64 {
        (self.last - self.first + 1) as u64
    }
}

/// Offsets of all blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Offset in bytes from the start of the arena, by block; multiples of [`ALIGN_BYTES`].
    pub(crate) offsets: Vec<u64>,
    /// Size of the arena in bytes.
    pub(crate) bytes: u64,
}

/// Number of times the search moves the blocks with the highest ends to the front.
const PROMOTIONS: usize = 64;

pub(crate) fn plan(blocks: &[Block]) -> Plan {
    let bound = live_bytes(blocks).into_iter().max().unwrap_or(0);
    // Largest first; largest area (bytes × time) first; longest first; input order.
    let orders: [fn(&Block) -> u64; 4] = [
        |block| block.padded_bytes(),
        |block| block.padded_bytes().saturating_mul(block.duration()),
        |block| block.duration(),
        |_| 0,
    ];
    let attempts = orders.iter().flat_map(|weight| [(weight, Gap::Lowest), (weight, Gap::Tightest)]);
    let mut best = Plan { offsets: Vec::new(), bytes: u64::MAX };
    let mut best_order = (Vec::new(), Gap::Lowest);
    for (weight, gap) in attempts {
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        order.sort_by_key(|&index| (Reverse(weight(&blocks[index])), blocks[index].first, index));
        let plan = place(blocks, &order, gap);
        if plan.bytes < best.bytes {
            best = plan;
            best_order = (order, gap);
        }
        if best.bytes == bound {
            return best;
        }
    }

    let (mut order, gap) = best_order;
    let mut plan = best.clone();
    for _ in 0..PROMOTIONS {
        let end = |index: usize| plan.offsets[index] + blocks[index].padded_bytes();
        order.sort_by_key(|&index| end(index) != plan.bytes); // stable sort
        plan = place(blocks, &order, gap);
        if plan.bytes < best.bytes {
            best = plan.clone();
        }
        if best.bytes == bound {
            break;
        }
    }
    best
}

/// Live bytes at each point in time, including padding. Their maximum is a lower bound of the arena size.
pub(crate) fn live_bytes(blocks: &[Block]) -> Vec<u64> {
    let end = blocks.iter().map(|block| block.last + 1).max().unwrap_or(0);
    let mut bytes = vec![0; end];
    for block in blocks {
        bytes[block.first..=block.last].iter_mut().for_each(|live| *live += block.padded_bytes());
    }
    bytes
}

/// The choice among gaps that are large enough.
#[derive(Clone, Copy, Debug)]
enum Gap {
    Lowest,
    Tightest,
}

/// Places the blocks in the given order.
fn place(blocks: &[Block], order: &[usize], gap: Gap) -> Plan {
    let mut offsets: Vec<u64> = vec![0; blocks.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(order.len()); // ordered by offset
    let mut bytes = 0;
    for &index in order {
        let wanted = blocks[index].padded_bytes();
        let mut at = None; // (length of the gap, its offset)
        let mut end = 0; // end of the blocks below that are live at the same time
        for &other in placed.iter().filter(|&&other| blocks[index].overlaps(&blocks[other])) {
            let length = offsets[other].saturating_sub(end);
            let better = match (gap, at) {
                (_, None) => true,
                (Gap::Lowest, Some(_)) => false,
                (Gap::Tightest, Some((tightest, _))) => length < tightest,
            };
            if length >= wanted && better {
                at = Some((length, end));
            }
            end = end.max(offsets[other] + blocks[other].padded_bytes());
        }
        offsets[index] = at.map_or(end, |(_, offset)| offset);
        bytes = bytes.max(offsets[index] + wanted);
        let position = placed.partition_point(|&other| offsets[other] <= offsets[index]);
        placed.insert(position, index);
    }
    Plan { offsets, bytes }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(bytes: u64, first: usize, last: usize) -> Block {
        Block { bytes, first, last }
    }

    #[test]
    fn fills_the_gap_that_a_dead_block_leaves() {
        // Three blocks live at once, then a small one reuses the first one's bytes while another stays live.
        let blocks = [block(128, 0, 1), block(256, 0, 3), block(64, 1, 3), block(100, 2, 3)];
        let plan = plan(&blocks);
        // 256 first: offset 0. 128: offset 256. 100 takes 128 with padding: offset 256, where the 128 is dead. 64: 256 + 128.
        assert_eq!(plan, Plan { offsets: vec![256, 0, 384, 256], bytes: 256 + 128 + 64 });
        assert_eq!(live_bytes(&blocks), [384, 448, 448, 448]);
    }

    #[test]
    fn no_blocks_need_no_arena() {
        assert_eq!(plan(&[]), Plan { offsets: vec![], bytes: 0 });
    }

    proptest! {
        #[test]
        fn blocks_that_live_together_lie_apart(
            blocks in proptest::collection::vec((1_u64..5000, 0_usize..30, 0_usize..12), 0..40)
        ) {
            let blocks: Vec<Block> =
                blocks.into_iter().map(|(bytes, first, longer)| block(bytes, first, first + longer)).collect();
            let plan = plan(&blocks);
            for (i, a) in blocks.iter().enumerate() {
                let (a_at, a_end) = (plan.offsets[i], plan.offsets[i] + a.bytes);
                prop_assert!(a_at % 64 == 0 && a_end <= plan.bytes);
                for (j, b) in blocks.iter().enumerate().skip(i + 1) {
                    let together = (a.first..=a.last).any(|time| (b.first..=b.last).contains(&time));
                    let apart = a_end <= plan.offsets[j] || plan.offsets[j] + b.bytes <= a_at;
                    prop_assert!(!together || apart, "blocks {i} and {j}");
                }
            }
            let live_at = |time| blocks.iter().filter(|b| (b.first..=b.last).contains(&time)).map(|b| b.bytes).sum();
            let peak: u64 = (0..42).map(live_at).max().unwrap_or(0);
            prop_assert!(plan.bytes >= peak);
        }
    }
}
