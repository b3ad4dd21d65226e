//! A plan on a device: opened once, then fed with steps.

use std::path::Path;
use std::sync::Arc;

use jamba_plan::format::{EntryKind, Manifest, Memory, Program, ProgramInfo, Setting, TargetKind};
use jamba_plan::tables::pages_per_sequence;
use jamba_plan::{Plan, Verify};
use tracing::{debug_span, trace_span};

use crate::device::cpu::Cpu;
use crate::device::cuda::Gpu;
use crate::device::map::{PlanFile, PlanSource};
use crate::device::{Counts, Device, Opened, Piece, Row, Settings};
use crate::gpu::{self, Driver};
#[cfg(feature = "constrain")]
use crate::options::ConstraintLimits;
use crate::options::{OpenOptions, Progress, Unit, report_bytes};
use crate::sequence::session::{Admitted, Feed, Origin, Outputs, SequenceId, Sequences};
use crate::sequence::snapshot::Checkpoints;
#[cfg(feature = "tokenizer")]
use crate::text::sections::Texts;
use crate::trace::Trace;
use crate::{Cancel, DeviceId, RuntimeError, Sampler, StepObserver, sample};

/// An open plan. Memory is allocated and code is loaded when it is opened; after that only snapshots and checkpoints
/// allocate.
///
/// An engine is `Send`: threads share one behind a mutex. A process may open several engines.
///
/// ```
/// use jamba_runtime::{Engine, Feed, OpenOptions, Outputs, sample};
///
/// let mut engine = Engine::open("examples/toy.plan", OpenOptions::default())?;
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
    /// The plan's, with the limits of this engine.
    manifest: Manifest,
    /// The plan's maximum context, in tokens.
    plan_context: u64,
    /// Memory of the program that runs.
    memory: Memory,
    program: Program,
    digest: blake3::Hash,
    pub(crate) sequences: Sequences,
    pub(crate) device: Box<dyn Device>,
    pub(crate) checkpoints: Checkpoints,
    opened: Opened,
    check: bool,
    trace: Option<Trace>,
    #[cfg(feature = "constrain")]
    constraint_limits: ConstraintLimits,
    on_prefill: Option<Box<dyn Fn(Progress) + Send>>,
    pub(crate) file: Arc<PlanFile>,
    #[cfg(feature = "tokenizer")]
    pub(crate) texts: Texts,
}

