//! When each buffer holds something: from the step that writes it to the last one that reads it.
//!
//! The arena sees time in runs of steps without a barrier between them: threads may be anywhere in a run, so a buffer
//! occupies its bytes from the run of its first step to the run of its last.
//!
//! Where a kernel can write a result over an operand ([`Access::WriteOver`]), the result takes the operand's place if nobody
//! reads that one again, it is of the same size, and no other step of the run touches it (another thread may still be there).

use jambac_kernels::kernel::Access;

use crate::arena::Block;
use crate::select::{BufferId, Draft, Slot};

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

/// Live ranges of an entry's buffers, given where barriers stand.
pub(crate) fn live(draft: &Draft, barriers: &[bool]) -> Vec<Live> {
    let mut touching: Vec<Vec<usize>> = vec![Vec::new(); draft.buffers.len()];
    for (index, step) in draft.steps.iter().enumerate() {
        for slot in &step.slots {
            if let Slot::Buffer(id) = slot {
                touching[id.0].push(index);
            }
        }
    }
    let mut live: Vec<Live> = touching
        .iter()
        .map(|steps| Live { first: steps[0], last: steps[steps.len() - 1], in_place_of: None })
        .collect();
    live[draft.logits.0.0].last = draft.steps.len() - 1;

    let runs = runs(barriers);
    for (index, step) in draft.steps.iter().enumerate() {
        let params = step.kernel.params();
        let buffers_with = |access: Access| {
            params.iter().zip(&step.slots).filter_map(move |(param, &slot)| match slot {
                Slot::Buffer(id) if param.access() == Some(access) => Some(id),
                _ => None,
            })
        };
        for result in buffers_with(Access::WriteOver) {
            let free = |operand: &BufferId| {
                let mut in_run = touching[operand.0].iter().filter(|&&step| runs[step] == runs[index]);
                live[operand.0].last == index
                    && in_run.all(|&step| step == index)
                    && draft.buffers[operand.0].bytes == draft.buffers[result.0].bytes
                    && buffers_with(Access::WriteOver).all(|other| live[other.0].in_place_of != Some(*operand))
            };
            live[result.0].in_place_of = buffers_with(Access::Read).find(free);
        }
    }
    live
}

/// The number of the barrier-free run that each step is in.
fn runs(barriers: &[bool]) -> Vec<usize> {
    barriers
        .iter()
        .scan(0, |run, &barrier| {
            *run += usize::from(barrier);
            Some(*run)
        })
        .collect()
}

/// What the arena has to place: chains of buffers that overwrite each other, as one block each, with time in runs.
/// Beside them, the block of each buffer.
pub(crate) fn blocks(draft: &Draft, live: &[Live], barriers: &[bool]) -> (Vec<Block>, Vec<usize>) {
    let runs = runs(barriers);
    let mut blocks: Vec<Block> = Vec::new();
    let mut block_of = Vec::with_capacity(live.len());
    for (buffer, life) in draft.buffers.iter().zip(live) {
        // Buffers are in order of the steps that write them: what is overwritten came earlier.
        let block = match life.in_place_of {
            Some(operand) => block_of[operand.0],
            None => {
                blocks.push(Block { bytes: buffer.bytes, first: runs[life.first], last: 0 });
                blocks.len() - 1
            }
        };
        blocks[block].last = blocks[block].last.max(runs[life.last]);
        block_of.push(block);
    }
    (blocks, block_of)
}
