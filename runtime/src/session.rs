//! Sequences and the two pools they live from: slots of state, pages of keys and values.
//!
//! A sequence owns its slot. Its pages it may share with its forks: the full ones are never written again, and of the last,
//! partly filled one a sequence takes a copy before it writes, as long as another one holds it too (copy on write).

mod moves;

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use jamba_plan::cost::Size;
use jamba_plan::format::{Entry, EntryKind, KV_PAGE_TOKENS, Manifest, Program, ProgramInfo, Table, TargetKind};
use jamba_plan::tables;

use crate::device::{Counts, Device, Piece};
use crate::pool::Pages;
use crate::{Pool, RuntimeError};

/// A sequence of an engine. Refused by every other engine, and by its own once it was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId {
    engine: u32,
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
    pub(crate) fn rows(self, n_tokens: usize) -> u64 {
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
    tokens: Vec<u32>,
    /// Its KV pages, in order of their tokens: as many as the tokens fill, the last one perhaps in part.
    pages: Vec<u32>,
    /// Tokens that the sequence had at its checkpoint.
    checkpoint: Option<u64>,
    /// The last step that was looked at with this slot in it.
    seen: u64,
}

impl Slot {
    /// Tokens so far.
    fn past(&self) -> u64 {
        self.tokens.len() as u64
    }
}

/// The page of a sequence of `n_tokens` that its next token is written to; None where it begins a new page.
fn tail(pages: &[u32], n_tokens: u64) -> Option<u32> {
    if n_tokens.is_multiple_of(KV_PAGE_TOKENS) {
        None
    } else {
        pages.get((n_tokens / KV_PAGE_TOKENS) as usize).copied()
    }
}

/// Engines that this process has opened.
static N_ENGINES: AtomicU32 = AtomicU32::new(0);

/// All sequences of an engine.
pub(crate) struct Sequences {
    /// Which engine of this process they belong to.
    engine: u32,
    slots: Vec<Slot>,
    /// The lowest free one last at first.
    free_slots: Vec<u32>,
    pages: Pages,
    max_context: u64,
    vocab: u64,
    /// False for models without attention: their sequences need no pages.
    has_kv: bool,
    /// Elements of one row of [`Table::Pages`].
    pages_stride: usize,
    /// Steps that were looked at, admitted or not.
    looks: u64,
    /// By entry of the program.
    entries: Vec<Most>,
    /// Index of the entry that takes any step.
    prefill: usize,
    /// True where an entry that decodes gives a prompt the bits that prefill gives it.
    decodes_prompts: bool,
}

/// Where the tokens of a step come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Some are a prompt's: whichever way it is cut into steps, it has the same bits.
    Prompt,
    /// Nobody says.
    Any,
}

/// The largest step that an entry takes.
#[derive(Clone, Copy)]
struct Most {
    kind: EntryKind,
    tokens: u64,
    sequences: u64,
    outputs: u64,
}

impl Most {
    fn of(entry: &Entry) -> Most {
        let &Entry { kind, max_tokens: tokens, max_sequences: sequences, max_outputs: outputs, .. } = entry;
        Most { kind, tokens, sequences, outputs }
    }

    fn fits(self, counts: Counts) -> bool {
        counts.tokens <= self.tokens && counts.sequences <= self.sequences && counts.outputs <= self.outputs
    }
}

/// A step that was checked: it can run and will not fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admitted {
    /// Index of the entry.
    pub(crate) entry: usize,
    pub(crate) kind: EntryKind,
    pub(crate) counts: Counts,
}

impl Sequences {
    pub(crate) fn new(manifest: &Manifest, info: &ProgramInfo, program: &Program) -> Sequences {
        let limits = &manifest.limits;
        let pages_stride = tables::pages_per_sequence(limits) as usize;
        let n_pages = (limits.kv_tokens / KV_PAGE_TOKENS) as u32;
        let has_kv = info.memory.kv_page > 0;
        let most_pages = if has_kv { pages_stride.min(n_pages as usize) } else { 0 };
        let prefill = program.entries.iter().position(|entry| entry.kind == EntryKind::Prefill);
        let slot = |_| Slot {
            generation: 0,
            live: false,
            tokens: Vec::with_capacity(limits.max_context as usize),
            pages: Vec::with_capacity(most_pages),
            checkpoint: None,
            seen: 0,
        };
        Sequences {
            engine: N_ENGINES.fetch_add(1, Ordering::Relaxed),
            slots: (0..limits.max_sequences).map(slot).collect(),
            free_slots: (0..limits.max_sequences as u32).rev().collect(),
            pages: Pages::new(n_pages),
            max_context: limits.max_context,
            vocab: manifest.model.vocab,
            has_kv,
            pages_stride,
            looks: 0,
            entries: program.entries.iter().map(Most::of).collect(),
            prefill: prefill.expect("a plan that was verified has an entry that prefills"),
            decodes_prompts: info.kind == TargetKind::Cpu,
        }
    }