impl Engine {
    /// Opens a plan: maps and verifies it, loads its code, allocates its memory and, on a GPU, uploads the weights.
    ///
    /// `source` is the path of a plan, or a [`PlanFile`]: [`PlanFile::from_memory`] opens a plan that is embedded in the
    /// program.
    ///
    /// **A plan is a program.** Open only plans that you built, or whose digest you have from somebody you trust:
    /// [`OpenOptions::require_digest`], or whose signature: [`OpenOptions::trusted_keys`]. Every argument of every step is checked against what the plan's kernels state that they
    /// take; that the code does what it states is the plan's word, which `jambac verify --code` checks.
    ///
    /// # Errors
    /// Fails if the plan is damaged, if it is not the required one, if no trusted key signed it, if it has no code for the device, or if there is too little memory.
    pub fn open(source: impl PlanSource, mut options: OpenOptions<'_>) -> Result<Engine, RuntimeError> {
        let file = Arc::new(source.into_plan()?);
        let _open = debug_span!("open", plan = %file.path().display()).entered();
        if let (true, Some(exposed)) = (options.pins_plan(), file.exposed()) {
            return Err(RuntimeError::Exposed { path: file.path().to_owned(), exposed });
        }
        if options.trusted_keys.is_some() && options.verify != Verify::Everything {
            let found = "AllButWeights with trusted_keys".to_owned();
            return Err(RuntimeError::Option {
                name: "verify",
                found,
                expected: "Everything: a signature covers the weights",
            });
        }
        let driver = match (options.driver.take(), options.device) {
            (None, DeviceId::Cpu) => None,
            (None, DeviceId::Cuda(number)) => Some(gpu::open(number)?),
            (driver, _) => driver,
        };
        let mut tell = |done, total| report_bytes(options.progress, "checking the plan", done, total);
        let plan = debug_span!("verify").in_scope(|| file.plan(options.verify, &mut tell))?;
        if let Some(expected) = options.require_digest.filter(|&expected| expected != plan.digest()) {
            return Err(RuntimeError::DigestRequired { path: file.path().to_owned(), found: plan.digest(), expected });
        }
        if let Some(keys) = &options.trusted_keys {
            keys.check(file.path(), plan.digest())?;
        }
        let (info, program) = program_for(&plan, driver.as_deref())?;
        let limits = options.lowered(&plan.manifest().limits)?;
        let (mut device, opened): (Box<dyn Device>, Opened) = match driver {
            Some(driver) => {
                let (gpu, opened) = Gpu::open(&plan, (info, program), &file, (&options, &limits), driver)?;
                (Box::new(gpu), opened)
            }
            None => {
                let (cpu, opened) = Cpu::open(&plan, (info, program), Arc::clone(&file), (&options, &limits))?;
                (Box::new(cpu), opened)
            }
        };
        let check = options.debug.check;
        if check {
            device.check_steps();
        }
        let plan_limits = &plan.manifest().limits;
        let manifest = Manifest { limits, ..plan.manifest().clone() };
        Ok(Engine {
            digest: plan.digest(),
            sequences: Sequences::new(&manifest, info, program, pages_per_sequence(plan_limits))?,
            checkpoints: Checkpoints::new(&manifest.limits),
            plan_context: plan_limits.max_context,
            manifest,
            memory: info.memory.clone(),
            program: program.clone(),
            device,
            opened,
            check,
            trace: None,
            #[cfg(feature = "constrain")]
            constraint_limits: options.constraints,
            on_prefill: None,
            #[cfg(feature = "tokenizer")]
            texts: Texts::new(&plan),
            file: Arc::clone(&file),
        })
    }

    /// The path of the plan's file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The plan's manifest: model, limits and targets. The limits are those of the engine: [`OpenOptions`] can lower the plan's.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The plan's maximum context in tokens, which [`OpenOptions::max_context`] does not change.
    pub(crate) fn plan_context(&self) -> u64 {
        self.plan_context
    }

    #[cfg(feature = "constrain")]
    pub(crate) fn constraint_limits(&self) -> &ConstraintLimits {
        &self.constraint_limits
    }

    /// Sizes of the engine's memory on its device, in bytes, without code.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The program that the engine runs: kernels, weights and the steps of each entry.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// BLAKE3 digest of the plan. Snapshots and prefix caches can be shared between engines with equal digests.
    pub fn plan_digest(&self) -> blake3::Hash {
        self.digest
    }

    /// The target whose code was loaded, for example `x86-64-v3`.
    pub fn target(&self) -> &str {
        &self.opened.target
    }

    /// The plan's targets of the same kind as [`Engine::target`]. Their state has the same layout.
    pub fn targets(&self) -> &[String] {
        let info = self.manifest.of(TargetKind::of_target(self.target()));
        info.map_or(&[], |info| &info.targets)
    }

    /// `cpu`, or the GPU's name as its driver reports it.
    pub fn device(&self) -> &str {
        &self.opened.device
    }

    /// Number of threads that run steps, including the caller; 1 on a GPU.
    pub fn threads(&self) -> usize {
        self.opened.n_threads
    }

    /// Mean number of threads of the steps so far, weighted by their time. Fewer than [`Engine::threads`] where threads cost more
    /// than they bring: in short steps, beside other processes, under a quota of processor time. Results are the same bits.
    pub fn mean_threads(&self) -> f64 {
        self.device.mean_threads()
    }

