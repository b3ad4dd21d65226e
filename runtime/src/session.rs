//! Sequences and the two pools they live from: slots of state, pages of keys and values.

use std::fmt;

use jamba_plan::format::{Entry, EntryKind, KV_PAGE_TOKENS, Manifest, Program, Table};
use jamba_plan::tables;

use crate::device::{Counts, Device};
use crate::{Pool, RuntimeError};

/// A sequence of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId {
    slot: u32,
    generation: u32,
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sequence {}.{}", self.slot, self.generation)
    }
}

/// Which rows of logits a sequence's share of a step returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// None: more of the prompt follows.
    None,
    /// Those of the last token.
    Last,
    /// Those of every token.
    All,
}

impl Outputs {
    /// Rows for that many tokens.
    fn rows(self, n_tokens: usize) -> u64 {
        match self {
            Outputs::None => 0,
            Outputs::Last => 1,
            Outputs::All => n_tokens as u64,
        }
    }
}

/// What one sequence gets in one step.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// Its next tokens, at least one.
    pub tokens: &'a [u32],
    /// The logits that are wanted.
    pub outputs: Outputs,
}

/// A slot of state, and the sequence in it.
struct Slot {
    generation: u32,
    live: bool,
    /// Tokens so far.
    past: u64,
    /// Its KV pages, in order of their tokens.
    pages: Vec<u32>,
    /// The last step that was looked at with this slot in it.
    seen: u64,
}

/// All sequences of an engine.
pub(crate) struct Sequences {
    slots: Vec<Slot>,
    /// The lowest free one last.
    free_slots: Vec<u32>,
    free_pages: Vec<u32>,
    max_context: u64,
    vocab: u64,
    /// False for models without attention: their sequences need no pages.
    has_kv: bool,
    /// Elements of one row of [`Table::Pages`].
    pages_stride: usize,
    /// Steps that were looked at, admitted or not.
    looks: u64,
    prefill: Most,
    decode: Most,
}

/// The largest step that an entry takes.
#[derive(Clone, Copy)]
struct Most {
    tokens: u64,
    sequences: u64,
    outputs: u64,
}

impl Most {
    fn of(program: &Program, kind: EntryKind) -> Most {
        let entry: &Entry =
            program.entries.iter().find(|entry| entry.kind == kind).expect("a plan that was verified has both entries");
        Most { tokens: entry.max_tokens, sequences: entry.max_sequences, outputs: entry.max_outputs }
    }

    fn fits(self, counts: Counts) -> bool {
        counts.tokens <= self.tokens && counts.sequences <= self.sequences && counts.outputs <= self.outputs
    }
}

/// A step that was checked: it can run and will not fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admitted {
    pub(crate) entry: EntryKind,
    pub(crate) counts: Counts,
}

impl Sequences {
    pub(crate) fn new(manifest: &Manifest, program: &Program) -> Sequences {
        let limits = &manifest.limits;
        let pages_stride = tables::pages_per_sequence(limits) as usize;
        let n_pages = (limits.kv_tokens / KV_PAGE_TOKENS) as u32;
        let has_kv = manifest.memory.kv_page > 0;
        let most_pages = if has_kv { pages_stride.min(n_pages as usize) } else { 0 };
        let slot = |_| Slot { generation: 0, live: false, past: 0, pages: Vec::with_capacity(most_pages), seen: 0 };
        Sequences {
            slots: (0..limits.max_sequences).map(slot).collect(),
            free_slots: (0..limits.max_sequences as u32).rev().collect(),
            free_pages: (0..n_pages).rev().collect(),
            max_context: limits.max_context,
            vocab: manifest.model.vocab,
            has_kv,
            pages_stride,
            looks: 0,
            prefill: Most::of(program, EntryKind::Prefill),
            decode: Most::of(program, EntryKind::Decode),
        }
    }

    /// Takes a slot; the caller clears it.
    pub(crate) fn add(&mut self) -> Result<(SequenceId, u32), RuntimeError> {
        let exhausted = RuntimeError::PoolExhausted { pool: Pool::State, wanted: 1, free: 0 };
        let index = self.free_slots.pop().ok_or(exhausted)?;
        let slot = &mut self.slots[index as usize];
        (slot.live, slot.past) = (true, 0);
        Ok((SequenceId { slot: index, generation: slot.generation }, index))
    }

    /// Gives slot and pages back.
    pub(crate) fn remove(&mut self, id: SequenceId) -> Result<(), RuntimeError> {
        self.get(id)?;
        let slot = &mut self.slots[id.slot as usize];
        slot.live = false;
        slot.generation = slot.generation.wrapping_add(1);
        self.free_pages.extend(slot.pages.drain(..).rev());
        self.free_slots.push(id.slot);
        Ok(())
    }

    /// Tokens that a sequence has.
    pub(crate) fn past(&self, id: SequenceId) -> Result<u64, RuntimeError> {
        Ok(self.get(id)?.past)
    }

    /// Slots and pages that are free.
    pub(crate) fn free(&self) -> (u64, u64) {
        (self.free_slots.len() as u64, self.free_pages.len() as u64)
    }

    /// Most tokens of one prefill step.
    pub(crate) fn prefill_tokens(&self) -> u64 {
        self.prefill.tokens
    }

    /// Most rows of logits of one prefill step.
    pub(crate) fn prefill_outputs(&self) -> u64 {
        self.prefill.outputs
    }

