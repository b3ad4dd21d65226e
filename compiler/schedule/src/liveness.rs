//! Live ranges of buffers: from the step that writes a buffer to the last step that reads it.
//!
//! The arena measures time in runs, which are sequences of steps without a barrier between them. Threads may be anywhere in a
//! run, so a buffer occupies its bytes from the run of its first step to the run of its last step.
//!
//! If a kernel can write a result over an operand ([`Access::WriteOver`]), the result reuses the operand's bytes, provided that
//! no later step reads the operand, both have the same size, and no other step of the run accesses the operand (another thread
//! may still execute that step).

use jamba_plan::format::TargetKind;
use jambac_kernels::kernel::Access;

use crate::arena::{Block, live_bytes};
use crate::select::{BufferId, Draft, Slot};

/// Live ranges, and the blocks that the arena places.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// By buffer.
    pub(crate) lives: Vec<Live>,
    /// Buffers that overwrite each other form one block. Time is in runs.
    pub(crate) blocks: Vec<Block>,
    /// The block of each buffer.
    pub(crate) block_of: Vec<usize>,
}

/// Live range of a buffer, and the buffer that it overwrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    /// The step that writes the buffer.
    pub(crate) first: usize,
    /// The last step that reads the buffer.
    pub(crate) last: usize,
    /// The operand of the first step whose bytes the buffer reuses.
    pub(crate) in_place_of: Option<BufferId>,
}

/// Computes the live ranges for the given barriers.
pub(crate) fn liveness(draft: &Draft, kind: TargetKind, barriers: &[bool]) -> Liveness {
    let runs = runs(barriers);
    let lives = lives(draft, &runs);
    let mut blocks: Vec<Block> = Vec::new();
    let mut block_of = Vec::with_capacity(lives.len());
    for (buffer, live) in draft.buffers.iter().zip(&lives) {
        // Buffers are ordered by the steps that write them, so an overwritten buffer precedes the one that overwrites it.
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

/// The run of each step, by index.
fn runs(barriers: &[bool]) -> Vec<usize> {
    let mut run = 0;
    let count = |&barrier: &bool| {
        run += usize::from(barrier);
        run
    };
    barriers.iter().map(count).collect()
}

/// The minimum arena size for this order of steps: the size with a barrier before each step.
pub(crate) fn least_bytes(draft: &Draft, kind: TargetKind) -> u64 {
    let apart = liveness(draft, kind, &vec![true; draft.steps.len()]);
    live_bytes(&apart.blocks).into_iter().max().unwrap_or(0)
}

/// Adds a barrier before every step of the runs whose buffers together need more than `budget` bytes. Then buffers that die
/// inside such a run can share memory with buffers that are written later in it.
pub(crate) fn split_runs(draft: &Draft, kind: TargetKind, barriers: &mut [bool], budget: u64) {
    let runs = runs(barriers);
    let bytes = live_bytes(&liveness(draft, kind, barriers).blocks);
    for step in 1..barriers.len() {
        barriers[step] |= bytes[runs[step]] > budget;
    }
}
