//! State that moves: forks, snapshots, and the way back from tokens that were fed in vain.
//!
//! What a sequence remembers is its slot of conv and SSM state and its pages of keys and values. Pages can be cut at any
//! token; conv and SSM state are sums over all that came before and cannot be: they exist where they were kept. Hence
//!
//! | | takes from the pools | host memory | copies |
//! |---|---|---|---|
//! | fork | a slot; pages as the two diverge | none | a slot |
//! | snapshot | nothing | a slot and the pages | the same |
//! | restore | a slot and the pages | none | the same |
//! | checkpoint | nothing | a slot, until the sequence ends | a slot |
//! | rollback by k | nothing | none | a slot, and the tokens between the checkpoint and the new end are read again |
//!
//! A sequence goes on from each of them with the bits it would have had: results do not depend on slots, on page numbers,
//! nor on how tokens are cut into steps.

use std::sync::Arc;

use jamba_plan::format::{KV_PAGE_TOKENS, Limits, Manifest};

use crate::device::Piece;
use crate::{Engine, Feed, Outputs, RuntimeError, SequenceId};

/// A sequence as it was at some token, in host memory; it holds nothing of an engine's pools. Cheap to clone: clones share
/// their bytes.
///
/// It fits every engine of the same plan that runs a target of the same kind, whatever its number of threads, and whichever
/// of the plan's CPU targets it runs. A sequence goes on with the bits of the first one where the targets are the same ([`Snapshot::target`]); another target
/// goes on from the same state, but rounds in its own way.
///
/// ```
/// # #[path = "../tests/fixture/mod.rs"] mod fixture;
/// # use jamba_runtime::{Engine, OpenOptions};
/// # let folder = tempfile::tempdir()?;
/// # let plan = fixture::Toy::new().write(folder.path(), "jamba.plan");
/// let mut engine = Engine::open(&plan, OpenOptions::default())?;
/// let sequence = engine.add_sequence()?;
/// engine.prefill(sequence, &[1, 20, 30], None)?;
/// let snapshot = engine.snapshot(sequence)?;
/// let first = engine.prefill(sequence, &[40], None)?.row(0).to_vec();
///
/// let again = engine.restore(&snapshot)?;
/// assert_eq!(engine.tokens(again)?, [1, 20, 30]);
/// assert_eq!(engine.prefill(again, &[40], None)?.row(0), first);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) plan: blake3::Hash,
    pub(crate) target: Arc<str>,
    /// Longest context of the plan, in tokens.
    pub(crate) max_context: u64,
    /// Size of the vocabulary.
    pub(crate) vocab: u64,
    pub(crate) tokens: Arc<[u32]>,
    /// The sequence's slot.
    pub(crate) state: Arc<[u8]>,
    /// Bytes of a page.
    pub(crate) page_bytes: u64,
    /// Its pages, in order of their tokens.
    pub(crate) pages: Arc<[Arc<[u8]>]>,
    /// The caller's own words.
    pub(crate) note: Arc<str>,
}

impl Snapshot {
    /// Digest of the plan that it belongs to.
    pub fn plan(&self) -> blake3::Hash {
        self.plan
    }

    /// The target whose code computed it: `x86-64-v3`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The tokens that the sequence had taken.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The same snapshot with a note of the caller's own, up to 4 GiB of text that files keep with it: what the tokens say.
    pub fn with_note(self, note: &str) -> Snapshot {
        Snapshot { note: note.into(), ..self }
    }

    /// The caller's note; empty unless there is one.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// Host memory that it holds, in bytes, pages included that it shares with other snapshots.
    pub fn bytes(&self) -> u64 {
        let pages: usize = self.pages.iter().map(|page| page.len()).sum();
        (self.state.len() + pages + size_of_val(&*self.tokens) + self.note.len()) as u64
    }

    /// The pages that a longer sequence has in common with this one: the full ones, where its tokens begin with these.
    fn pages_in_common(&self, tokens: &[u32]) -> &[Arc<[u8]>] {
        let full = self.tokens.len() / KV_PAGE_TOKENS as usize;
        if tokens.starts_with(&self.tokens) { &self.pages[..full.min(self.pages.len())] } else { &[] }
    }
}

