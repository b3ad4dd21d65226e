//! Why the runtime refused. Every message says what was found and what was expected.

use std::path::PathBuf;

use jamba_plan::PlanError;

use crate::DeviceId;
use crate::session::SequenceId;

/// One of the two pools that sequences take their memory from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Slots of conv and SSM state, one a sequence.
    State,
    /// Pages of keys and values.
    Kv,
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Pool::State => "state slots",
            Pool::Kv => "KV pages",
        })
    }
}

/// Why the runtime refused.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The file system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done to it.
        action: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The plan was refused.
    #[error("{}: {source}", path.display())]
    Plan {
        /// The plan's file.
        path: PathBuf,
        /// What is wrong with it.
        source: PlanError,
    },
    /// A plan in memory does not begin where it should.
    #[error("the plan in memory begins {off} bytes after a page: it has to begin on one, a multiple of 4096 bytes")]
    Unaligned {
        /// Bytes after the page's begin.
        off: u64,
    },
    /// A `.state` file was refused.
    #[error("{}: {field}: found {found}, expected {expected}", path.display())]
    StateFile {
        /// The file.
        path: PathBuf,
        /// The field that is wrong.
        field: &'static str,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: String,
    },
    /// None of the plan's code runs on this CPU.
    #[error("the plan has code for {targets:?}; this CPU runs {found}: build the plan for a target that it runs")]
    NoCodeForCpu {
        /// Targets in the plan.
        targets: Vec<String>,
        /// What this CPU can run.
        found: String,
    },
    /// The plan has nothing for the kind of device that was asked for.
    #[error("the plan has code for {targets:?} and none for {device}: build it with {wanted} among its targets")]
    NoCodeForDevice {
        /// The device.
        device: String,
        /// Targets in the plan.
        targets: Vec<String>,
        /// What the plan would need.
        wanted: &'static str,
    },
    /// The target that was asked for is not in the plan.
    #[error("target {wanted:?} was asked for; the plan has code for {targets:?}")]
    NoSuchTarget {
        /// The target asked for.
        wanted: String,
        /// Targets in the plan.
        targets: Vec<String>,
    },
    /// The target that was asked for needs what this CPU lacks.
    #[error("target {target:?} needs {missing}, which this CPU lacks")]
    CpuLacks {
        /// The target asked for.
        target: String,
        /// Features that are missing.
        missing: String,
    },
    /// The plan's code could not be loaded.
    #[error("code/{target}: cannot be loaded: {reason}")]
    Code {
        /// The target.
        target: String,
        /// The system's message.
        reason: String,
    },
    /// The system has no memory for a pool.
    #[error("cannot take {bytes} bytes of memory for {what}: {source}")]
    Memory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes asked for.
        bytes: u64,
        /// The system's error.
        source: std::io::Error,
    },
    /// There is no driver for the device.
    #[error("device {device}: {reason}")]
    NoDriver {
        /// The device that was asked for.
        device: DeviceId,
        /// What is missing.
        reason: String,
    },
    /// The driver finds fewer devices.
    #[error("device {wanted}: the driver finds {found}, the first of which is cuda:0")]
    NoSuchDevice {
        /// The device that was asked for.
        wanted: DeviceId,
        /// Number of devices.
        found: u32,
    },
    /// The GPU is not of the kind that the plan's code runs on.
    #[error("{device} has compute capability {}.{}; the plan's code for sm_90a runs on {}.{} alone", found.0, found.1, needed.0, needed.1)]
    WrongCapability {
        /// The device's name.
        device: String,
        /// Its compute capability, major and minor.
        found: (u32, u32),
        /// The one that the code runs on.
        needed: (u32, u32),
    },
    /// The GPU's driver does not understand the plan's code.
    #[error(
        "{device}: its driver knows CUDA {}.{}; the plan's code, PTX {}.{}, needs {}.{}: install a newer driver",
        found.0, found.1, ptx.0, ptx.1, needed.0, needed.1
    )]
    DriverTooOld {
        /// The device's name.
        device: String,
        /// The newest CUDA that the driver knows, major and minor.
        found: (u32, u32),
        /// The oldest that would do.
        needed: (u32, u32),
        /// The version of the plan's PTX.
        ptx: (u32, u32),
    },
    /// The GPU has too little memory that is free.
    #[error(
        "{device}: {what} needs {needed} bytes of memory, {free} are free{}; `jambac fit` tells which limits fit",
        match needed.checked_sub(*free) {
            Some(missing) if missing > 0 => format!(": {missing} are missing"),
            _ => ", in no piece that is large enough".to_owned(),
        }
    )]
    DeviceMemory {
        /// The device's name.
        device: String,
        /// What the memory is for: `the plan`, `KV pool`.
        what: &'static str,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A kernel, or a call of the GPU's driver, failed. The engine is of no use from here on: every call returns this.
    #[error("{device}: {place}: {reason}")]
    DeviceFault {
        /// The device's name.
        device: String,
        /// What was being done: `copying state`, `prefill step 7 (linear_sm90, layers.3.mamba)`.
        place: String,
        /// The driver's message.
        reason: String,
    },
    /// The GPU is gone: fallen off the bus, or reset. The engine is of no use from here on: every call returns this.
    #[error("{device} is lost: {place}: {reason}")]
    DeviceLost {
        /// The device's name.
        device: String,
        /// What was being done.
        place: String,
        /// The driver's message.
        reason: String,
    },
    /// A worker thread could not be started.
    #[error("cannot start worker thread {thread}: {source}")]
    Thread {
        /// Its number, from 1.
        thread: usize,
        /// The system's error.
        source: std::io::Error,
    },
    /// An option has a value that makes no sense.
    #[error("{name}: found {found}, expected {expected}")]
    Option {
        /// The option.
        name: &'static str,
        /// What was given.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The sequence was removed, or belongs to another engine.
    #[error("{0} does not exist (any more)")]
    UnknownSequence(SequenceId),
    /// A step names a sequence twice.
    #[error("{0} is in the step twice")]
    SequenceTwice(SequenceId),
    /// A step, or one of its sequences, has no tokens.
    #[error("nothing to do: a step needs at least one sequence, and each of them at least one token")]
    NoTokens,
    /// A token is outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocab}")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: u64,
    },
    /// A sequence would be longer than the plan allows.
    #[error("a sequence of {wanted} tokens was asked for; the plan was built for a context of {max_context}")]
    ContextFull {
        /// Tokens that the sequence would have.
        wanted: u64,
        /// Longest context of the plan.
        max_context: u64,
    },
    /// A pool has too little left. Nobody was disturbed: finish or remove a sequence and try again.
    #[error("{wanted} {pool} were asked for, {free} are free")]
    PoolExhausted {
        /// Which pool.
        pool: Pool,
        /// What was asked for.
        wanted: u64,
        /// What is free.
        free: u64,
    },
    /// More tokens were to be taken back than were taken since the sequence's checkpoint.
    #[error("{wanted} tokens of {len} were to be taken back; {}", match checkpoint {
        Some(checkpoint) => format!("the checkpoint is at {checkpoint}"),
        None => "the sequence has no checkpoint".to_owned(),
    })]
    TooFarBack {
        /// Tokens to be taken back.
        wanted: u64,
        /// Tokens that the sequence has.
        len: u64,
        /// Tokens that it had at its checkpoint, if it has one.
        checkpoint: Option<u64>,
    },
    /// A snapshot, or a prefix cache, belongs to another plan.
    #[error("the {what} belongs to another plan: found {found}, expected {expected}")]
    OtherPlan {
        /// `snapshot` or `prefix cache`.
        what: &'static str,
        /// Digest of the plan that it belongs to.
        found: blake3::Hash,
        /// Digest of the engine's plan.
        expected: blake3::Hash,
    },
    /// A snapshot of another kind of target, whose state lies otherwise; or a prefix cache that holds what another target's
    /// code computed, which rounds otherwise.
    #[error("the {what} was filled by the target {found}; the engine runs {expected}")]
    OtherTarget {
        /// `snapshot` or `prefix cache`.
        what: &'static str,
        /// The target whose code filled it.
        found: String,
        /// The target whose code the engine runs.
        expected: String,
    },
    /// A step is larger than the plan's largest.
    #[error("a step of {found} {what} was asked for; the plan was built for {most}")]
    StepTooLarge {
        /// `tokens`, `sequences` or `rows of logits`.
        what: &'static str,
        /// What was asked for.
        found: u64,
        /// Largest number of the plan.
        most: u64,
    },
    /// The plan carries no tokenizer: its checkpoint had none.
    #[error("the plan has no {0}: its checkpoint had none")]
    NoSection(&'static str),
    /// The tokenizer or its configuration could not be used.
    #[error("{section}: {reason}")]
    Tokenizer {
        /// `tokenizer`, `tokenizer config` or `chat template`.
        section: &'static str,
        /// The library's message.
        reason: String,
    },
    /// Every logit of a row is infinite or not a number.
    #[error("the logits of a row are not numbers: the largest is {largest}")]
    NotFinite {
        /// The largest logit.
        largest: f32,
    },
    /// Biases or a constraint forbid every token.
    #[error("no token may come next: biases or a constraint forbid all of them")]
    NoTokenAllowed,
    /// A constraint cannot be understood, or no text meets it.
    #[error("{kind}: {reason}")]
    Constraint {
        /// `JSON schema`, `regular expression` or `grammar`.
        kind: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A kernel wrote outside its memory (found by `check`).
    #[error("step {step} ({kernel}, {source_layer}) wrote outside the {region}")]
    GuardBroken {
        /// Index of the step in its entry.
        step: usize,
        /// The kernel's symbol.
        kernel: String,
        /// Where in the model the step comes from.
        source_layer: String,
        /// The region whose guard was overwritten.
        region: &'static str,
    },
}

impl RuntimeError {
    /// True when the fault is ours: neither the plan's file nor the caller can be to blame.
    pub fn is_ours(&self) -> bool {
        matches!(
            self,
            RuntimeError::NotFinite { .. }
                | RuntimeError::GuardBroken { .. }
                | RuntimeError::Code { .. }
                | RuntimeError::DeviceFault { .. }
        )
    }
}
