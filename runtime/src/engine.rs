//! A plan on a device: opened once, then fed with steps.

use std::path::Path;
use std::sync::Arc;

use jamba_plan::Verify;
use jamba_plan::format::{Manifest, Memory, Program, Setting, TargetKind};

use crate::device::cpu::Cpu;
use crate::device::cuda::Gpu;
use crate::device::map::PlanFile;
use crate::device::{Device, Opened, Piece, Row, Settings};
use crate::gpu::{self, Driver};
use crate::session::{Admitted, Feed, Origin, Outputs, SequenceId, Sequences};
use crate::snapshot::Checkpoints;
#[cfg(feature = "tokenizer")]
use crate::texts::Texts;
use crate::trace::Trace;
use crate::{Cancel, DeviceId, RuntimeError, Sampler, sample};

/// How far long work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The work: `drawing weights`.
    pub what: &'static str,
    /// What is done.
    pub done: u64,
    /// What there is in all.
    pub total: u64,
    /// What is counted.
    pub unit: Unit,
}

/// What a [`Progress`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of the plan or of memory.
    Bytes,
    /// Tokens of a prompt.
    Tokens,
}

/// How to open a plan.
#[derive(Clone, Default)]
pub struct OpenOptions<'a> {
    /// The device that it is opened on; the CPU, unless given.
    pub device: DeviceId,
    /// Threads, the caller's included; one for every core that the process may use, unless given. On a GPU they draw
    /// synthetic weights for which the plan has no kernel, and nothing else.
    pub threads: Option<usize>,
    /// The target whose code is loaded; the best that the device runs, unless given.
    pub isa: Option<String>,
    /// How much of the plan is compared with its digests.
    pub verify: Verify,
    /// Run every step alone and look for writes outside its memory, and fill state that nobody holds with NaN: slow, for
    /// finding faults of ours.
    pub check: bool,
    /// Make all memory resident now, rather than piece by piece as it is first used: opening takes longer, and then no
    /// step waits for memory or finds it gone.
    pub prefault: bool,
    /// Draw synthetic weights on the host and copy them to a GPU, although the plan has kernels that draw them there: the same
    /// bits, later.
    pub draw_on_host: bool,
    /// Launch every step of a GPU by itself, in place of replaying steps that were recorded: the same bits, later.
    pub launch_each: bool,
    /// Bring every row of logits from a GPU and pick tokens on the host: the same tokens, later.
    pub pick_on_host: bool,
    /// Told how far checking the plan and drawing synthetic weights are.
    pub progress: Option<&'a (dyn Fn(Progress) + Sync)>,
}

/// A plan, open: its memory is taken, its code loaded, nothing is allocated from here on but what is asked for by name:
/// snapshots and checkpoints.
///
/// It may move to another thread; two threads share one behind a mutex. Several engines run beside each other.
///
/// ```
/// use jamba_runtime::{Engine, Feed, OpenOptions, Outputs, sample};
///
/// let mut engine = Engine::open("examples/toy.plan".as_ref(), OpenOptions::default())?;
/// let (first, second) = (engine.add_sequence()?, engine.add_sequence()?);
/// let logits = engine.step(&[
///     Feed { sequence: first, tokens: &[1, 20, 30], outputs: Outputs::Last },
///     Feed { sequence: second, tokens: &[1, 40], outputs: Outputs::All },
/// ])?;
/// assert_eq!(logits.len(), 3); // one row for the first sequence, two for the second
/// let next = sample::greedy(logits.row(0))?;
/// engine.step(&[Feed { sequence: first, tokens: &[next], outputs: Outputs::Last }])?;
/// engine.remove_sequence(second)?;
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
pub struct Engine {
    manifest: Manifest,
    /// Of the kind of target that it runs.
    memory: Memory,
    program: Program,
    /// The plan's digest.
    digest: blake3::Hash,
    pub(crate) sequences: Sequences,
    pub(crate) device: Box<dyn Device>,
    pub(crate) checkpoints: Checkpoints,
    opened: Opened,
    check: bool,
    trace: Option<Trace>,
    listener: Option<Box<dyn Fn(Progress) + Send>>,
    pub(crate) file: Arc<PlanFile>,
    #[cfg(feature = "tokenizer")]
    pub(crate) texts: Texts,
}

impl Engine {
    /// Opens a plan: maps and checks the file, loads its code, takes its memory.
    pub fn open(path: &Path, options: OpenOptions<'_>) -> Result<Engine, RuntimeError> {
        Engine::open_file(PlanFile::open(path)?, options)
    }