/// State that was kept for rollbacks, by slot.
pub(crate) struct Checkpoints {
    states: Vec<Option<Box<[u8]>>>,
    /// Tokens that are read again.
    replay: Vec<u32>,
}

impl Checkpoints {
    pub(crate) fn new(limits: &Limits) -> Checkpoints {
        Checkpoints { states: (0..limits.max_sequences).map(|_| None).collect(), replay: Vec::new() }
    }

    /// Lets the memory of a slot's checkpoint go.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.states[slot as usize] = None;
    }

    /// Bytes that are held.
    fn bytes(&self) -> u64 {
        self.states.iter().flatten().map(|state| state.len() as u64).sum()
    }
}

impl Engine {
    /// Begins a sequence that has taken all that another one has; from here on they are two. Its pages are shared until one
    /// of them writes, its state is copied within the pool: no host memory, no page until they diverge.
    ///
    /// ```
    /// # #[path = "../tests/fixture/mod.rs"] mod fixture;
    /// # use jamba_runtime::{Engine, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let plan = fixture::Toy::new().write(folder.path(), "jamba.plan");
    /// # let mut engine = Engine::open(&plan, OpenOptions::default())?;
    /// let question = engine.add_sequence()?;
    /// engine.prefill(question, &[1, 20, 30], None)?;
    /// let other = engine.fork(question)?;
    /// engine.prefill(question, &[40], None)?;
    /// engine.prefill(other, &[50], None)?;
    /// assert_eq!(engine.tokens(other)?, [1, 20, 30, 50]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fork(&mut self, id: SequenceId) -> Result<SequenceId, RuntimeError> {
        self.device.health()?;
        let fork = self.sequences.fork(id, &mut *self.device)?;
        self.device.health()?;
        Ok(fork)
    }

    /// Copies what a sequence remembers to the host: its state slot and all of its pages. The sequence goes on undisturbed.
    pub fn snapshot(&self, id: SequenceId) -> Result<Snapshot, RuntimeError> {
        self.snapshot_sharing(id, &[])
    }

    /// As [`Engine::snapshot`], of a sequence that `earlier` is the beginning of: the two share the host memory of the pages
    /// that `earlier` fills, so that a chain of snapshots holds each page once. Shares nothing where it is no beginning.
    pub fn snapshot_after(&self, id: SequenceId, earlier: &Snapshot) -> Result<Snapshot, RuntimeError> {
        let same = earlier.plan == self.plan_digest() && *earlier.target == *self.target();
        let common = if same { earlier.pages_in_common(self.tokens(id)?) } else { &[] };
        self.snapshot_sharing(id, common)
    }

    fn snapshot_sharing(&self, id: SequenceId, common: &[Arc<[u8]>]) -> Result<Snapshot, RuntimeError> {
        self.device.health()?;
        let slot = self.sequences.slot_of(id)?;
        let (Manifest { limits, model, .. }, memory) = (self.manifest(), self.memory());
        let copy = |piece, bytes: u64| {
            let mut copy = vec![0; bytes as usize];
            self.device.read(piece, &mut copy);
            Arc::from(copy)
        };
        let new = self.sequences.pages(id)?[common.len()..].iter();
        let pages = common.iter().cloned().chain(new.map(|&page| copy(Piece::Page(page), memory.kv_page))).collect();
        let state = copy(Piece::Slot(slot), memory.state_slot);
        self.device.health()?;
        Ok(Snapshot {
            plan: self.plan_digest(),
            target: self.target().into(),
            max_context: limits.max_context,
            vocab: model.vocab,
            tokens: self.tokens(id)?.into(),
            state,
            page_bytes: memory.kv_page,
            pages,
            note: "".into(),
        })
    }

    /// Begins a sequence where a snapshot was taken. Takes a slot and the pages of its tokens, or refuses before anything
    /// changes; refuses snapshots of other plans.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<SequenceId, RuntimeError> {
        self.device.health()?;
        self.check_plan("snapshot", snapshot.plan)?;
        self.check_kind(&snapshot.target)?;
        let id = self.sequences.adopt(&snapshot.tokens)?;
        self.device.write(Piece::Slot(self.sequences.slot_of(id)?), &snapshot.state);
        for (&page, bytes) in self.sequences.pages(id)?.iter().zip(&*snapshot.pages) {
            self.device.write(Piece::Page(page), bytes);
        }
        self.device.health()?;
        Ok(id)
    }

    /// Host memory that a snapshot of a sequence of `n_tokens` takes, in bytes.
    pub fn snapshot_bytes(&self, n_tokens: u64) -> u64 {
        let memory = self.memory();
        memory.state_slot + n_tokens.div_ceil(KV_PAGE_TOKENS) * memory.kv_page + n_tokens * size_of::<u32>() as u64
    }

    /// Refuses what belongs to another plan.
    pub(crate) fn check_plan(&self, what: &'static str, found: blake3::Hash) -> Result<(), RuntimeError> {
        let expected = self.plan_digest();
        if found == expected { Ok(()) } else { Err(RuntimeError::OtherPlan { what, found, expected }) }
    }

    /// Refuses state of another kind of target, whose slots and pages hold something else.
    fn check_kind(&self, target: &str) -> Result<(), RuntimeError> {
        if self.targets().iter().any(|ours| ours == target) {
            return Ok(());
        }
        let (found, expected) = (target.to_owned(), self.target().to_owned());
        Err(RuntimeError::OtherTarget { what: "snapshot", found, expected })
    }

    /// Keeps a sequence's conv and SSM state as it is now, in place of what was kept before: [`Engine::rollback`] can come
    /// back to here. The first checkpoint of a sequence takes a slot's bytes of host memory, which the later ones use again
    /// and which are free when the sequence is removed.
    pub fn checkpoint(&mut self, id: SequenceId) -> Result<(), RuntimeError> {
        self.device.health()?;
        let slot = self.sequences.slot_of(id)?;
        let bytes = self.memory().state_slot as usize;
        let kept = self.checkpoints.states[slot as usize].get_or_insert_with(|| vec![0; bytes].into());
        self.device.read(Piece::Slot(slot), kept);
        self.device.health()?;
        self.sequences.mark(id)
    }

    /// Host memory that checkpoints hold, in bytes: at most a slot for each of the plan's sequences.
    pub fn checkpoint_bytes(&self) -> u64 {
        self.checkpoints.bytes()
    }

    /// Takes back the last `n_tokens` that a sequence took, exactly: tokens that were drafted and rejected. Their pages are
    /// free again. The state comes from the checkpoint, and the tokens between it and the new end are read again, in steps
    /// of the plan's largest size; at the checkpoint itself nothing is. No further back than the checkpoint, which stays.
    /// Refuses before anything changes, or not at all.
    ///
    /// ```
    /// # #[path = "../tests/fixture/mod.rs"] mod fixture;
    /// # use jamba_runtime::{Engine, Feed, OpenOptions, Outputs};
    /// # let folder = tempfile::tempdir()?;
    /// # let plan = fixture::Toy::new().write(folder.path(), "jamba.plan");
    /// # let mut engine = Engine::open(&plan, OpenOptions::default())?;
    /// # let sequence = engine.add_sequence()?;
    /// engine.prefill(sequence, &[1, 20, 30], None)?;
    /// engine.checkpoint(sequence)?;
    /// // A draft of four, of which the model likes two.
    /// engine.step(&[Feed { sequence, tokens: &[40, 50, 60, 70], outputs: Outputs::All }])?;
    /// engine.rollback(sequence, 2)?;
    /// assert_eq!(engine.tokens(sequence)?, [1, 20, 30, 40, 50]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn rollback(&mut self, id: SequenceId, n_tokens: u64) -> Result<(), RuntimeError> {
        self.device.health()?;
        let way = self.sequences.check_back(id, n_tokens)?;
        if n_tokens == 0 {
            return Ok(());
        }
        let mut replay = std::mem::take(&mut self.checkpoints.replay);
        self.sequences.go_back(way, &mut replay, &mut *self.device);
        if let Some(state) = &self.checkpoints.states[way.slot as usize] {
            self.device.write(Piece::Slot(way.slot), state);
        }
        let replayed = match &replay[..] {
            [] => self.device.health(),
            tokens => self.run_chunks(Feed { sequence: id, tokens, outputs: Outputs::None }, None).map(|_| ()),
        };
        self.checkpoints.replay = replay;
        replayed
    }
}
