//! Sequences and their memory: one state slot each, and pages of keys and values.
//!
//! Forks share KV pages. Full pages are never written again. The last, partially filled page is copied before a write if
//! another sequence holds it too (copy on write).

mod moves;

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use jamba_plan::cost::Size;
use jamba_plan::format::{Entry, EntryKind, KV_PAGE_TOKENS, Manifest, Program, ProgramInfo, Table, TargetKind};

use super::pages::Pages;
use crate::device::{Counts, Device, Piece};
use crate::{Pool, RuntimeError};

/// Identifies a sequence of one engine. Other engines reject it, and so does its own engine after the sequence was removed.
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

/// The rows of logits that a feed returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// No rows, for a prompt that continues in a later step.
    None,
    /// The row of the last token.
    Last,
    /// One row per token.
    All,
}

impl Outputs {
    /// Number of rows for `n_tokens` tokens.
    pub(crate) fn rows(self, n_tokens: usize) -> u64 {
        match self {
            Outputs::None => 0,
            Outputs::Last => 1,
            Outputs::All => n_tokens as u64,
        }
    }
}

/// The tokens that one step appends to one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// The sequence; at most once per step.
    pub sequence: SequenceId,
    /// The next tokens, at least one.
    pub tokens: &'a [u32],
    /// The rows of logits to return.
    pub outputs: Outputs,
}

/// A state slot and the sequence that uses it.
struct Slot {
    generation: u32,
    live: bool,
    /// All tokens of the sequence.
    tokens: Vec<u32>,
    /// KV pages in the order of their tokens; the last one may be partially filled.
    pages: Vec<u32>,
    /// Length of the sequence at its checkpoint.
    checkpoint: Option<u64>,
    /// [`Sequences::looks`] of the last step with this slot, to find duplicates.
    seen: u64,
}

impl Slot {
    /// Number of tokens in the sequence.
    fn past(&self) -> u64 {
        self.tokens.len() as u64
    }
}

/// An empty list with room for `n` items.
///
/// # Errors
/// [`RuntimeError::Memory`] where a list that grows would end the process.
pub(super) fn reserved<T>(n: usize) -> Result<Vec<T>, RuntimeError> {
    let mut list = Vec::new();
    list.try_reserve_exact(n).map_err(|_| RuntimeError::Memory {
        what: "the lists of tokens and pages",
        bytes: n.saturating_mul(size_of::<T>()) as u64,
        source: std::io::ErrorKind::OutOfMemory.into(),
    })?;
    Ok(list)
}

/// The partially filled page that token `n_tokens` is written to; None if that token starts a new page.
fn tail(pages: &[u32], n_tokens: u64) -> Option<u32> {
    if n_tokens.is_multiple_of(KV_PAGE_TOKENS) {
        None
    } else {
        pages.get((n_tokens / KV_PAGE_TOKENS) as usize).copied()
    }
}

/// Number of engines opened in this process.
static N_ENGINES: AtomicU32 = AtomicU32::new(0);

/// All sequences of an engine.
pub(crate) struct Sequences {
    /// Number of this engine within the process.
    engine: u32,
    slots: Vec<Slot>,
    /// Free list, a stack; initially the lowest index is on top.
    free_slots: Vec<u32>,
    pages: Pages,
    max_context: u64,
    vocab: u64,
    /// False for models without attention, whose sequences need no pages.
    has_kv: bool,
    /// Row stride of [`Table::Pages`], in elements.
    pages_stride: usize,
    /// Number of calls of [`Sequences::admit`].
    looks: u64,
    /// Limits of each entry of the program.
    entries: Vec<Most>,
    /// Index of the prefill entry, which accepts any step within its limits.
    prefill: usize,
    /// True if decode entries give a prompt the same bits as the prefill entry: on CPUs, not on GPUs.
    decodes_prompts: bool,
}

/// Where the tokens of a step come from; decides whether a decode entry may run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// At least one is part of a prompt. The results must not depend on how the prompt is split into steps.
    Prompt,
    /// No prompt, or unknown.
    Any,
}

