//! Errors of the runtime. Messages state what was found and what was expected.

use std::path::PathBuf;

use jamba_plan::PlanError;

use crate::DeviceId;
use crate::sequence::session::SequenceId;

/// A memory pool of sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Slots of conv and SSM state, one per sequence.
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

/// A limit on text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextLimit {
    /// The most bytes that are encoded at once.
    Bytes(u64),
    /// The most bytes that the tokenizer's normalizer may make of a text.
    Normalized(u64),
    /// Room for tokens.
    Tokens {
        /// The text has at least as many.
        tokens: u64,
        /// There is room for as many.
        most: u64,
    },
}

impl TextLimit {
    fn describe(self, bytes: u64) -> String {
        match self {
            TextLimit::Bytes(most) => {
                format!("found a text of {bytes} bytes, expected at most {most}: more are not encoded at once")
            }
            TextLimit::Normalized(most) => {
                format!("the tokenizer's normalizer makes at least {bytes} bytes of the text, expected at most {most}")
            }
            TextLimit::Tokens { tokens, most } => format!(
                "the text of {bytes} bytes has at least {tokens} tokens, and there is room for {most}: shorten it"
            ),
        }
    }
}

/// An error of the runtime. Unless documented otherwise, the engine is unchanged after an error.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A file operation failed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operation, for example `open it`.
        action: &'static str,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] jamba_plan::output::OutputError),
    /// The plan is invalid or damaged.
    #[error("{}: {source}", path.display())]
    Plan {
        /// The plan's file.
        path: PathBuf,
        /// The section and field that are wrong.
        source: PlanError,
    },
    /// The plan is not the one that [`OpenOptions::require_digest`](crate::OpenOptions::require_digest) names. None of its code was
    /// loaded.
    #[error("{}: the plan's digest is {found}, expected {expected}: it is another plan than the required one", path.display())]
    DigestRequired {
        /// The plan's file.
        path: PathBuf,
        /// Its digest.
        found: blake3::Hash,
        /// The required digest.
        expected: blake3::Hash,
    },
    /// A digest or a signature is required, and other users may write to the plan's file. None of its code was loaded.
    #[error("{}: {exposed}, and could change it while it is open: expected a file that nobody else can write (chmod go-w)", path.display())]
    Exposed {
        /// The plan's file.
        path: PathBuf,
        /// Who may write to it.
        exposed: crate::Exposed,
    },
    /// The signature of a plan is missing or of no trusted key, or a file of keys is invalid. No code of the plan was loaded.
    #[error("{}: {reason}", path.display())]
    Signature {
        /// The signature's file, or that of the keys.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A plan in memory is not page-aligned.
    #[error(
        "the plan in memory starts {off} bytes after a page boundary, expected an address that is a multiple of 4096"
    )]
    Unaligned {
        /// Offset from the page boundary, in bytes.
        off: u64,
    },
    /// A `.state` file is invalid, damaged or of another plan.
    #[error("{}: {field}: found {found}, expected {expected}", path.display())]
    StateFile {
        /// The file.
        path: PathBuf,
        /// The wrong field.
        field: &'static str,
        /// The value found.
        found: String,
        /// The value expected.
        expected: String,
    },
    /// The bytes of a saved state are invalid, damaged or of another plan.
    #[error("the saved state: {field}: found {found}, expected {expected}")]
    StateBytes {
        /// The wrong field.
        field: &'static str,
        /// The value found.
        found: String,
        /// The value expected.
        expected: String,
    },
    /// This CPU runs none of the plan's targets.
    #[error("the plan has code for {targets:?}; this CPU runs {found}: build the plan for a target that it supports")]
    NoCodeForCpu {
        /// Targets of the plan.
        targets: Vec<String>,
        /// Targets that this CPU supports.
        found: String,
    },
    /// The plan has no target for the kind of device.
    #[error("the plan has code for {targets:?}, but none for {device}: build it with {wanted} among its targets")]
    NoCodeForDevice {
        /// The device.
        device: String,
        /// Targets of the plan.
        targets: Vec<String>,
        /// A target that the plan would need.
        wanted: &'static str,
    },
    /// The requested target is not in the plan.
    #[error("target {wanted:?} was requested; the plan has code for {targets:?}")]
    NoSuchTarget {
        /// The requested target.
        wanted: String,
        /// Targets of the plan.
        targets: Vec<String>,
    },
    /// This CPU lacks features of the requested target.
    #[error("target {target:?} needs {missing}, which this CPU lacks")]
    CpuLacks {
        /// The requested target.
        target: String,
        /// The missing features, by their LLVM names.
        missing: String,
    },
    /// The plan's code cannot be loaded.
    #[error("code/{target}: cannot be loaded: {reason}")]
    Code {
        /// The target.
        target: String,
        /// What is wrong with the code, or the driver's message.
        reason: String,
    },
    /// The system has too little memory.
    #[error("cannot allocate {bytes} bytes of memory for {what}: {source}")]
    Memory {
        /// The purpose of the memory.
        what: &'static str,
        /// Requested bytes.
        bytes: u64,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The device's driver is not available.
    #[error("device {device}: {reason}")]
    NoDriver {
        /// The requested device.
        device: DeviceId,
        /// The reason.
        reason: String,
    },
    /// There is no device with this index.
    #[error("device {wanted}: the driver finds {found}, the first of which is cuda:0")]
    NoSuchDevice {
        /// The requested device.
        wanted: DeviceId,
        /// Number of devices.
        found: u32,
    },
    /// The GPU has another compute capability than the plan's code.
    #[error("{device} has compute capability {}.{}; the plan's code for sm_90a runs only on {}.{}", found.0, found.1, needed.0, needed.1)]
    WrongCapability {
        /// The device's name.
        device: String,
        /// Its compute capability: major, minor.
        found: (u32, u32),
        /// The compute capability that the code needs.
        needed: (u32, u32),
    },
    /// The GPU's driver is too old for the plan's PTX.
    #[error(
        "{device}: its driver supports CUDA {}.{}; the plan's code, PTX {}.{}, needs {}.{}: install a newer driver",
        found.0, found.1, ptx.0, ptx.1, needed.0, needed.1
    )]
    DriverTooOld {
        /// The device's name.
        device: String,
        /// The newest CUDA version that the driver supports: major, minor.
        found: (u32, u32),
        /// The oldest sufficient CUDA version.
        needed: (u32, u32),
        /// The version of the plan's PTX.
        ptx: (u32, u32),
    },
    /// The GPU has too little free memory.
    #[error(
        "{device}: {what} needs {needed} bytes of memory, {free} are free{}; `jambac fit` computes limits that fit",
        match needed.checked_sub(*free) {
            Some(missing) if missing > 0 => format!(": {missing} are missing"),
            _ => ", but not contiguously".to_owned(),
        }
    )]
    DeviceMemory {
        /// The device's name.
        device: String,
        /// The purpose of the memory: `the plan`, `KV pool`.
        what: &'static str,
        /// Needed bytes.
        needed: u64,
        /// Free bytes.
        free: u64,
    },
    /// A kernel or a driver call failed. The engine is unusable; every later call returns this error.
    #[error("{device}: {place}: {reason}")]
    DeviceFault {
        /// The device's name.
        device: String,
        /// The operation: `copying state`, `prefill step 7 (linear_sm90, layers.3.mamba)`.
        place: String,
        /// The driver's message.
        reason: String,
    },
    /// The GPU is lost, for example reset. The engine is unusable; every later call returns this error.
    #[error("{device} is lost: {place}: {reason}")]
    DeviceLost {
        /// The device's name.
        device: String,
        /// The operation.
        place: String,
        /// The driver's message.
        reason: String,
    },
    /// The system gives no memory for the plan's code, or none that is executable.
    #[error("the system cannot load the plan's code for {target}: {reason}")]
    CodeNotLoaded {
        /// The target.
        target: String,
        /// The message of the system.
        reason: String,
    },
    /// The engine was opened by another process, of which this one is a fork. A GPU's driver does not survive a fork.
    #[error("the engine was opened by process {opened_by}, of which this process is a fork: open the plan again")]
    Forked {
        /// The process that opened the engine.
        opened_by: u32,
    },
    /// A worker thread cannot be started.
    #[error("cannot start worker thread {thread}: {source}")]
    Thread {
        /// Index of the thread, from 1.
        thread: usize,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// An option has an invalid value.
    #[error("{name}: found {found}, expected {expected}")]
    Option {
        /// The option.
        name: &'static str,
        /// The given value.
        found: String,
        /// The expected values.
        expected: &'static str,
    },
    /// A plan was to be opened with larger limits than it was built for.
    #[error("{name}: found {found}, expected 1 … {most}, the limit of the plan")]
    Limit {
        /// `context` or `sequences`.
        name: &'static str,
        /// The given value.
        found: u64,
        /// The plan's limit.
        most: u64,
    },
    /// The sequence was removed, or belongs to another engine.
    #[error("{0} does not exist, or was removed")]
    UnknownSequence(SequenceId),
    /// A step contains a sequence twice.
    #[error("{0} is in the step twice")]
    SequenceTwice(SequenceId),
    /// A step, or one of its sequences, has no tokens.
    #[error("found no tokens: a step needs at least one sequence with at least one token each")]
    NoTokens,
    /// The plan's head is not the one that the call needs.
    #[error("the plan computes {found}, expected {expected}: {help}")]
    Head {
        /// What the plan computes.
        found: &'static str,
        /// What the call needs.
        expected: &'static str,
        /// What helps.
        help: &'static str,
    },
    /// A token is outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocab}")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Vocabulary size.
        vocab: u64,
    },
    /// A sequence would exceed the context: the plan's, or less if the plan was opened with less.
    #[error("a sequence of {wanted} tokens was requested; the context is {max_context} tokens")]
    ContextFull {
        /// Requested length, in tokens.
        wanted: u64,
        /// Maximum context, in tokens.
        max_context: u64,
    },
    /// A text is too long to be encoded, or has more tokens than there is room for.
    #[error("{}", limit.describe(*bytes))]
    TextTooLong {
        /// Bytes of the text.
        bytes: u64,
        /// The limit that it exceeds.
        limit: TextLimit,
    },
    /// A pool has too little free memory. Retry after removing a sequence.
    #[error("{wanted} {pool} were requested, {free} are free")]
    PoolExhausted {
        /// The pool.
        pool: Pool,
        /// Requested slots or pages.
        wanted: u64,
        /// Free slots or pages.
        free: u64,
    },
    /// A prompt needs more KV pages than the engine has.
    #[error(
        "the prompt needs {wanted} KV pages; the engine has {most}: shorten it, or build the plan for more KV tokens"
    )]
    PoolTooSmall {
        /// Pages of the prompt.
        wanted: u64,
        /// All pages of the engine.
        most: u64,
    },
    /// The queue of a [`Batch`](crate::Batch) is full. Retry after a request has ended.
    #[error("the queue is full: {found} {what} would wait, at most {most} may: retry later")]
    QueueFull {
        /// `requests` or `prompt tokens`.
        what: &'static str,
        /// Number that would wait.
        found: u64,
        /// The limit of [`BatchOptions`](crate::BatchOptions).
        most: u64,
    },
    /// A rollback would go back beyond the sequence's checkpoint.
    #[error("a rollback of {wanted} of {len} tokens was requested; {}", match checkpoint {
        Some(checkpoint) => format!("the checkpoint is at {checkpoint}"),
        None => "the sequence has no checkpoint".to_owned(),
    })]
    TooFarBack {
        /// Number of tokens to remove.
        wanted: u64,
        /// Length of the sequence.
        len: u64,
        /// Length at the checkpoint, if there is one.
        checkpoint: Option<u64>,
    },
    /// A sequence cannot return to a save point because it does not start with its tokens.
    #[error("the save point is after {n_tokens} tokens; the sequence of {len} tokens does not start with them")]
    OtherTokens {
        /// Number of tokens at the save point.
        n_tokens: u64,
        /// Length of the sequence.
        len: u64,
    },
    /// A snapshot, a save point or a prefix cache belongs to another plan.
    #[error("the {what} belongs to another plan: found {found}, expected {expected}")]
    OtherPlan {
        /// `snapshot`, `save point` or `prefix cache`.
        what: &'static str,
        /// Digest of its plan.
        found: blake3::Hash,
        /// Digest of the engine's plan.
        expected: blake3::Hash,
    },
    /// A snapshot of another kind of target, which has another layout; or a prefix cache filled by another target, which may
    /// round differently.
    #[error("the {what} was computed by the target {found}; the engine runs {expected}")]
    OtherTarget {
        /// `snapshot` or `prefix cache`.
        what: &'static str,
        /// The target whose code computed it.
        found: String,
        /// The target of the engine.
        expected: String,
    },
    /// A step exceeds the plan's limits.
    #[error("a step of {found} {what} was requested; the plan was built for {most}")]
    StepTooLarge {
        /// `tokens`, `sequences` or `rows of logits`.
        what: &'static str,
        /// Requested number.
        found: u64,
        /// Maximum of the plan.
        most: u64,
    },
    /// The operation was cancelled between two steps.
    #[error("cancelled")]
    Cancelled,
    /// The plan lacks a section because its checkpoint had no such file.
    #[error("the plan has no {0}: its checkpoint had none")]
    NoSection(&'static str),
    /// The tokenizer, its configuration or a chat template is invalid.
    #[error("{section}: {reason}")]
    Tokenizer {
        /// `tokenizer`, `tokenizer config` or `chat template`.
        section: &'static str,
        /// The reason.
        reason: String,
    },
    /// The largest logit of a row is not finite: an activation overflowed, which the model's weights and the prompt cause.
    #[error(
        "the largest logit of a row is {largest}, expected a finite number: an activation of the model overflowed for these tokens"
    )]
    NotFinite {
        /// The largest logit.
        largest: f32,
    },
    /// Biases or a constraint forbid all tokens.
    #[error("no token is allowed: biases or a constraint forbid all of them")]
    NoTokenAllowed,
    /// A constraint is invalid, or no text satisfies it.
    #[error("{kind}: {reason}")]
    Constraint {
        /// `JSON schema`, `regular expression` or `grammar`.
        kind: &'static str,
        /// The reason.
        reason: String,
    },
    /// A kernel wrote outside its memory. Found with [`DebugOptions::check`](crate::DebugOptions::check).
    #[error("step {step} ({kernel}, {source_layer}) wrote outside the {region}")]
    GuardBroken {
        /// Index of the step in its entry.
        step: usize,
        /// The kernel's symbol.
        kernel: String,
        /// The layer that the step belongs to.
        source_layer: String,
        /// The memory region next to the guard.
        region: &'static str,
    },
}

