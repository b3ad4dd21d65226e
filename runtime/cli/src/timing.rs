//! How long an answer took and what memory it had.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jamba_runtime::{Engine, Generated};
use serde::Serialize;

static BEGAN: OnceLock<Instant> = OnceLock::new();

/// Notes when the program began; the first thing that it does.
pub(crate) fn begin() {
    BEGAN.get_or_init(Instant::now);
}

/// Time since then.
pub(crate) fn since_beginning() -> Duration {
    BEGAN.get().map_or(Duration::ZERO, Instant::elapsed)
}

/// Times in seconds; rates in tokens per second, None where nothing ran.
#[derive(Serialize)]
pub(crate) struct Timing {
    open_s: f64,
    /// From the beginning of the program to the first token.
    first_token_s: Option<f64>,
    prefill_s: f64,
    prefill_tokens_per_s: Option<f64>,
    decode_s: f64,
    decode_tokens_per_s: Option<f64>,
}

/// Bytes.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Memory {
    /// What the open plan holds, all pools together.
    plan: u64,
    /// The most that the process had in memory; None where the system does not tell.
    peak_resident: Option<u64>,
}

impl Memory {
    pub(crate) fn of(engine: &Engine) -> Memory {
        Memory { plan: engine.memory().total(&engine.manifest().limits), peak_resident: peak_resident() }
    }

    /// `23.1 MB`
    pub(crate) fn summary(&self) -> String {
        let resident = self.peak_resident.map(|bytes| format!(", {} resident", size(bytes))).unwrap_or_default();
        format!("plan {}{resident}", size(self.plan))
    }
}

fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    if bytes < 1e9 { format!("{:.1} MB", bytes / 1e6) } else { format!("{:.2} GB", bytes / 1e9) }
}

/// From /proc/self/status, whose numbers are KiB.
fn peak_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

impl Timing {
    pub(crate) fn new(open: Duration, first: Option<Duration>, n_prompt: usize, generated: &Generated) -> Timing {
        let rate = |n: usize, time: Duration| (n > 0).then(|| n as f64 / time.as_secs_f64());
        Timing {
            open_s: open.as_secs_f64(),
            first_token_s: first.map(|time| time.as_secs_f64()),
            prefill_s: generated.prefill.as_secs_f64(),
            prefill_tokens_per_s: rate(n_prompt, generated.prefill),
            decode_s: generated.decode.as_secs_f64(),
            decode_tokens_per_s: rate(generated.decode_steps, generated.decode),
        }
    }

    /// One line for people.
    pub(crate) fn summary(&self, n_prompt: usize, n_new: usize, memory: Memory) -> String {
        let rate = |rate: Option<f64>| rate.map(|rate| format!(", {rate:.1} tokens/s")).unwrap_or_default();
        format!(
            "[open {:.2} s; prompt {n_prompt} tokens, {:.2} s{}; {n_new} new, {:.2} s{}; {}]",
            self.open_s,
            self.prefill_s,
            rate(self.prefill_tokens_per_s),
            self.decode_s,
            rate(self.decode_tokens_per_s),
            memory.summary(),
        )
    }
}
