//! Times a plan: whole steps, then the same steps kernel by kernel.

use std::time::Instant;

use anyhow::{Result, ensure};
use jamba_runtime::gpu::Driver;
use jamba_runtime::{Engine, Feed, KindTotal, Outputs, Sampler, SamplerOptions, SequenceId};
use serde::Serialize;

/// Properties of a device.
#[derive(Clone, Debug, Serialize)]
pub struct Copies {
    /// Name of the GPU.
    pub device: String,
    /// Number of multiprocessors.
    pub n_sms: u32,
    /// Bytes read and written per second by a large device-to-device copy: the peak for memory-bound kernels.
    pub bytes_per_s: f64,
}

/// Times of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Times {
    /// Path of the plan.
    pub plan: String,
    /// Sequences at once.
    pub sequences: usize,
    /// Context length before the measured steps.
    pub context: usize,
    /// Prefill speed.
    pub prefill_tokens_per_s: f64,
    /// Decode speed of all sequences together, median step.
    pub decode_tokens_per_s: f64,
    /// Shortest time of a kernel in the kernel-by-kernel run, in seconds: about the cost of a launch and a synchronization.
    pub overhead_s: f64,
    /// Device memory taken beyond what the plan states, in bytes (graphs and other driver allocations), if it was measured.
    pub driver_bytes: Option<u64>,
    /// One entry per kernel and plan entry, longest first.
    pub kernels: Vec<KernelTime>,
}

/// All launches of a kernel in one decode step, or in one prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelTime {
    /// Prefill or decode.
    pub entry: &'static str,
    /// Symbol of the kernel.
    pub symbol: String,
    /// Number of launches.
    pub launches: usize,
    /// Total time, including launch and synchronization.
    pub seconds: f64,
    /// Least number of bytes moved.
    pub bytes: f64,
    /// Least number of operations.
    pub operations: f64,
}

/// Size of a large copy.
pub const COPY_BYTES: u64 = 1 << 30;

/// Number of timed copies.
const COPIES: u32 = 10;

/// Measures device-to-device copy bandwidth with copies of this many bytes.
///
/// # Errors
/// A device error.
pub fn copies(mut driver: Box<dyn Driver>, bytes: u64) -> Result<Copies> {
    let (from, to) = (driver.allocate("a copy", bytes)?, driver.allocate("a copy", bytes)?);
    driver.fill(from, bytes, 1)?;
    driver.copy(from, to, bytes)?;
    driver.synchronize()?;
    let began = Instant::now();
    for _ in 0..COPIES {
        driver.copy(from, to, bytes)?;
    }
    driver.synchronize()?;
    let seconds = began.elapsed().as_secs_f64();
    let info = driver.info();
    let bytes_per_s = 2.0 * bytes as f64 * f64::from(COPIES) / seconds;
    Ok(Copies { device: info.name.clone(), n_sms: info.n_sms, bytes_per_s })
}

/// Times the prefill of a prompt per sequence and `steps` decode steps, then one prefill chunk and one decode step kernel by
/// kernel.
///
/// # Errors
/// An engine error, or `steps` = 0.
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

/// Sums the traced times by kernel.
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