    /// Adds an empty sequence.
    ///
    /// # Errors
    /// [`RuntimeError::PoolExhausted`] if all state slots are in use.
    pub fn add_sequence(&mut self) -> Result<SequenceId, RuntimeError> {
        self.device.health()?;
        let (id, slot) = self.sequences.add()?;
        self.device.clear(Piece::Slot(slot));
        self.device.health()?;
        Ok(id)
    }

    /// Removes a sequence and frees its state slot and all KV pages that no fork shares.
    pub fn remove_sequence(&mut self, id: SequenceId) -> Result<(), RuntimeError> {
        self.device.health()?;
        let slot = self.sequences.remove(id, &mut *self.device)?;
        self.checkpoints.forget(slot);
        self.device.health()
    }

    /// Number of tokens in a sequence.
    pub fn len(&self, id: SequenceId) -> Result<u64, RuntimeError> {
        Ok(self.tokens(id)?.len() as u64)
    }

    /// The tokens of a sequence, in order.
    pub fn tokens(&self, id: SequenceId) -> Result<&[u32], RuntimeError> {
        self.sequences.tokens(id)
    }

    /// Numbers of free state slots and free KV pages.
    pub fn free(&self) -> (u64, u64) {
        self.sequences.free()
    }

    /// Maximum number of tokens per [`Engine::step`], summed over all feeds.
    pub fn max_step_tokens(&self) -> usize {
        self.sequences.prefill_tokens() as usize
    }

    /// Maximum number of rows of logits per [`Engine::step`].
    pub fn max_step_outputs(&self) -> usize {
        self.sequences.prefill_outputs() as usize
    }