/// Who or what causes an error, and whether the same call can succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// A wrong argument, option or file: the same call fails again.
    Caller,
    /// More tokens than the plan's context, a step or the whole KV pool holds.
    TooLong,
    /// Too little free memory or too long a queue now: the same call can succeed when others have ended.
    Busy,
    /// The operation was cancelled.
    Cancelled,
    /// The machine cannot do it: too little memory, no such CPU, GPU or driver, or a file that cannot be read.
    Machine,
    /// An internal error, which neither the plan nor the caller can cause.
    Ours,
    /// The device is gone: the engine is of no use; open the plan again.
    DeviceGone,
}

impl RuntimeError {
    /// The class of the error.
    pub fn class(&self) -> ErrorClass {
        use RuntimeError as E;
        match self {
            E::ContextFull { .. } | E::StepTooLarge { .. } | E::PoolTooSmall { .. } | E::TextTooLong { .. } => {
                ErrorClass::TooLong
            }
            E::PoolExhausted { .. } | E::QueueFull { .. } => ErrorClass::Busy,
            E::Cancelled => ErrorClass::Cancelled,
            E::Io { .. }
            | E::Output(_)
            | E::Memory { .. }
            | E::NoCodeForCpu { .. }
            | E::NoCodeForDevice { .. }
            | E::CpuLacks { .. }
            | E::NoDriver { .. }
            | E::NoSuchDevice { .. }
            | E::WrongCapability { .. }
            | E::DriverTooOld { .. }
            | E::DeviceMemory { .. }
            | E::CodeNotLoaded { .. }
            | E::Thread { .. } => ErrorClass::Machine,
            E::GuardBroken { .. } | E::Code { .. } | E::DeviceFault { .. } => ErrorClass::Ours,
            E::DeviceLost { .. } => ErrorClass::DeviceGone,
            E::Plan { .. }
            | E::DigestRequired { .. }
            | E::Exposed { .. }
            | E::Signature { .. }
            | E::Unaligned { .. }
            | E::StateFile { .. }
            | E::StateBytes { .. }
            | E::NoSuchTarget { .. }
            | E::Forked { .. }
            | E::Option { .. }
            | E::Limit { .. }
            | E::UnknownSequence(_)
            | E::SequenceTwice(_)
            | E::NoTokens
            | E::Head { .. }
            | E::TokenOutOfRange { .. }
            | E::TooFarBack { .. }
            | E::OtherTokens { .. }
            | E::OtherPlan { .. }
            | E::OtherTarget { .. }
            | E::NoSection(_)
            | E::Tokenizer { .. }
            | E::NotFinite { .. }
            | E::NoTokenAllowed
            | E::Constraint { .. } => ErrorClass::Caller,
        }
    }

    /// True for internal errors, which neither the plan nor the caller can cause.
    pub fn is_ours(&self) -> bool {
        self.class() == ErrorClass::Ours
    }
}
