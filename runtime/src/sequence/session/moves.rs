//! Bookkeeping of forks, restored snapshots and rollbacks. Each function checks everything before it changes anything.

use super::{Sequences, tail};
use crate::device::{Device, Piece};
use crate::{Pool, RuntimeError, SequenceId};

/// A checked rollback: to the checkpoint, then forward to `end`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WayBack {
    pub(crate) slot: u32,
    /// Length at the checkpoint.
    pub(crate) checkpoint: u64,
    /// Length after the rollback.
    pub(crate) end: u64,
}

impl Sequences {
    /// The slot of a sequence.
    pub(crate) fn slot_of(&self, id: SequenceId) -> Result<u32, RuntimeError> {
        self.get(id).map(|_| id.slot)
    }

    /// The pages of a sequence, in order of their tokens.
    pub(crate) fn pages(&self, id: SequenceId) -> Result<&[u32], RuntimeError> {
        Ok(&self.get(id)?.pages)
    }

    /// Adds a copy of a sequence. Pages are shared; the state slot is copied.
    pub(crate) fn fork(&mut self, id: SequenceId, device: &mut dyn Device) -> Result<SequenceId, RuntimeError> {
        self.get(id)?;
        let (fork, slot) = self.add()?;
        let both = self.slots.get_disjoint_mut([slot as usize, id.slot as usize]);
        let [new, old] = both.expect("the free slot is not the slot of a live sequence");
        new.tokens.extend_from_slice(&old.tokens);
        new.pages.extend_from_slice(&old.pages);
        old.pages.iter().for_each(|&page| self.pages.share(page));
        device.copy(Piece::Slot(id.slot), Piece::Slot(slot));
        Ok(fork)
    }

    /// Checks that a new sequence of these tokens can be added. Changes nothing.
    pub(crate) fn check_new(&self, tokens: &[u32]) -> Result<(), RuntimeError> {
        self.check_tokens(0, tokens)?;
        self.check_place(tokens.len() as u64)
    }

    /// Fails if there is no free slot, or too few free pages for `n_tokens` tokens.
    fn check_place(&self, n_tokens: u64) -> Result<(), RuntimeError> {
        if self.free_slots.is_empty() {
            return Err(RuntimeError::PoolExhausted { pool: Pool::State, wanted: 1, free: 0 });
        }
        self.pages.check(self.pages_of(n_tokens), 0)
    }

    /// Adds a sequence with these tokens. The caller writes its slot and its pages.
    pub(crate) fn adopt(&mut self, tokens: &[u32]) -> Result<SequenceId, RuntimeError> {
        let wanted = tokens.len() as u64;
        if wanted > self.max_context {
            return Err(RuntimeError::ContextFull { wanted, max_context: self.max_context });
        }
        self.check_place(wanted)?;
        let (id, slot) = self.add()?;
        let wanted = self.pages_of(tokens.len() as u64);
        let slot = &mut self.slots[slot as usize];
        slot.tokens.extend_from_slice(tokens);
        slot.pages.extend((0..wanted).map(|_| self.pages.take()));
        Ok(id)
    }

    /// Records that the caller saved the current state of a sequence.
    pub(crate) fn mark(&mut self, id: SequenceId) -> Result<(), RuntimeError> {
        self.get(id)?;
        let slot = &mut self.slots[id.slot as usize];
        slot.checkpoint = Some(slot.past());
        Ok(())
    }

    /// Checks that the last `n_tokens` tokens of a sequence can be removed by going back to its checkpoint and replaying the
    /// tokens that stay. Changes nothing.
    pub(crate) fn check_back(&self, id: SequenceId, n_tokens: u64) -> Result<WayBack, RuntimeError> {
        let slot = self.get(id)?;
        let refused = RuntimeError::TooFarBack { wanted: n_tokens, len: slot.past(), checkpoint: slot.checkpoint };
        let (Some(checkpoint), Some(end)) = (slot.checkpoint, slot.past().checked_sub(n_tokens)) else {
            return Err(refused);
        };
        if end < checkpoint {
            return Err(refused);
        }
        let kept = self.pages_of(checkpoint);
        let returned = slot.pages[kept as usize..].iter().filter(|&&page| self.pages.holders(page) == 1).count();
        let is_shared = tail(&slot.pages, checkpoint).is_some_and(|page| self.pages.holders(page) > 1);
        let copied = u64::from(is_shared && end > checkpoint);
        // Removing no tokens replays nothing and needs no pages.
        if n_tokens > 0 {
            self.pages.check(self.pages_of(end) - kept + copied, returned as u64)?;
        }
        Ok(WayBack { slot: id.slot, checkpoint, end })
    }

    /// Truncates a sequence to its checkpoint and stores the tokens to replay in `replay`. The caller restores the state.
    pub(crate) fn go_back(&mut self, way: WayBack, replay: &mut Vec<u32>, device: &mut dyn Device) {
        let tokens = &self.slots[way.slot as usize].tokens;
        replay.clear();
        replay.extend_from_slice(&tokens[way.checkpoint as usize..way.end as usize]);
        self.cut(way.slot, way.checkpoint, device);
    }

    /// Truncates a sequence to its first `n_tokens` tokens and returns its slot. The caller restores the state. A later
    /// checkpoint is dropped.
    pub(crate) fn rewind(
        &mut self,
        id: SequenceId,
        n_tokens: u64,
        device: &mut dyn Device,
    ) -> Result<u32, RuntimeError> {
        self.get(id)?;
        self.cut(id.slot, n_tokens, device);
        let slot = &mut self.slots[id.slot as usize];
        slot.checkpoint = slot.checkpoint.filter(|&checkpoint| checkpoint <= n_tokens);
        Ok(id.slot)
    }
}