    /// Opens a plan that is in memory, without a file: [`include_plan!`](crate::include_plan) puts one there. Refuses
    /// memory that does not begin on a page of 4096 bytes, or is not all of a plan and nothing more.
    pub fn open_memory(bytes: &'static [u8], options: OpenOptions<'_>) -> Result<Engine, RuntimeError> {
        Engine::open_file(PlanFile::from_memory(bytes)?, options)
    }

    /// Opens a plan whose bytes are at hand.
    pub fn open_file(file: PlanFile, options: OpenOptions<'_>) -> Result<Engine, RuntimeError> {
        let driver = match options.device {
            DeviceId::Cpu => None,
            DeviceId::Cuda(number) => Some(gpu::open(number)?),
        };
        Engine::open_with(file, &options, driver)
    }

    /// Opens a plan on a GPU behind a driver of the caller's own, whatever [`OpenOptions::device`] says: a simulator.
    pub fn open_on(path: &Path, options: OpenOptions<'_>, driver: Box<dyn Driver>) -> Result<Engine, RuntimeError> {
        Engine::open_file_on(PlanFile::open(path)?, options, driver)
    }

    /// As [`Engine::open_on`], of a plan whose bytes are at hand.
    pub fn open_file_on(
        file: PlanFile,
        options: OpenOptions<'_>,
        driver: Box<dyn Driver>,
    ) -> Result<Engine, RuntimeError> {
        Engine::open_with(file, &options, Some(driver))
    }

    /// Opens a plan on a GPU, or on the CPU where there is no driver.
    fn open_with(
        file: PlanFile,
        options: &OpenOptions<'_>,
        driver: Option<Box<dyn Driver>>,
    ) -> Result<Engine, RuntimeError> {
        let file = Arc::new(file);
        let mut tell = |done, total| {
            if let Some(listen) = options.progress {
                listen(Progress { what: "checking the plan", done, total, unit: Unit::Bytes });
            }
        };
        let plan = file.plan(options.verify, &mut tell)?;
        let kind = if driver.is_some() { TargetKind::Sm90a } else { TargetKind::Cpu };
        let of_kind = plan.programs().find(|(info, _)| info.kind == kind);
        let (info, program) = of_kind.ok_or_else(|| {
            let (device, wanted) = match &driver {
                Some(driver) => (driver.info().name.clone(), "sm_90a"),
                None => ("the CPU".to_owned(), "a CPU target, x86-64-v3 or the like,"),
            };
            RuntimeError::NoCodeForDevice {
                device,
                targets: plan.manifest().targets().map(str::to_owned).collect(),
                wanted,
            }
        })?;
        let (device, opened): (Box<dyn Device>, Opened) = match driver {
            Some(driver) => {
                let (gpu, opened) = Gpu::open(&plan, (info, program), &file, options, driver)?;
                (Box::new(gpu), opened)
            }
            None => {
                let (cpu, opened) = Cpu::open(&plan, (info, program), Arc::clone(&file), options)?;
                (Box::new(cpu), opened)
            }
        };
        let mut engine = Engine {
            digest: plan.digest(),
            sequences: Sequences::new(plan.manifest(), info, program),
            checkpoints: Checkpoints::new(&plan.manifest().limits),
            manifest: plan.manifest().clone(),
            memory: info.memory.clone(),
            program: program.clone(),
            device,
            opened,
            check: options.check,
            trace: None,
            listener: None,
            #[cfg(feature = "tokenizer")]
            texts: Texts::new(&plan),
            file: Arc::clone(&file),
        };
        if options.check {
            engine.device.check_steps();
        }
        Ok(engine)
    }

    /// The plan's file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The plan's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Every byte that the engine holds beside its code, on the device that it runs on.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The program that it runs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The plan's digest: what was taken from one engine can be given to another where this is the same.
    pub fn plan_digest(&self) -> blake3::Hash {
        self.digest
    }

    /// The target whose code runs: `x86-64-v3`.
    pub fn target(&self) -> &str {
        &self.opened.target
    }

    /// The plan's targets of the kind of [`Engine::target`]: state of one of them fits the others.
    pub fn targets(&self) -> &[String] {
        let info = self.manifest.of(TargetKind::of_target(self.target()));
        info.map_or(&[], |info| &info.targets)
    }

    /// The device that it runs on: `cpu`, or the name that its driver gives a GPU.
    pub fn device(&self) -> &str {
        &self.opened.device
    }

    /// Threads that run steps, the caller's included; of a GPU the caller's alone.
    pub fn threads(&self) -> usize {
        self.opened.n_threads
    }

    /// Begins a sequence without tokens.
    pub fn add_sequence(&mut self) -> Result<SequenceId, RuntimeError> {
        self.device.health()?;
        let (id, slot) = self.sequences.add()?;
        self.device.clear(Piece::Slot(slot));
        self.device.health()?;
        Ok(id)
    }

