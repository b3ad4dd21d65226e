//! Forks, snapshots, checkpoints and rollbacks.
//!
//! The state of a sequence is its slot of conv and SSM state and its KV pages. KV pages can be truncated at any token. Conv
//! and SSM state depend on all earlier tokens and cannot be truncated, so they are only available where they were saved.
//!
//! | | pool memory | host memory | copies |
//! |---|---|---|---|
//! | fork | a slot; pages as the two diverge | none | a slot |
//! | snapshot | none | a slot and the pages | the same |
//! | restore | a slot and the pages | none | the same |
//! | checkpoint | none | a slot, until the sequence is removed | a slot |
//! | save point | none | a slot, while it is kept | a slot |
//! | rewind to a save point | none | none | a slot |
//! | rollback by k | none | none | a slot; replays the tokens between the checkpoint and the new end |
//!
//! Each continues bit-identically: results depend neither on slot and page numbers nor on how tokens are split into steps.

use std::sync::Arc;

use jamba_plan::format::{KV_PAGE_TOKENS, Limits};

use crate::device::Piece;
use crate::{Engine, Feed, Outputs, RuntimeError, SavePoint, SequenceId};

/// Most save points of a snapshot.
pub(crate) const MAX_POINTS: usize = 64;

/// A copy of the state of a sequence in host memory. Clones share their bytes.
///
/// It can be restored by every engine of the same plan that runs a target of the same kind (CPU or GPU), with any number of
/// threads. On the same target ([`Snapshot::target`]) the sequence continues bit-identically; other targets may round
/// differently.
///
/// ```
/// # #[path = "../../tests/fixture/mod.rs"] mod fixture;
/// # use jamba_runtime::{Engine, OpenOptions};
/// # let folder = tempfile::tempdir()?;
/// # let plan = fixture::Toy::new().write(folder.path(), "jamba.plan");
/// let mut engine = Engine::open(&plan, OpenOptions::default())?;
/// let sequence = engine.add_sequence()?;
/// engine.prefill(sequence, &[1, 20, 30], None, None)?;
/// let snapshot = engine.snapshot(sequence)?;
/// let first = engine.prefill(sequence, &[40], None, None)?.row(0).to_vec();
///
/// let again = engine.restore(&snapshot)?;
/// assert_eq!(engine.tokens(again)?, [1, 20, 30]);
/// assert_eq!(engine.prefill(again, &[40], None, None)?.row(0), first);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) plan: blake3::Hash,
    pub(crate) target: Arc<str>,
    /// Maximum context of the plan, in tokens.
    pub(crate) max_context: u64,
    /// Vocabulary size.
    pub(crate) vocab: u64,
    /// Name of the model, possibly cut.
    pub(crate) model: Arc<str>,
    pub(crate) tokens: Arc<[u32]>,
    /// Tokens to read next.
    pub(crate) next: Arc<[u32]>,
    /// The state slot.
    pub(crate) state: Arc<[u8]>,
    /// Size of a KV page in bytes.
    pub(crate) page_bytes: u64,
    /// KV pages in the order of their tokens.
    pub(crate) pages: Arc<[Arc<[u8]>]>,
    /// Earlier places of the sequence, stored with the snapshot.
    pub(crate) points: Arc<[SavePoint]>,
    /// Text of the caller, stored with the snapshot.
    pub(crate) note: Arc<str>,
}

impl Snapshot {
    /// BLAKE3 digest of the snapshot's plan.
    pub fn plan(&self) -> blake3::Hash {
        self.plan
    }

