//! Time and memory of an answer.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jamba_plan::text::size;
use jamba_runtime::{Engine, Generated};
use serde::Serialize;

static BEGAN: OnceLock<Instant> = OnceLock::new();

/// Records the start of the program.
pub(crate) fn begin() {
    BEGAN.get_or_init(Instant::now);
}

/// Time since the start of the program.
pub(crate) fn since_beginning() -> Duration {
    BEGAN.get().map_or(Duration::ZERO, Instant::elapsed)
}

/// Times in seconds; rates in tokens per second, None if nothing ran.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Timing {
    open_s: f64,
    /// From the start of the program to the first token.
    first_token_s: Option<f64>,
    prefill_s: f64,
    prefill_tokens_per_s: Option<f64>,
    decode_s: f64,
    decode_tokens_per_s: Option<f64>,
}

/// Memory in bytes.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Memory {
    /// Memory of the open plan, all pools together.
    plan: u64,
    /// Peak resident memory of the process; None if the system does not report it.
    peak_resident: Option<u64>,
}

impl Memory {
    pub(crate) fn of(engine: &Engine) -> Memory {
        Memory { plan: engine.memory().total(&engine.manifest().limits), peak_resident: peak_resident() }
    }

    /// Formatted as `plan 23.1 MB, 40.0 MB resident`.
    pub(crate) fn summary(&self) -> String {
        let resident = self.peak_resident.map(|bytes| format!(", {} resident", size(bytes))).unwrap_or_default();
        format!("plan {}{resident}", size(self.plan))
    }
}

/// From /proc/self/status, in units of KiB.
fn peak_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

impl Timing {
    pub(crate) fn new(open: Duration, first: Option<Duration>, n_prompt: usize, generated: &Generated) -> Timing {
        let rate = |n: usize, time: Duration| (n > 0 && !time.is_zero()).then(|| n as f64 / time.as_secs_f64());
        Timing {
            open_s: open.as_secs_f64(),
            first_token_s: first.map(|time| time.as_secs_f64()),
            prefill_s: generated.prefill.as_secs_f64(),
            prefill_tokens_per_s: rate(n_prompt, generated.prefill),
            decode_s: generated.decode.as_secs_f64(),
            decode_tokens_per_s: rate(generated.decode_steps, generated.decode),
        }
    }

    /// A one-line summary.
    pub(crate) fn summary(&self, n_prompt: usize, generated: &Generated, engine: &Engine) -> String {
        let rate = |rate: Option<f64>| rate.map(|rate| format!(", {rate:.1} tokens/s")).unwrap_or_default();
        format!(
            "[open {:.2} s; prompt {n_prompt} tokens, {:.2} s{}; {} new, {:.2} s{}; seed {}; {}; {}]",
            self.open_s,
            self.prefill_s,
            rate(self.prefill_tokens_per_s),
            generated.tokens.len(),
            self.decode_s,
            rate(self.decode_tokens_per_s),
            generated.seed,
            Memory::of(engine).summary(),
            place(engine),
        )
    }
}

/// The target and the threads of an engine, formatted as `x86-64-v4, 2 threads`. `1.2 of 2 threads`: fewer were faster.
pub(crate) fn place(engine: &Engine) -> String {
    let (target, threads, mean) = (engine.target(), engine.threads(), engine.mean_threads());
    match (engine.device(), threads) {
        ("cpu", 1) => format!("{target}, 1 thread"),
        ("cpu", _) if mean < threads as f64 - 0.05 => format!("{target}, {mean:.1} of {threads} threads"),
        ("cpu", _) => format!("{target}, {threads} threads"),
        (device, _) => format!("{target}, {device}"),
    }
}