    fn get(&self, id: SequenceId) -> Result<&Slot, RuntimeError> {
        let slot = self.slots.get(id.slot as usize).filter(|slot| slot.live && slot.generation == id.generation);
        slot.ok_or(RuntimeError::UnknownSequence(id))
    }

    /// Pages that a sequence lacks for `n_tokens` more.
    fn pages_wanted(&self, slot: &Slot, n_tokens: u64) -> u64 {
        if !self.has_kv {
            return 0;
        }
        (slot.past + n_tokens).div_ceil(KV_PAGE_TOKENS) - slot.pages.len() as u64
    }

    /// Checks that a sequence can take these tokens, in any number of steps; changes nothing.
    pub(crate) fn check_room(&self, id: SequenceId, tokens: &[u32]) -> Result<(), RuntimeError> {
        let wanted = self.check_feed(&Feed { sequence: id, tokens, outputs: Outputs::None })?;
        self.check_pages(wanted)
    }

    /// Checks a feed alone; returns the pages it wants.
    fn check_feed(&self, feed: &Feed<'_>) -> Result<u64, RuntimeError> {
        let slot = self.get(feed.sequence)?;
        if feed.tokens.is_empty() {
            return Err(RuntimeError::NoTokens);
        }
        if let Some(&token) = feed.tokens.iter().find(|&&token| u64::from(token) >= self.vocab) {
            return Err(RuntimeError::TokenOutOfRange { token, vocab: self.vocab });
        }
        let wanted = slot.past + feed.tokens.len() as u64;
        if wanted > self.max_context {
            return Err(RuntimeError::ContextFull { wanted, max_context: self.max_context });
        }
        Ok(self.pages_wanted(slot, feed.tokens.len() as u64))
    }

    fn check_pages(&self, wanted: u64) -> Result<(), RuntimeError> {
        let free = self.free_pages.len() as u64;
        if wanted > free {
            return Err(RuntimeError::PoolExhausted { pool: Pool::Kv, wanted, free });
        }
        Ok(())
    }

    /// Checks a step and picks its entry; changes no sequence.
    pub(crate) fn admit(&mut self, feeds: &[Feed<'_>]) -> Result<Admitted, RuntimeError> {
        let mut counts = Counts { tokens: 0, sequences: feeds.len() as u64, outputs: 0 };
        let mut pages = 0;
        self.looks += 1;
        for feed in feeds {
            pages += self.check_feed(feed)?;
            let seen = &mut self.slots[feed.sequence.slot as usize].seen;
            if std::mem::replace(seen, self.looks) == self.looks {
                return Err(RuntimeError::SequenceTwice(feed.sequence));
            }
            counts.tokens += feed.tokens.len() as u64;
            counts.outputs += feed.outputs.rows(feed.tokens.len());
        }
        if feeds.is_empty() {
            return Err(RuntimeError::NoTokens);
        }
        self.check_pages(pages)?;
        let single = feeds.iter().all(|feed| feed.tokens.len() == 1);
        if single && self.decode.fits(counts) {
            return Ok(Admitted { entry: EntryKind::Decode, counts });
        }
        let checks = [
            ("tokens", counts.tokens, self.prefill.tokens),
            ("sequences", counts.sequences, self.prefill.sequences),
            ("rows of logits", counts.outputs, self.prefill.outputs),
        ];
        match checks.into_iter().find(|(_, found, most)| found > most) {
            Some((what, found, most)) => Err(RuntimeError::StepTooLarge { what, found, most }),
            None => Ok(Admitted { entry: EntryKind::Prefill, counts }),
        }
    }

    /// Takes the pages of an admitted step, fills in its tables, and moves the sequences on.
    pub(crate) fn advance(&mut self, feeds: &[Feed<'_>], device: &mut dyn Device) {
        let (mut token, mut row) = (0, 0);
        device.table(Table::Starts)[0] = 0;
        for (index, feed) in feeds.iter().enumerate() {
            let slot = &self.slots[feed.sequence.slot as usize];
            let (n, past) = (feed.tokens.len(), slot.past);
            for _ in 0..self.pages_wanted(slot, n as u64) {
                let page = self.free_pages.pop().expect("an admitted step has its pages");
                self.slots[feed.sequence.slot as usize].pages.push(page);
            }
            for (id, &fed) in device.table(Table::Ids)[token..token + n].iter_mut().zip(feed.tokens) {
                *id = fed as i32;
            }
            device.table(Table::SequenceOf)[token..token + n].fill(index as i32);
            device.table(Table::Past)[index] = past as i32;
            device.table(Table::Slots)[index] = feed.sequence.slot as i32;
            let pages = &self.slots[feed.sequence.slot as usize].pages;
            let begin = index * self.pages_stride;
            for (entry, &page) in device.table(Table::Pages)[begin..begin + pages.len()].iter_mut().zip(pages) {
                *entry = page as i32;
            }
            let rows = feed.outputs.rows(n) as usize;
            for (wanted, at) in device.table(Table::Rows)[row..row + rows].iter_mut().zip(token + n - rows..) {
                *wanted = at as i32;
            }
            (token, row) = (token + n, row + rows);
            device.table(Table::Starts)[index + 1] = token as i32;
            self.slots[feed.sequence.slot as usize].past = past + n as u64;
        }
    }
}
