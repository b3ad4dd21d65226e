//! The memory plan: blocks with live ranges → offsets in one arena.
//!
//! Placing blocks that live at fixed times into the least memory is NP-complete (dynamic storage allocation, Garey and
//! Johnson SR2); greedy placement in a good order comes close (arXiv 2001.03288). Here: place blocks one after the other,
//! each into a gap between those that live at the same time; try a few orders, both ways of choosing the gap, and then the
//! best order with the block that ends highest moved to the front, again and again. The smallest arena wins, the earlier
//! one among equals, so that the same blocks always give the same plan. A plan that reaches the peak of live bytes ends the
//! search: no arena is smaller.

use jamba_plan::format::ALIGN_BYTES;

/// Memory that is needed from one point in time to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Length in bytes.
    pub(crate) bytes: u64,
    /// First point in time.
    pub(crate) first: usize,
    /// Last point in time.
    pub(crate) last: usize,
}

impl Block {
    /// Bytes with the padding up to where the next block may begin.
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

/// Where each block lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Bytes from the start of the arena, by block; multiples of [`ALIGN_BYTES`].
    pub(crate) offsets: Vec<u64>,
    /// Bytes of the arena.
    pub(crate) bytes: u64,
}

/// Times that the search moves a block to the front.
const PROMOTIONS: usize = 64;

/// Places the blocks.
pub(crate) fn plan(blocks: &[Block]) -> Plan {
    let bound = peak_live_bytes(blocks);
    // Largest first; largest over time first; longest first; as they come.
    let orders: [fn(&Block) -> u64; 4] = [
        |block| block.padded_bytes(),
        |block| block.padded_bytes().saturating_mul(block.duration()),
        |block| block.duration(),
        |_| 0,
    ];
    let mut best: Option<(Plan, Vec<usize>, Gap)> = None;
    for weight in orders {
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        order.sort_by_key(|&index| (std::cmp::Reverse(weight(&blocks[index])), blocks[index].first, index));
        for gap in [Gap::Lowest, Gap::Tightest] {
            let plan = place(blocks, &order, gap);
            if best.as_ref().is_none_or(|(best, ..)| plan.bytes < best.bytes) {
                best = Some((plan, order.clone(), gap));
            }
        }
    }
    let Some((mut best, mut order, gap)) = best else { return Plan { offsets: Vec::new(), bytes: 0 } };
    let mut plan = best.clone();
    for _ in 0..PROMOTIONS {
        if best.bytes <= bound {
            break;
        }
        let end = |index: usize| plan.offsets[index] + blocks[index].padded_bytes();
        let Some(highest) = (0..order.len()).find(|&place| end(order[place]) == plan.bytes) else { break };
        let index = order.remove(highest);
        order.insert(0, index);
        plan = place(blocks, &order, gap);
        if plan.bytes < best.bytes {
            best = plan.clone();
        }
    }
    best
}

/// The most bytes that live at any one time, padding included: no arena can be smaller.
pub(crate) fn peak_live_bytes(blocks: &[Block]) -> u64 {
    let live_at = |time| blocks.iter().filter(move |block| block.first <= time && time <= block.last);
    // The peak begins where some block begins.
    blocks.iter().map(|block| live_at(block.first).map(Block::padded_bytes).sum()).max().unwrap_or(0)
}

/// Which gap a block goes into.
#[derive(Clone, Copy, Debug)]
enum Gap {
    /// The lowest that is large enough.
    Lowest,
    /// The smallest that is large enough.
    Tightest,
}

/// Places blocks in the given order.
fn place(blocks: &[Block], order: &[usize], gap: Gap) -> Plan {
    let mut offsets: Vec<u64> = vec![0; blocks.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(order.len()); // in order of offset
    let mut bytes = 0;
    for &index in order {
        let wanted = blocks[index].padded_bytes();
        let mut at = None; // (gap's length, its offset)
        let mut end = 0; // of what lies below and lives at the same time
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