    /// Takes a slot; the caller fills it.
    pub(crate) fn add(&mut self) -> Result<(SequenceId, u32), RuntimeError> {
        let exhausted = RuntimeError::PoolExhausted { pool: Pool::State, wanted: 1, free: 0 };
        let index = self.free_slots.pop().ok_or(exhausted)?;
        let slot = &mut self.slots[index as usize];
        slot.live = true;
        Ok((SequenceId { engine: self.engine, slot: index, generation: slot.generation }, index))
    }

    /// Gives back the slot, and the pages that nobody else holds.
    pub(crate) fn remove(&mut self, id: SequenceId, device: &mut dyn Device) -> Result<u32, RuntimeError> {
        self.get(id)?;
        let slot = &mut self.slots[id.slot as usize];
        slot.live = false;
        slot.generation = slot.generation.wrapping_add(1);
        slot.checkpoint = None;
        self.cut(id.slot, 0, device);
        device.discard(Piece::Slot(id.slot));
        self.free_slots.push(id.slot);
        Ok(id.slot)
    }

    /// Tokens that a sequence has taken.
    pub(crate) fn tokens(&self, id: SequenceId) -> Result<&[u32], RuntimeError> {
        Ok(&self.get(id)?.tokens)
    }

    /// Slots and pages that are free.
    pub(crate) fn free(&self) -> (u64, u64) {
        (self.free_slots.len() as u64, self.pages.n_free())
    }

    /// Most tokens of one prefill step.
    pub(crate) fn prefill_tokens(&self) -> u64 {
        self.entries[self.prefill].tokens
    }

    /// Most rows of logits of one prefill step.
    pub(crate) fn prefill_outputs(&self) -> u64 {
        self.entries[self.prefill].outputs
    }

    fn get(&self, id: SequenceId) -> Result<&Slot, RuntimeError> {
        let slot = self.slots.get(id.slot as usize).filter(|slot| slot.live && slot.generation == id.generation);
        slot.filter(|_| id.engine == self.engine).ok_or(RuntimeError::UnknownSequence(id))
    }

    /// Pages of a sequence of that many tokens.
    fn pages_of(&self, n_tokens: u64) -> u64 {
        if self.has_kv { n_tokens.div_ceil(KV_PAGE_TOKENS) } else { 0 }
    }

    /// Checks that a sequence can take these tokens, in any number of steps; changes nothing.
    pub(crate) fn check_room(&self, id: SequenceId, tokens: &[u32]) -> Result<(), RuntimeError> {
        let wanted = self.check_feed(&Feed { sequence: id, tokens, outputs: Outputs::None }, &[])?;
        self.pages.check(wanted, 0)
    }

    /// Checks tokens that a sequence of `past` would take.
    fn check_tokens(&self, past: u64, tokens: &[u32]) -> Result<(), RuntimeError> {
        if tokens.is_empty() {
            return Err(RuntimeError::NoTokens);
        }
        if let Some(&token) = tokens.iter().find(|&&token| u64::from(token) >= self.vocab) {
            return Err(RuntimeError::TokenOutOfRange { token, vocab: self.vocab });
        }
        let wanted = past + tokens.len() as u64;
        if wanted > self.max_context {
            return Err(RuntimeError::ContextFull { wanted, max_context: self.max_context });
        }
        Ok(())
    }

