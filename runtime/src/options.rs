//! Options for opening a plan, and reports of progress.

use std::time::Duration;

use jamba_plan::Verify;
use jamba_plan::format::{KV_PAGE_TOKENS, Limits};

use crate::gpu::Driver;
use crate::signature::TrustedKeys;
use crate::{DeviceId, RuntimeError};

/// Limits on compiling clients' constraints: JSON schemas, regular expressions and grammars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConstraintLimits {
    /// Timeout of one compilation. After it, the thread is abandoned and runs to its end. As many threads compile constraints as half of
    /// the machine's cores, and at least two, abandoned ones included; other constraints wait for one, which is part of their time. In
    /// a batch, the request's deadline is a timeout too.
    pub time: Duration,
    /// Lexer fuel of llguidance for one compilation; a schema of 100 kB takes about 500,000.
    pub fuel: u64,
    /// States of the automaton, 1 to 2 kB each.
    pub states: usize,
    /// Symbols in the rules.
    pub symbols: usize,
}

impl Default for ConstraintLimits {
    fn default() -> ConstraintLimits {
        ConstraintLimits { time: Duration::from_secs(5), fuel: 1_000_000, states: 20_000, symbols: 200_000 }
    }
}

/// Progress of an operation that takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The operation: `checking the plan`, `copying weights`, `drawing weights` or `prefilling`.
    pub what: &'static str,
    /// Units done so far.
    pub done: u64,
    /// Units in total.
    pub total: u64,
    /// The unit of `done` and `total`.
    pub unit: Unit,
}

/// The unit of a [`Progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of the plan or of memory.
    Bytes,
    /// Tokens of a prompt.
    Tokens,
}

/// A callback for [`Progress`].
pub(crate) type Listener<'a> = Option<&'a (dyn Fn(Progress) + Sync)>;

/// Calls the listener, if there is one, with progress in bytes.
pub(crate) fn report_bytes(listener: Listener<'_>, what: &'static str, done: u64, total: u64) {
    if let Some(listen) = listener {
        listen(Progress { what, done, total, unit: Unit::Bytes });
    }
}

/// Options for [`Engine::open`](crate::Engine::open). The default opens the plan on the CPU with one thread per core.
#[derive(Default)]
pub struct OpenOptions<'a> {
    /// The device.
    pub device: DeviceId,
    /// A GPU driver to use in place of `device`, for example a simulator.
    pub driver: Option<Box<dyn Driver>>,
    /// Number of threads including the caller, 1 … 1024; by default one per core that the process may use, or the
    /// control group's quota of processor time, rounded up. On a GPU these threads only
    /// draw synthetic weights, and only if the plan has no kernel for that.
    pub threads: Option<usize>,
    /// The target whose code is loaded, for example `x86-64-v3`; by default the best one that the device supports.
    pub isa: Option<String>,
    /// Maximum length of a sequence in tokens, if less than the plan's: less memory for keys and values.
    pub max_context: Option<u64>,
    /// Maximum number of sequences, if less than the plan's: less memory for their state, keys and values.
    pub max_sequences: Option<u64>,
    /// Which parts of the plan are checked against their digests.
    pub verify: Verify,
    /// The digest that the plan must have ([`Engine::plan_digest`](crate::Engine::plan_digest), `jamba verify`). It is compared
    /// before any code of the plan is loaded. It covers every byte of the plan, except the weights if `verify` leaves them out. A file that
    /// others may write to is refused.
    pub require_digest: Option<blake3::Hash>,
    /// Keys of which one must have signed the plan: its signature is beside it, in `my.plan.sig`. It is checked before any code of the plan
    /// is loaded. It covers every byte of the plan, so `verify` must be [`Verify::Everything`]. A plan in memory has no signature.
    pub trusted_keys: Option<TrustedKeys>,
    /// Makes all memory resident before `open` returns. Opening takes longer; later steps cause no page faults and cannot
    /// run out of memory.
    pub prefault: bool,
    /// Limits on clients' constraints.
    pub constraints: ConstraintLimits,
    /// Switches for finding faults in kernels and in the runtime.
    pub debug: DebugOptions,
    /// Receives progress of plan verification and of weight upload or generation. It may be called from several threads.
    pub progress: Option<&'a (dyn Fn(Progress) + Sync)>,
}

impl OpenOptions<'_> {
    /// Whether a digest or a signature is required.
    pub(crate) fn pins_plan(&self) -> bool {
        self.require_digest.is_some() || self.trusted_keys.is_some()
    }

    /// The plan's limits, lowered to the options.
    ///
    /// # Errors
    /// An option is 0 or above the plan's limit.
    pub(crate) fn lowered(&self, limits: &Limits) -> Result<Limits, RuntimeError> {
        let lower = |name: &'static str, wanted: Option<u64>, most: u64| match wanted {
            None => Ok(most),
            Some(wanted) if (1..=most).contains(&wanted) => Ok(wanted),
            Some(found) => Err(RuntimeError::Limit { name, found, most }),
        };
        let max_context = lower("context", self.max_context, limits.max_context)?;
        let max_sequences = lower("sequences", self.max_sequences, limits.max_sequences)?;
        let most = max_context.next_multiple_of(KV_PAGE_TOKENS).saturating_mul(max_sequences);
        Ok(Limits { max_context, max_sequences, kv_tokens: limits.kv_tokens.min(most), ..limits.clone() })
    }
}

/// Switches for debugging. All are off by default; each makes the engine slower and leaves its results bit-identical.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DebugOptions {
    /// Synchronizes after every step and checks the guard bytes around all memory; fills unused state with NaN; reports
    /// logits that are not finite.
    pub check: bool,
    /// Draws synthetic weights on the host and copies them to the GPU, even if the plan has kernels that draw them.
    pub draw_on_host: bool,
    /// Launches every step of a GPU separately instead of replaying CUDA graphs.
    pub launch_each: bool,
    /// Copies all logits from the GPU and picks tokens on the host.
    pub pick_on_host: bool,
}

impl DebugOptions {
    const NONE: DebugOptions =
        DebugOptions { check: false, draw_on_host: false, launch_each: false, pick_on_host: false };
    /// Only [`DebugOptions::check`].
    pub const CHECK: DebugOptions = DebugOptions { check: true, ..DebugOptions::NONE };
    /// Only [`DebugOptions::draw_on_host`].
    pub const DRAW_ON_HOST: DebugOptions = DebugOptions { draw_on_host: true, ..DebugOptions::NONE };
    /// Only [`DebugOptions::launch_each`].
    pub const LAUNCH_EACH: DebugOptions = DebugOptions { launch_each: true, ..DebugOptions::NONE };
    /// Only [`DebugOptions::pick_on_host`].
    pub const PICK_ON_HOST: DebugOptions = DebugOptions { pick_on_host: true, ..DebugOptions::NONE };
}
