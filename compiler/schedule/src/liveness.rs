//! When each buffer holds something: from the step that writes it to the last one that reads it.
//!
//! The arena sees time in runs: steps without a barrier between them. Threads may be anywhere in a run, so a buffer occupies
//! its bytes from the run of its first step to the run of its last.
//!
//! Where a kernel can write a result over an operand ([`Access::WriteOver`]), the result takes the operand's place if nobody
//! reads that one again, it is of the same size, and no other step of the run touches it (another thread may still be there).

use jamba_plan::format::TargetKind;
use jambac_kernels::kernel::Access;

use crate::arena::{Block, live_bytes};
use crate::select::{BufferId, Draft, Slot};

/// When buffers live, and what the arena has to place.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// By buffer.
    pub(crate) lives: Vec<Live>,
    /// Buffers that take each other's place are one block; time is in runs.
    pub(crate) blocks: Vec<Block>,
    /// The block of each buffer.
    pub(crate) block_of: Vec<usize>,
}

/// When a buffer lives, and what it overwrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    /// The step that writes it.
    pub(crate) first: usize,
    /// The last step that reads it.
    pub(crate) last: usize,
    /// The operand of its first step whose place it takes.
    pub(crate) in_place_of: Option<BufferId>,
}

/// When the buffers live, given where barriers stand.
pub(crate) fn liveness(draft: &Draft, kind: TargetKind, barriers: &[bool]) -> Liveness {
    let runs = runs(barriers);
    let lives = lives(draft, &runs);
    let mut blocks: Vec<Block> = Vec::new();
    let mut block_of = Vec::with_capacity(lives.len());
    for (buffer, live) in draft.buffers.iter().zip(&lives) {
        // Buffers are in order of the steps that write them: what is overwritten came earlier.
        let block = live.in_place_of.map_or(blocks.len(), |operand| block_of[operand.0]);
        if block == blocks.len() {
            let bytes = buffer.bytes.next_multiple_of(kind.align_bytes());
            blocks.push(Block { bytes, first: runs[live.first], last: 0 });
        }
        blocks[block].last = blocks[block].last.max(runs[live.last]);
        block_of.push(block);
    }
    Liveness { lives, blocks, block_of }
}

fn lives(draft: &Draft, runs: &[usize]) -> Vec<Live> {
    let mut touching: Vec<Vec<usize>> = vec![Vec::new(); draft.buffers.len()];
    for (index, step) in draft.steps.iter().enumerate() {
        for slot in &step.slots {
            if let Slot::Buffer(id) = slot {
                touching[id.0].push(index);
            }
        }
    }
    let mut lives: Vec<Live> = touching
        .iter()
        .map(|steps| Live { first: steps[0], last: steps[steps.len() - 1], in_place_of: None })
        .collect();
    lives[draft.logits.0.0].last = draft.steps.len() - 1;

    for (index, step) in draft.steps.iter().enumerate() {
        for result in step.buffers(Access::WriteOver) {
            let free = |operand: &BufferId| {
                let mut in_run = touching[operand.0].iter().filter(|&&step| runs[step] == runs[index]);
                lives[operand.0].last == index
                    && in_run.all(|&step| step == index)
                    && draft.buffers[operand.0].bytes == draft.buffers[result.0].bytes
                    && step.buffers(Access::WriteOver).all(|other| lives[other.0].in_place_of != Some(*operand))
            };
            lives[result.0].in_place_of = step.buffers(Access::Read).find(free);
        }
    }
    lives
}

/// The number of the run that each step is in.
fn runs(barriers: &[bool]) -> Vec<usize> {
    let mut run = 0;
    let count = |&barrier: &bool| {
        run += usize::from(barrier);
        run
    };
    barriers.iter().map(count).collect()
}

/// The least arena that the steps could do with, in this order: a barrier before each.
pub(crate) fn least_bytes(draft: &Draft, kind: TargetKind) -> u64 {
    let apart = liveness(draft, kind, &vec![true; draft.steps.len()]);
    live_bytes(&apart.blocks).into_iter().max().unwrap_or(0)
}

/// Adds a barrier before every step of the runs whose buffers together need more than `budget` bytes, so that what is dead
/// in the middle of such a run gives its place to what is not there yet.
pub(crate) fn split_runs(draft: &Draft, kind: TargetKind, barriers: &mut [bool], budget: u64) {
    let runs = runs(barriers);
    let bytes = live_bytes(&liveness(draft, kind, barriers).blocks);
    for step in 1..barriers.len() {
        barriers[step] |= bytes[runs[step]] > budget;
    }
}