    /// Runs one step: appends tokens to each fed sequence and returns the requested rows of logits, f32 \[rows, vocab\], in
    /// the order of the feeds and, within a feed, of its tokens. Plans with another head return scores or hidden states in place of
    /// logits.
    ///
    /// If every feed has one token, the decode entry runs. On a GPU its kernels sum in another order than those of the
    /// prefill entry; [`Engine::prefill`] always uses the prefill entry there.
    ///
    /// # Errors
    /// Validates all feeds before changing any state. After a device fault the engine is unusable.
    pub fn step(&mut self, feeds: &[Feed<'_>]) -> Result<Logits<'_>, RuntimeError> {
        let admitted = self.run(feeds.iter().copied(), Origin::Any, &[])?;
        Ok(self.logits(admitted))
    }

    /// Like [`Engine::step`], with an observer of every step, which the calling thread calls. The results are the same bits.
    ///
    /// # Errors
    /// As [`Engine::step`]; also [`RuntimeError::Option`] on a GPU.
    pub fn step_observed(
        &mut self,
        feeds: &[Feed<'_>],
        observer: &mut dyn StepObserver,
    ) -> Result<Logits<'_>, RuntimeError> {
        if self.device.as_cpu().is_none() {
            return Err(RuntimeError::Option { name: "device", found: self.opened.device.clone(), expected: "cpu" });
        }
        let admitted = self.run_with(feeds.iter().copied(), Origin::Any, |device, admitted, trace| {
            if let Some(cpu) = device.as_cpu() {
                cpu.run_observed(admitted.entry, admitted.counts, observer, trace);
            }
            Ok(())
        })?;
        Ok(self.logits(admitted))
    }

    /// Like [`Engine::step`], then picks a token from each row of logits. `samplers` has one sampler per row; each has
    /// observed the tokens before it ([`Sampler::observe`]). A GPU picks the
    /// token itself, without copying the row to the host, if the sampler has no penalties and no biases; the tokens are the
    /// same.
    ///
    /// ```
    /// use jamba_runtime::{Engine, Feed, OpenOptions, Outputs, Sampler, SamplerOptions};
    ///
    /// let mut engine = Engine::open("examples/toy.plan", OpenOptions::default())?;
    /// let vocab = engine.manifest().model.vocab as usize;
    /// let mut samplers = [Sampler::new(SamplerOptions::GREEDY, vocab)?];
    /// samplers[0].observe(&[1, 20, 30]);
    /// let sequence = engine.add_sequence()?;
    /// let feed = Feed { sequence, tokens: &[1, 20, 30], outputs: Outputs::Last };
    /// let next = engine.step_and_pick(&[feed], &mut samplers)?;
    /// engine.step_and_pick(&[Feed { tokens: &next, ..feed }], &mut samplers)?;
    /// # Ok::<(), jamba_runtime::RuntimeError>(())
    /// ```
    pub fn step_and_pick(&mut self, feeds: &[Feed<'_>], samplers: &mut [Sampler]) -> Result<Vec<u32>, RuntimeError> {
        self.check_head()?;
        let rows: u64 = feeds.iter().map(|feed| feed.outputs.rows(feed.tokens.len())).sum();
        if samplers.len() as u64 != rows {
            let found = format!("{} for {rows} rows of logits", samplers.len());
            return Err(RuntimeError::Option { name: "samplers", found, expected: "one per row" });
        }
        let settings: Vec<Option<Setting>> = samplers.iter().map(Sampler::setting).collect();
        let admitted = self.run(feeds.iter().copied(), Origin::Any, &settings)?;
        self.rows(admitted).zip(samplers).map(|(row, sampler)| sampler.pick_row(row)).collect()
    }

    /// Runs a step. `settings` says for each row of logits how the device may pick a token.
    pub(crate) fn run<'f>(
        &mut self,
        feeds: impl Iterator<Item = Feed<'f>> + Clone,
        origin: Origin,
        settings: Settings<'_>,
    ) -> Result<Admitted, RuntimeError> {
        self.run_with(feeds, origin, |device, admitted, trace| {
            device.run(admitted.entry, admitted.counts, settings, trace)
        })
    }

    /// Admits the feeds, executes the step with `execute`, and checks its results if asked to.
    fn run_with<'f>(
        &mut self,
        feeds: impl Iterator<Item = Feed<'f>> + Clone,
        origin: Origin,
        execute: impl FnOnce(&mut dyn Device, Admitted, Option<&mut Trace>) -> Result<(), RuntimeError>,
    ) -> Result<Admitted, RuntimeError> {
        self.device.health()?;
        let admitted = self.sequences.admit(feeds.clone(), origin)?;
        if let Some(trace) = &mut self.trace {
            trace.begin_run(admitted.entry, admitted.kind, self.sequences.size(feeds.clone(), admitted.counts));
        }
        let Counts { tokens, sequences, outputs } = admitted.counts;
        let _step = match admitted.kind {
            EntryKind::Prefill => trace_span!("prefill", tokens, sequences, outputs),
            EntryKind::Decode => trace_span!("decode", tokens, sequences, outputs),
        }
        .entered();
        self.sequences.advance(feeds, &mut *self.device);
        execute(&mut *self.device, admitted, self.trace.as_mut())?;
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

    /// The results of a step, in order: a row of logits, or the token that the device picked from it.
    pub(crate) fn rows(&self, admitted: Admitted) -> impl Iterator<Item = Row<'_>> {
        (0..admitted.counts.outputs).map(move |row| match self.device.token(row) {
            Some(token) => Row::Token(token),
            None => Row::Logits(self.device.logits(admitted.entry, row)),
        })
    }

    /// The rows of logits of a step in which the device picked no tokens.
    pub(crate) fn logits(&self, admitted: Admitted) -> Logits<'_> {
        Logits { device: &*self.device, entry: admitted.entry, len: admitted.counts.outputs }
    }