    /// Ends a sequence; its slot is free again, and so are its pages unless a fork holds them too.
    pub fn remove_sequence(&mut self, id: SequenceId) -> Result<(), RuntimeError> {
        self.device.health()?;
        let slot = self.sequences.remove(id, &mut *self.device)?;
        self.checkpoints.forget(slot);
        self.device.health()
    }

    /// Number of tokens that a sequence has taken.
    pub fn len(&self, id: SequenceId) -> Result<u64, RuntimeError> {
        Ok(self.tokens(id)?.len() as u64)
    }

    /// The tokens that a sequence has taken.
    pub fn tokens(&self, id: SequenceId) -> Result<&[u32], RuntimeError> {
        self.sequences.tokens(id)
    }

    /// State slots and KV pages that are free.
    pub fn free(&self) -> (u64, u64) {
        self.sequences.free()
    }

    /// Most tokens that [`Engine::step`] takes at once.
    pub fn max_step_tokens(&self) -> usize {
        self.sequences.prefill_tokens() as usize
    }

    /// Most rows of logits that [`Engine::step`] returns at once.
    pub fn max_step_outputs(&self) -> usize {
        self.sequences.prefill_outputs() as usize
    }

    /// Feeds every sequence its tokens; returns the rows of logits that were asked for, in order of the feeds, and
    /// within a feed of its tokens. Refuses before anything changes, or not at all.
    ///
    /// A step of one token of each sequence is decoded. On a GPU its sums are other kernels' than a prompt's; [`Engine::prefill`]
    /// reads the last token of a prompt as it reads all others.
    pub fn step(&mut self, feeds: &[Feed<'_>]) -> Result<Logits<'_>, RuntimeError> {
        let admitted = self.run(feeds, Origin::Any, &[])?;
        Ok(self.logits(admitted))
    }

    /// As [`Engine::step`], and picks a token from every row of logits, each by a sampler of its own: one sampler for each row. A
    /// GPU picks where a sampler neither looks back nor has biases; such a row does not travel. The tokens are the same.
    ///
    /// ```
    /// use jamba_runtime::{Engine, Feed, OpenOptions, Outputs, Sampler, SamplerOptions};
    ///
    /// let mut engine = Engine::open("examples/toy.plan".as_ref(), OpenOptions::default())?;
    /// let vocab = engine.manifest().model.vocab as usize;
    /// let mut samplers = [Sampler::new(SamplerOptions::GREEDY, vocab)?];
    /// let sequence = engine.add_sequence()?;
    /// let feed = Feed { sequence, tokens: &[1, 20, 30], outputs: Outputs::Last };
    /// let next = engine.step_and_pick(&[feed], &mut samplers)?;
    /// engine.step_and_pick(&[Feed { tokens: &next, ..feed }], &mut samplers)?;
    /// # Ok::<(), jamba_runtime::RuntimeError>(())
    /// ```
    pub fn step_and_pick(&mut self, feeds: &[Feed<'_>], samplers: &mut [Sampler]) -> Result<Vec<u32>, RuntimeError> {
        let rows: u64 = feeds.iter().map(|feed| feed.outputs.rows(feed.tokens.len())).sum();
        if samplers.len() as u64 != rows {
            let found = format!("{} for {rows} rows of logits", samplers.len());
            return Err(RuntimeError::Option { name: "samplers", found, expected: "one for each row" });
        }
        let settings: Vec<Option<Setting>> = samplers.iter().map(Sampler::setting).collect();
        let admitted = self.run(feeds, Origin::Any, &settings)?;
        self.rows(admitted).zip(samplers).map(|(row, sampler)| sampler.pick_row(row)).collect()
    }

    /// Runs a step; tokens may be picked from its rows of logits as `settings` say.
    pub(crate) fn run(
        &mut self,
        feeds: &[Feed<'_>],
        origin: Origin,
        settings: Settings<'_>,
    ) -> Result<Admitted, RuntimeError> {
        self.device.health()?;
        let admitted = self.sequences.admit(feeds, origin)?;
        if let Some(trace) = &mut self.trace {
            trace.begin_run(admitted.entry, admitted.kind, self.sequences.size(feeds, admitted.counts));
        }
        self.sequences.advance(feeds, &mut *self.device);
        self.device.run(admitted.entry, admitted.counts, settings, self.trace.as_mut())?;
        if let Some(trace) = &mut self.trace {
            trace.end_run();
        }
        if self.check {
            if let Some(broken) = self.device.broken_guard() {
                return Err(broken);
            }
            for row in self.rows(admitted) {
                if let Row::Logits(logits) = row {
                    sample::greedy(logits)?;
                }
            }
        }
        Ok(admitted)
    }

    /// What a step left of its rows of logits, in order.
    pub(crate) fn rows(&self, admitted: Admitted) -> impl Iterator<Item = Row<'_>> {
        (0..admitted.counts.outputs).map(move |row| match self.device.token(row) {
            Some(token) => Row::Token(token),
            None => Row::Logits(self.device.logits(admitted.entry, row)),
        })
    }

    /// The rows of a step that picked no tokens.
    pub(crate) fn logits(&self, admitted: Admitted) -> Logits<'_> {
        Logits { device: &*self.device, entry: admitted.entry, len: admitted.counts.outputs }
    }

    /// Feeds one sequence a prompt of any length, in chunks of at most `chunk` tokens; returns the logits of its last
    /// token. Refuses before anything changes, or not at all.
    pub fn prefill(
        &mut self,
        sequence: SequenceId,
        tokens: &[u32],
        chunk: Option<usize>,
    ) -> Result<Logits<'_>, RuntimeError> {
        let admitted = self.run_chunks(Feed { sequence, tokens, outputs: Outputs::Last }, chunk)?;
        Ok(self.logits(admitted))
    }

    /// As [`Engine::prefill`]; None where it was cancelled before the last chunk. The sequence has then read the prompt up
    /// to some chunk.
    pub fn prefill_unless(
        &mut self,
        cancel: &Cancel,
        sequence: SequenceId,
        tokens: &[u32],
        chunk: Option<usize>,
    ) -> Result<Option<Logits<'_>>, RuntimeError> {
        let feed = Feed { sequence, tokens, outputs: Outputs::Last };
        let admitted = self.run_chunks_unless(&|| cancel.is_cancelled(), feed, chunk, &[])?;
        Ok(admitted.map(|admitted| self.logits(admitted)))
    }

