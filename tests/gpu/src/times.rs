//! How fast a plan runs: whole steps, then one more run of them kernel by kernel.

use std::time::Instant;

use anyhow::{Result, ensure};
use jamba_runtime::gpu::Driver;
use jamba_runtime::{Engine, Feed, KindTotal, Outputs, Sampler, SamplerOptions, SequenceId};
use serde::Serialize;

/// What a device is.
#[derive(Clone, Debug, Serialize)]
pub struct Copies {
    /// Its name.
    pub device: String,
    /// Multiprocessors.
    pub n_sms: u32,
    /// Bytes that a large copy within its memory reads and writes a second: what memory-bound kernels are measured by.
    pub bytes_per_s: f64,
}

/// Times of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Times {
    /// The plan.
    pub plan: String,
    /// Sequences at once.
    pub sequences: usize,
    /// Tokens of each before the measured ones.
    pub context: usize,
    /// Tokens of prompts a second.
    pub prefill_tokens_per_s: f64,
    /// Tokens of all sequences a second, the median step.
    pub decode_tokens_per_s: f64,
    /// The least of the kernels' times in the run kernel by kernel, in seconds: about what launching one and waiting for it takes.
    pub overhead_s: f64,
    /// Device memory that went while all of this ran, where somebody looked: graphs, and what else the driver keeps beside what
    /// the plan states, in bytes.
    pub driver_bytes: Option<u64>,
    /// Of each kernel in each entry, the longest first.
    pub kernels: Vec<KernelTime>,
}

/// One kernel's launches in one step, or in all of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelTime {
    /// Prefill or decode.
    pub entry: &'static str,
    /// The kernel.
    pub symbol: String,
    /// Launches.
    pub launches: usize,
    /// Seconds of all, launching and waiting included.
    pub seconds: f64,
    /// Bytes that they cannot do without.
    pub bytes: f64,
    /// Operations that they cannot do without.
    pub operations: f64,
}

/// Bytes of a large copy.
const COPY_BYTES: u64 = 1 << 30;

/// Copies that are timed.
const COPIES: u32 = 10;

/// Measures how fast memory is copied.
///
/// # Errors
/// Those of the device.
pub fn copies(mut driver: Box<dyn Driver>) -> Result<Copies> {
    let (from, to) = (driver.allocate("a copy", COPY_BYTES)?, driver.allocate("a copy", COPY_BYTES)?);
    driver.fill(from, COPY_BYTES, 1)?;
    driver.copy(from, to, COPY_BYTES)?;
    driver.synchronize()?;
    let began = Instant::now();
    for _ in 0..COPIES {
        driver.copy(from, to, COPY_BYTES)?;
    }
    driver.synchronize()?;
    let seconds = began.elapsed().as_secs_f64();
    let info = driver.info();
    let bytes_per_s = 2.0 * COPY_BYTES as f64 * f64::from(COPIES) / seconds;
    Ok(Copies { device: info.name.clone(), n_sms: info.n_sms, bytes_per_s })
}

/// Feeds sequences a prompt each, then one token each in so many steps; then the last chunk of a prompt and one step kernel by
/// kernel.
///
/// # Errors
/// Those of the engine; fewer steps than one.
pub fn time(engine: &mut Engine, sequences: usize, context: usize, steps: usize) -> Result<Times> {
    ensure!(sequences > 0 && context > 0 && steps > 0, "sequences, context and steps are at least 1");
    let vocab = engine.manifest().model.vocab as u32;
    let token = |nth: usize| (nth as u32).wrapping_mul(2_654_435_761) % vocab;
    let ids: Vec<SequenceId> = (0..sequences).map(|_| engine.add_sequence()).collect::<Result<_, _>>()?;
    let began = Instant::now();
    for (nth, &id) in ids.iter().enumerate() {
        let prompt: Vec<u32> = (0..context).map(|at| token(nth + 31 * at)).collect();
        engine.prefill(id, &prompt, None, None)?;
    }
    let prefill_tokens_per_s = (sequences * context) as f64 / began.elapsed().as_secs_f64();

    let next: Vec<u32> = (0..sequences).map(token).collect();
    let sampler = |_| Sampler::new(SamplerOptions::GREEDY, vocab as usize);
    let mut samplers = ids.iter().map(sampler).collect::<Result<Vec<_>, _>>()?;
    let mut step = |engine: &mut Engine| -> Result<f64> {
        let feed = |(&sequence, token)| Feed { sequence, tokens: std::slice::from_ref(token), outputs: Outputs::Last };
        let feeds: Vec<Feed<'_>> = ids.iter().zip(&next).map(feed).collect();
        let began = Instant::now();
        engine.step_and_pick(&feeds, &mut samplers)?;
        Ok(began.elapsed().as_secs_f64())
    };
    step(engine)?; // the one that records the graph
    let mut seconds = (0..steps).map(|_| step(engine)).collect::<Result<Vec<f64>>>()?;
    seconds.sort_by(f64::total_cmp);
    let decode_tokens_per_s = sequences as f64 / seconds[steps / 2];

    engine.set_trace(true);
    step(engine)?;
    let again = engine.max_step_tokens().min(context);
    engine.remove_sequence(ids[0])?;
    let other = engine.add_sequence()?;
    engine.prefill(other, &(0..again).map(token).collect::<Vec<u32>>(), None, None)?;
    let kernels = kernels(engine);
    engine.set_trace(false);
    for id in ids[1..].iter().copied().chain([other]) {
        engine.remove_sequence(id)?;
    }
    let overhead_s = kernels.iter().map(|kernel| kernel.seconds / kernel.launches as f64).fold(f64::INFINITY, f64::min);
    let plan = engine.path().display().to_string();
    let driver_bytes = None;
    Ok(Times { plan, sequences, context, prefill_tokens_per_s, decode_tokens_per_s, overhead_s, driver_bytes, kernels })
}

/// What each kernel took in the runs that were traced.
fn kernels(engine: &Engine) -> Vec<KernelTime> {
    let totals = engine.trace().map(|trace| trace.by_symbol(engine.program())).unwrap_or_default();
    let kernel = |total: KindTotal| KernelTime {
        entry: total.entry.name(),
        symbol: total.op,
        launches: total.steps,
        seconds: total.time.as_secs_f64(),
        bytes: total.bytes,
        operations: total.operations,
    };
    totals.into_iter().map(kernel).collect()
}