    /// Checks a feed that comes after others of its step; returns the pages it wants.
    fn check_feed(&self, feed: &Feed<'_>, earlier: &[Feed<'_>]) -> Result<u64, RuntimeError> {
        let slot = self.get(feed.sequence)?;
        self.check_tokens(slot.past(), feed.tokens)?;
        let new = self.pages_of(slot.past() + feed.tokens.len() as u64) - slot.pages.len() as u64;
        let Some(page) = tail(&slot.pages, slot.past()).filter(|&page| self.pages.holders(page) > 1) else {
            return Ok(new);
        };
        // Whoever writes before us lets go of the page; the last holder writes into it.
        let writes =
            |other: &&Feed<'_>| self.get(other.sequence).is_ok_and(|slot| tail(&slot.pages, slot.past()) == Some(page));
        let left = self.pages.holders(page) as usize - earlier.iter().filter(writes).count();
        Ok(new + u64::from(left > 1))
    }

    /// Checks a step and picks its entry: the smallest that decodes where every sequence has one token, unless a prompt's
    /// tokens have other bits there. Changes no sequence.
    pub(crate) fn admit(&mut self, feeds: &[Feed<'_>], origin: Origin) -> Result<Admitted, RuntimeError> {
        let mut counts = Counts { tokens: 0, sequences: feeds.len() as u64, outputs: 0 };
        let mut pages = 0;
        self.looks += 1;
        for (index, feed) in feeds.iter().enumerate() {
            pages += self.check_feed(feed, &feeds[..index])?;
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
        self.pages.check(pages, 0)?;
        let single = feeds.iter().all(|feed| feed.tokens.len() == 1);
        if single && (origin == Origin::Any || self.decodes_prompts) {
            let fits = |most: &Most| most.kind == EntryKind::Decode && most.fits(counts);
            if let Some(entry) = self.entries.iter().position(fits) {
                return Ok(Admitted { entry, kind: EntryKind::Decode, counts });
            }
        }
        let prefill = self.entries[self.prefill];
        let checks = [
            ("tokens", counts.tokens, prefill.tokens),
            ("sequences", counts.sequences, prefill.sequences),
            ("rows of logits", counts.outputs, prefill.outputs),
        ];
        match checks.into_iter().find(|(_, found, most)| found > most) {
            Some((what, found, most)) => Err(RuntimeError::StepTooLarge { what, found, most }),
            None => Ok(Admitted { entry: self.prefill, kind: EntryKind::Prefill, counts }),
        }
    }

    /// How large an admitted step is.
    pub(crate) fn size(&self, feeds: &[Feed<'_>], counts: Counts) -> Size {
        let attended = |feed: &Feed<'_>| {
            let (past, n) = (self.slots[feed.sequence.slot as usize].past() as f64, feed.tokens.len() as f64);
            n * past + n * (n + 1.0) / 2.0
        };
        let tokens = counts.tokens as f64;
        let context = feeds.iter().map(attended).sum::<f64>() / tokens;
        Size { tokens, sequences: counts.sequences as f64, outputs: counts.outputs as f64, context }
    }

    /// Takes the pages of an admitted step, fills in its tables, and moves the sequences on.
    pub(crate) fn advance(&mut self, feeds: &[Feed<'_>], device: &mut dyn Device) {
        let (mut token, mut row) = (0, 0);
        device.table(Table::Starts)[0] = 0;
        for (index, feed) in feeds.iter().enumerate() {
            let (n, past) = (feed.tokens.len(), self.slots[feed.sequence.slot as usize].past());
            self.grow(feed.sequence.slot, n as u64, device);
            let slot = &mut self.slots[feed.sequence.slot as usize];
            slot.tokens.extend_from_slice(feed.tokens);
            for (id, &fed) in device.table(Table::Ids)[token..token + n].iter_mut().zip(feed.tokens) {
                *id = fed as i32;
            }
            device.table(Table::SequenceOf)[token..token + n].fill(index as i32);
            device.table(Table::Past)[index] = past as i32;
            device.table(Table::Slots)[index] = feed.sequence.slot as i32;
            let begin = index * self.pages_stride;
            let entries = &mut device.table(Table::Pages)[begin..begin + slot.pages.len()];
            for (entry, &page) in entries.iter_mut().zip(&slot.pages) {
                *entry = page as i32;
            }
            let rows = feed.outputs.rows(n) as usize;
            for (wanted, at) in device.table(Table::Rows)[row..row + rows].iter_mut().zip(token + n - rows..) {
                *wanted = at as i32;
            }
            (token, row) = (token + n, row + rows);
            device.table(Table::Starts)[index + 1] = token as i32;
        }
    }

    /// Takes the pages that a sequence needs to write `n_tokens` more, a copy of its last one where that is shared.
    fn grow(&mut self, slot: u32, n_tokens: u64, device: &mut dyn Device) {
        let past = self.slots[slot as usize].past();
        let wanted = self.pages_of(past + n_tokens);
        let held = &mut self.slots[slot as usize].pages;
        if let Some(shared) = tail(held, past).filter(|&page| self.pages.holders(page) > 1)
            && let Some(last) = held.last_mut()
        {
            *last = self.pages.take();
            device.copy(Piece::Page(shared), Piece::Page(*last));
            self.pages.release(shared);
        }
        while (held.len() as u64) < wanted {
            let page = self.pages.take();
            device.clear(Piece::Page(page));
            held.push(page);
        }
    }

    /// Cuts a sequence to its first `n_tokens`; pages that nobody holds any more are free again. State stays as it is.
    fn cut(&mut self, slot: u32, n_tokens: u64, device: &mut dyn Device) {
        let wanted = self.pages_of(n_tokens) as usize;
        let slot = &mut self.slots[slot as usize];
        slot.tokens.truncate(n_tokens as usize);
        for page in slot.pages.drain(wanted..).rev() {
            if self.pages.release(page) {
                device.discard(Piece::Page(page));
            }
        }
    }
}