    /// Runs a feed of any length in chunks; the rows of the last chunk are left.
    pub(crate) fn run_chunks(&mut self, feed: Feed<'_>, chunk: Option<usize>) -> Result<Admitted, RuntimeError> {
        let admitted = self.run_chunks_unless(&|| false, feed, chunk, &[])?;
        Ok(admitted.expect("nothing cancels it"))
    }

    /// As [`Engine::run_chunks`]; None where it was cancelled before the last chunk, of whose rows `settings` are.
    pub(crate) fn run_chunks_unless(
        &mut self,
        is_cancelled: &dyn Fn() -> bool,
        feed: Feed<'_>,
        chunk: Option<usize>,
        settings: Settings<'_>,
    ) -> Result<Option<Admitted>, RuntimeError> {
        let Feed { sequence, tokens, outputs } = feed;
        self.sequences.check_room(sequence, tokens)?;
        let most = self.max_step_tokens();
        let chunk = chunk.unwrap_or(most).clamp(1, most);
        let last = (tokens.len() - 1) / chunk * chunk;
        for (index, part) in tokens[..last].chunks(chunk).enumerate() {
            self.tell_prefill(index * chunk, tokens.len());
            if is_cancelled() {
                return Ok(None);
            }
            self.run(&[Feed { sequence, tokens: part, outputs: Outputs::None }], Origin::Prompt, &[])?;
        }
        self.tell_prefill(last, tokens.len());
        if is_cancelled() {
            return Ok(None);
        }
        let admitted = self.run(&[Feed { sequence, tokens: &tokens[last..], outputs }], Origin::Prompt, settings)?;
        self.tell_prefill(tokens.len(), tokens.len());
        Ok(Some(admitted))
    }

    fn tell_prefill(&self, done: usize, total: usize) {
        if let Some(listen) = &self.listener {
            listen(Progress { what: "prefilling", done: done as u64, total: total as u64, unit: Unit::Tokens });
        }
    }

    /// Tells how far prompts are, before each chunk that [`Engine::prefill`] feeds, and after the last.
    pub fn on_prefill(&mut self, listen: impl Fn(Progress) + Send + 'static) {
        self.listener = Some(Box::new(listen));
    }

    /// Notes the time of every step from now on, or no longer.
    pub fn set_trace(&mut self, on: bool) {
        self.trace = on.then(Trace::new);
    }

    /// What was noted since [`Engine::set_trace`].
    pub fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }
}

/// The rows of logits of one step.
pub struct Logits<'a> {
    device: &'a dyn Device,
    entry: usize,
    len: u64,
}

impl<'a> Logits<'a> {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// True when no rows were asked for.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One row: a logit for every token of the vocabulary.
    ///
    /// # Panics
    /// When there are not so many rows.
    pub fn row(&self, index: usize) -> &'a [f32] {
        assert!((index as u64) < self.len, "row {index} of {} rows of logits", self.len);
        self.device.logits(self.entry, index as u64)
    }

    /// All rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        let (device, entry) = (self.device, self.entry);
        (0..self.len).map(move |row| device.logits(entry, row))
    }
}