    /// Appends a prompt of any length to a sequence, in steps of at most `chunk` tokens (by default, and at most,
    /// [`Engine::max_step_tokens`]). Returns the logits of the last token, one row of f32 \[vocab\].
    ///
    /// `cancel` is checked before each step.
    ///
    /// # Errors
    /// Validates all tokens before changing any state. [`RuntimeError::Cancelled`] if `cancel` was set; the sequence then
    /// has the tokens of the steps that ran.
    pub fn prefill(
        &mut self,
        sequence: SequenceId,
        tokens: &[u32],
        chunk: Option<usize>,
        cancel: Option<&Cancel>,
    ) -> Result<Logits<'_>, RuntimeError> {
        let feed = Feed { sequence, tokens, outputs: Outputs::Last };
        let admitted = self.run_chunks(feed, chunk, cancel, &[])?;
        Ok(self.logits(admitted))
    }

    /// Runs a feed of any length in chunks. The result, and `settings`, are those of the last chunk.
    pub(crate) fn run_chunks(
        &mut self,
        feed: Feed<'_>,
        chunk: Option<usize>,
        cancel: Option<&Cancel>,
        settings: Settings<'_>,
    ) -> Result<Admitted, RuntimeError> {
        let Feed { sequence, tokens, outputs } = feed;
        self.sequences.check_room(sequence, tokens)?;
        let most = self.max_step_tokens();
        let chunk = chunk.unwrap_or(most).clamp(1, most);
        let last = (tokens.len() - 1) / chunk * chunk;
        let before_chunk = |engine: &Engine, done| {
            engine.report_prefill(done, tokens.len());
            if cancel.is_some_and(Cancel::is_cancelled) { Err(RuntimeError::Cancelled) } else { Ok(()) }
        };
        for (index, part) in tokens[..last].chunks(chunk).enumerate() {
            before_chunk(self, index * chunk)?;
            let feed = Feed { sequence, tokens: part, outputs: Outputs::None };
            self.run(std::iter::once(feed), Origin::Prompt, &[])?;
        }
        before_chunk(self, last)?;
        let feed = Feed { sequence, tokens: &tokens[last..], outputs };
        let admitted = self.run(std::iter::once(feed), Origin::Prompt, settings)?;
        self.report_prefill(tokens.len(), tokens.len());
        Ok(admitted)
    }

    fn report_prefill(&self, done: usize, total: usize) {
        if let Some(listen) = &self.on_prefill {
            listen(Progress { what: "prefilling", done: done as u64, total: total as u64, unit: Unit::Tokens });
        }
    }

    /// Sets a callback for the progress of prompts: called before each chunk and after the last one.
    pub fn on_prefill(&mut self, listen: impl Fn(Progress) + Send + 'static) {
        self.on_prefill = Some(Box::new(listen));
    }

    /// Starts recording the time of every step, or stops and discards the recording.
    pub fn set_trace(&mut self, on: bool) {
        self.trace = on.then(Trace::new);
    }

    /// The times recorded since [`Engine::set_trace`].
    pub fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }
}

/// The plan's program for the GPU, or for the CPU if there is no driver.
fn program_for<'p>(
    plan: &'p Plan<'_>,
    driver: Option<&dyn Driver>,
) -> Result<(&'p ProgramInfo, &'p Program), RuntimeError> {
    let (kind, wanted) = match driver {
        Some(_) => (TargetKind::Sm90a, "sm_90a"),
        None => (TargetKind::Cpu, "a CPU target such as x86-64-v3"),
    };
    plan.programs().find(|(info, _)| info.kind == kind).ok_or_else(|| RuntimeError::NoCodeForDevice {
        device: driver.map_or("the CPU".to_owned(), |driver| driver.info().name.clone()),
        targets: plan.manifest().targets().map(str::to_owned).collect(),
        wanted,
    })
}

/// The rows of logits of one step, f32 \[rows, vocab\].
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

    /// True if no rows were requested.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One row, f32 \[vocab\].
    ///
    /// # Panics
    /// If `index` is not less than [`Logits::len`].
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