    /// The target whose code computed the state, for example `x86-64-v3`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The tokens of the sequence.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Attaches tokens that follow those of the sequence and are not part of the state yet. A state has no logits, so who
    /// wants to generate from it without further text keeps the last token back:
    ///
    /// ```
    /// # #[path = "../../tests/fixture/mod.rs"] mod fixture;
    /// # use std::ops::ControlFlow;
    /// # use jamba_runtime::{Engine, GenerateOptions, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let plan = fixture::Toy::new().write(folder.path(), "jamba.plan");
    /// let mut engine = Engine::open(&plan, OpenOptions::default())?;
    /// let options = GenerateOptions { max_new: 5, tokens_only: true, ..GenerateOptions::default() };
    /// let fresh = engine.generate(&[1, 20, 30], &options, |_| ControlFlow::Continue(()))?;
    ///
    /// let sequence = engine.add_sequence()?;
    /// engine.prefill(sequence, &[1, 20], None, None)?;
    /// let state = engine.snapshot(sequence)?.with_next(&[30]);
    ///
    /// let again = engine.restore(&state)?;
    /// let generated = engine.generate_in(again, state.next(), &options, |_| ControlFlow::Continue(()))?;
    /// assert_eq!(generated.tokens, fresh.tokens);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_next(self, tokens: &[u32]) -> Snapshot {
        Snapshot { next: tokens.into(), ..self }
    }

    /// The tokens to read next; none by default. [`Engine::restore`] does not read them. Files store them too.
    pub fn next(&self) -> &[u32] {
        &self.next
    }

    /// Attaches save points, so that the restored sequence can return to them ([`Engine::rewind`]). Leaves out points of other
    /// sequences, and all after the first 64.
    ///
    /// ```
    /// # #[path = "../../tests/fixture/mod.rs"] mod fixture;
    /// # use jamba_runtime::{Engine, OpenOptions, Snapshot};
    /// # let folder = tempfile::tempdir()?;
    /// # let plan = fixture::Toy::new().write(folder.path(), "jamba.plan");
    /// let mut engine = Engine::open(&plan, OpenOptions::default())?;
    /// let sequence = engine.add_sequence()?;
    /// engine.prefill(sequence, &[1, 20], None, None)?;
    /// let point = engine.save_point(sequence)?;
    /// engine.prefill(sequence, &[30, 40], None, None)?;
    /// let bytes = engine.snapshot(sequence)?.with_points([point]).to_bytes();
    ///
    /// let snapshot = Snapshot::from_bytes(&bytes, &engine)?;
    /// let again = engine.restore(&snapshot)?;
    /// engine.rewind(again, &snapshot.points()[0])?;
    /// assert_eq!(engine.tokens(again)?, [1, 20]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_points(self, points: impl IntoIterator<Item = SavePoint>) -> Snapshot {
        let is_ours = |point: &SavePoint| point.is_of((self.plan, &self.target), &self.tokens);
        Snapshot { points: points.into_iter().filter(is_ours).take(MAX_POINTS).collect(), ..self }
    }

    /// The save points; none by default.
    pub fn points(&self) -> &[SavePoint] {
        &self.points
    }

    /// Attaches a note, up to 4 GiB of text, for example the text of the tokens. Files store it too.
    pub fn with_note(self, note: &str) -> Snapshot {
        Snapshot { note: note.into(), ..self }
    }

    /// The note; empty by default.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// Host memory in bytes, including pages shared with other snapshots.
    pub fn bytes(&self) -> u64 {
        let pages: usize = self.pages.iter().map(|page| page.len()).sum();
        let tokens = size_of_val(&*self.tokens) + size_of_val(&*self.next);
        let points: u64 = self.points.iter().map(SavePoint::bytes).sum();
        (self.state.len() + pages + tokens + self.note.len()) as u64 + points
    }

    /// The full pages of this snapshot if `tokens` starts with its tokens; otherwise none.
    fn pages_in_common(&self, tokens: &[u32]) -> &[Arc<[u8]>] {
        let full = self.tokens.len() / KV_PAGE_TOKENS as usize;
        if tokens.starts_with(&self.tokens) { &self.pages[..full.min(self.pages.len())] } else { &[] }
    }
}

/// Saved state for rollbacks, by slot.
pub(crate) struct Checkpoints {
    states: Vec<Option<Box<[u8]>>>,
    /// Buffer for the tokens to replay.
    replay: Vec<u32>,
}

impl Checkpoints {
    pub(crate) fn new(limits: &Limits) -> Checkpoints {
        Checkpoints { states: (0..limits.max_sequences).map(|_| None).collect(), replay: Vec::new() }
    }

    /// Frees the checkpoint of a slot.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.states[slot as usize] = None;
    }

    /// Host memory of all checkpoints, in bytes.
    fn bytes(&self) -> u64 {
        self.states.iter().flatten().map(|state| state.len() as u64).sum()
    }
}