/// The limits of an entry.
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
    /// `pages_stride` is the row stride of [`Table::Pages`], which depends on the plan's limits; those of `manifest` may be
    /// lower.
    ///
    /// # Errors
    /// [`RuntimeError::Memory`] if the lists of tokens and pages do not fit: 4 bytes for each token of each sequence, and some more.
    pub(crate) fn new(
        manifest: &Manifest,
        info: &ProgramInfo,
        program: &Program,
        pages_stride: u64,
    ) -> Result<Sequences, RuntimeError> {
        let limits = &manifest.limits;
        let pages_stride = pages_stride as usize;
        let n_pages = (limits.kv_tokens / KV_PAGE_TOKENS) as u32;
        let has_kv = info.memory.kv_page > 0;
        let most_pages = if has_kv { pages_stride.min(n_pages as usize) } else { 0 };
        let prefill = program.entries.iter().position(|entry| entry.kind == EntryKind::Prefill);
        let slot = || -> Result<Slot, RuntimeError> {
            let (tokens, pages) = (reserved(limits.max_context as usize)?, reserved(most_pages)?);
            Ok(Slot { generation: 0, live: false, tokens, pages, checkpoint: None, seen: 0 })
        };
        let mut slots = reserved(limits.max_sequences as usize)?;
        for _ in 0..limits.max_sequences {
            slots.push(slot()?);
        }
        let mut free_slots = reserved(limits.max_sequences as usize)?;
        free_slots.extend((0..limits.max_sequences as u32).rev());
        Ok(Sequences {
            engine: N_ENGINES.fetch_add(1, Ordering::Relaxed),
            slots,
            free_slots,
            pages: Pages::new(n_pages)?,
            max_context: limits.max_context,
            vocab: manifest.model.vocab,
            has_kv,
            pages_stride,
            looks: 0,
            entries: program.entries.iter().map(Most::of).collect(),
            prefill: prefill.expect("a plan that was verified has an entry that prefills"),
            decodes_prompts: info.kind == TargetKind::Cpu,
        })
    }

    /// Assigns a slot. The caller initializes its memory.
    pub(crate) fn add(&mut self) -> Result<(SequenceId, u32), RuntimeError> {
        let exhausted = RuntimeError::PoolExhausted { pool: Pool::State, wanted: 1, free: 0 };
        let index = self.free_slots.pop().ok_or(exhausted)?;
        let slot = &mut self.slots[index as usize];
        slot.live = true;
        Ok((SequenceId { engine: self.engine, slot: index, generation: slot.generation }, index))
    }

    /// Frees the slot and the pages that no other sequence holds.
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

    /// The tokens of a sequence.
    pub(crate) fn tokens(&self, id: SequenceId) -> Result<&[u32], RuntimeError> {
        Ok(&self.get(id)?.tokens)
    }

    /// Numbers of free slots and free pages.
    pub(crate) fn free(&self) -> (u64, u64) {
        (self.free_slots.len() as u64, self.pages.n_free())
    }

    /// Maximum number of tokens in a prefill step.
    pub(crate) fn prefill_tokens(&self) -> u64 {
        self.entries[self.prefill].tokens
    }

    /// Maximum number of rows of logits in a prefill step.
    pub(crate) fn prefill_outputs(&self) -> u64 {
        self.entries[self.prefill].outputs
    }

    fn get(&self, id: SequenceId) -> Result<&Slot, RuntimeError> {
        let slot = self.slots.get(id.slot as usize).filter(|slot| slot.live && slot.generation == id.generation);
        slot.filter(|_| id.engine == self.engine).ok_or(RuntimeError::UnknownSequence(id))
    }

    /// Number of pages of a sequence of `n_tokens` tokens.
    fn pages_of(&self, n_tokens: u64) -> u64 {
        if self.has_kv { n_tokens.div_ceil(KV_PAGE_TOKENS) } else { 0 }
    }

    /// Checks that these tokens can be appended to a sequence, in one or more steps. Changes nothing.
    pub(crate) fn check_room(&self, id: SequenceId, tokens: &[u32]) -> Result<(), RuntimeError> {
        let wanted = self.check_feed(Feed { sequence: id, tokens, outputs: Outputs::None }, std::iter::empty())?;
        self.pages.check(wanted, 0)
    }

    /// Checks the values of `tokens` and the length of a sequence of `past` tokens after them.
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

    /// Checks a feed and returns the number of pages that it needs, given the `earlier` feeds of the same step.
    fn check_feed<'f>(&self, feed: Feed<'_>, earlier: impl Iterator<Item = Feed<'f>>) -> Result<u64, RuntimeError> {
        let slot = self.get(feed.sequence)?;
        self.check_tokens(slot.past(), feed.tokens)?;
        let new = self.pages_of(slot.past() + feed.tokens.len() as u64) - slot.pages.len() as u64;
        let Some(page) = tail(&slot.pages, slot.past()).filter(|&page| self.pages.holders(page) > 1) else {
            return Ok(new);
        };
        // Each earlier writer replaces the shared page by a copy. The last holder writes in place.
        let writes =
            |other: &Feed<'_>| self.get(other.sequence).is_ok_and(|slot| tail(&slot.pages, slot.past()) == Some(page));
        let left = self.pages.holders(page) as usize - earlier.filter(writes).count();
        Ok(new + u64::from(left > 1))
    }

    /// Checks a step and picks its entry: the smallest decode entry if every sequence has one token and the entry gives the
    /// right bits, otherwise the prefill entry. Changes no sequence.
    pub(crate) fn admit<'f>(
        &mut self,
        feeds: impl Iterator<Item = Feed<'f>> + Clone,
        origin: Origin,
    ) -> Result<Admitted, RuntimeError> {
        let mut counts = Counts { tokens: 0, sequences: 0, outputs: 0 };
        let mut pages = 0;
        self.looks += 1;
        for (index, feed) in feeds.clone().enumerate() {
            pages += self.check_feed(feed, feeds.clone().take(index))?;
            let seen = &mut self.slots[feed.sequence.slot as usize].seen;
            if std::mem::replace(seen, self.looks) == self.looks {
                return Err(RuntimeError::SequenceTwice(feed.sequence));
            }
            counts.sequences += 1;
            counts.tokens += feed.tokens.len() as u64;
            counts.outputs += feed.outputs.rows(feed.tokens.len());
        }
        if counts.sequences == 0 {
            return Err(RuntimeError::NoTokens);
        }
        self.pages.check(pages, 0)?;
        let single = counts.tokens == counts.sequences; // every feed has at least one token
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

    /// The size of an admitted step, for cost models.
    pub(crate) fn size<'f>(&self, feeds: impl Iterator<Item = Feed<'f>>, counts: Counts) -> Size {
        let attended = |feed: Feed<'_>| {
            let (past, n) = (self.slots[feed.sequence.slot as usize].past() as f64, feed.tokens.len() as f64);
            n * past + n * (n + 1.0) / 2.0
        };
        let tokens = counts.tokens as f64;
        let context = feeds.map(attended).sum::<f64>() / tokens;
        Size { tokens, sequences: counts.sequences as f64, outputs: counts.outputs as f64, context }
    }

    /// Allocates the pages of an admitted step, fills the step tables and appends the tokens to their sequences.
    pub(crate) fn advance<'f>(&mut self, feeds: impl Iterator<Item = Feed<'f>>, device: &mut dyn Device) {
        let (mut token, mut row) = (0, 0);
        device.table(Table::Starts)[0] = 0;
        for (index, feed) in feeds.enumerate() {
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

    /// Allocates the pages for `n_tokens` more tokens. Copies the last page if it is shared.
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

    /// Truncates a sequence to `n_tokens` tokens and frees unused pages. The state slot is not changed.
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