impl Engine {
    /// Adds a copy of a sequence. KV pages are shared until one of the two writes; the state slot is copied on the device.
    ///
    /// ```
    /// # #[path = "../../tests/fixture/mod.rs"] mod fixture;
    /// # use jamba_runtime::{Engine, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let plan = fixture::Toy::new().write(folder.path(), "jamba.plan");
    /// # let mut engine = Engine::open(&plan, OpenOptions::default())?;
    /// let question = engine.add_sequence()?;
    /// engine.prefill(question, &[1, 20, 30], None, None)?;
    /// let other = engine.fork(question)?;
    /// engine.prefill(question, &[40], None, None)?;
    /// engine.prefill(other, &[50], None, None)?;
    /// assert_eq!(engine.tokens(other)?, [1, 20, 30, 50]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fork(&mut self, id: SequenceId) -> Result<SequenceId, RuntimeError> {
        self.device.health()?;
        let fork = self.sequences.fork(id, &mut *self.device)?;
        self.device.health()?;
        Ok(fork)
    }

    /// Copies the state slot and all KV pages of a sequence to host memory.
    pub fn snapshot(&self, id: SequenceId) -> Result<Snapshot, RuntimeError> {
        self.snapshot_sharing(id, &[])
    }

    /// Like [`Engine::snapshot`], but shares the full pages of `earlier` if that is a snapshot of a prefix of the sequence. A
    /// chain of snapshots then holds each page once.
    pub fn snapshot_after(&self, id: SequenceId, earlier: &Snapshot) -> Result<Snapshot, RuntimeError> {
        let same = earlier.plan == self.plan_digest() && *earlier.target == *self.target();
        let common = if same { earlier.pages_in_common(self.tokens(id)?) } else { &[] };
        self.snapshot_sharing(id, common)
    }

    fn snapshot_sharing(&self, id: SequenceId, common: &[Arc<[u8]>]) -> Result<Snapshot, RuntimeError> {
        self.device.health()?;
        let slot = self.sequences.slot_of(id)?;
        let (model, memory) = (&self.manifest().model, self.memory());
        let copy = |piece, bytes: u64| self.device.copy_out(piece, bytes as usize);
        let new = self.sequences.pages(id)?[common.len()..].iter();
        let pages = common.iter().cloned().chain(new.map(|&page| copy(Piece::Page(page), memory.kv_page))).collect();
        let state = copy(Piece::Slot(slot), memory.state_slot);
        self.device.health()?;
        Ok(Snapshot {
            plan: self.plan_digest(),
            target: self.target().into(),
            max_context: self.plan_context(),
            vocab: model.vocab,
            model: model.name.as_str().into(),
            tokens: self.tokens(id)?.into(),
            next: [].into(),
            state,
            page_bytes: memory.kv_page,
            pages,
            points: [].into(),
            note: "".into(),
        })
    }

    /// Adds a sequence with the state of a snapshot.
    ///
    /// # Errors
    /// Fails, without changing anything, if the pools have too little free memory or the snapshot belongs to another plan.
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

    /// Host memory of a snapshot of `n_tokens` tokens, in bytes.
    pub fn snapshot_bytes(&self, n_tokens: u64) -> u64 {
        let memory = self.memory();
        memory.state_slot + n_tokens.div_ceil(KV_PAGE_TOKENS) * memory.kv_page + n_tokens * size_of::<u32>() as u64
    }

    /// Fails if `found` is not the digest of this engine's plan.
    pub(crate) fn check_plan(&self, what: &'static str, found: blake3::Hash) -> Result<(), RuntimeError> {
        let expected = self.plan_digest();
        if found == expected { Ok(()) } else { Err(RuntimeError::OtherPlan { what, found, expected }) }
    }

    /// Fails for the state of another kind of target, which has another layout.
    pub(crate) fn check_kind(&self, target: &str) -> Result<(), RuntimeError> {
        if self.targets().iter().any(|ours| ours == target) {
            return Ok(());
        }
        let (found, expected) = (target.to_owned(), self.target().to_owned());
        Err(RuntimeError::OtherTarget { what: "snapshot", found, expected })
    }

    /// Saves the conv and SSM state of a sequence so that [`Engine::rollback`] can return to it. Replaces the sequence's
    /// previous checkpoint. The first checkpoint of a sequence allocates host memory of one state slot, which is freed when
    /// the sequence is removed.
    pub fn checkpoint(&mut self, id: SequenceId) -> Result<(), RuntimeError> {
        self.device.health()?;
        let slot = self.sequences.slot_of(id)?;
        let bytes = self.memory().state_slot as usize;
        let kept = self.checkpoints.states[slot as usize].get_or_insert_with(|| vec![0; bytes].into());
        self.device.read(Piece::Slot(slot), kept);
        self.device.health()?;
        self.sequences.mark(id)
    }

    /// Host memory of all checkpoints in bytes, at most one state slot per sequence.
    pub fn checkpoint_bytes(&self) -> u64 {
        self.checkpoints.bytes()
    }

    /// Removes the last `n_tokens` tokens of a sequence, for example rejected draft tokens, and frees their pages. Restores
    /// the state from the checkpoint and replays the tokens between it and the new end. The checkpoint stays.
    ///
    /// # Errors
    /// Fails, without changing anything, if the new end is before the checkpoint.
    ///
    /// ```
    /// # #[path = "../../tests/fixture/mod.rs"] mod fixture;
    /// # use jamba_runtime::{Engine, Feed, OpenOptions, Outputs};
    /// # let folder = tempfile::tempdir()?;
    /// # let plan = fixture::Toy::new().write(folder.path(), "jamba.plan");
    /// # let mut engine = Engine::open(&plan, OpenOptions::default())?;
    /// # let sequence = engine.add_sequence()?;
    /// engine.prefill(sequence, &[1, 20, 30], None, None)?;
    /// engine.checkpoint(sequence)?;
    /// // Four draft tokens, of which two are accepted.
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
            tokens => {
                let feed = Feed { sequence: id, tokens, outputs: Outputs::None };
                self.run_chunks(feed, None, None, &[]).map(|_| ())
            }
        };
        self.checkpoints.replay = replay;
        replayed
    }
}
