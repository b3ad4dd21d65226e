//! Measured times of kernels, and the constants that fit them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::card::Card;
use super::step::{Bound, Predicted};

/// A row of `gpu-bench time`, or a plan of `jamba bench --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Measured {
    /// Of all sequences together.
    pub decode_tokens_per_s: Rate,
    /// Of one prompt.
    pub prefill_tokens_per_s: Rate,
    /// Time of the shortest launch when each is waited for; 0 on CPUs.
    #[serde(default)]
    pub overhead_s: f64,
    pub kernels: Vec<KernelTime>,
}

/// A rate, or the spread of one.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub enum Rate {
    One(f64),
    Spread { median: f64 },
}

impl Rate {
    pub fn median(self) -> f64 {
        match self {
            Rate::One(rate) | Rate::Spread { median: rate } => rate,
        }
    }
}

/// All launches of a kernel in the measured steps of an entry.
#[derive(Clone, Debug, Deserialize)]
pub struct KernelTime {
    /// `prefill` or `decode`.
    pub entry: String,
    #[serde(alias = "kind")]
    pub symbol: String,
    #[serde(alias = "steps")]
    pub launches: usize,
    pub seconds: f64,
}

/// The output of `jamba bench --json`.
#[derive(Deserialize)]
struct Bench {
    prompt: u64,
    generate: u64,
    batch: u64,
    peaks: Option<Peaks>,
    plans: Vec<BenchPlan>,
}

/// Measured peaks of a CPU.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Peaks {
    pub threads: usize,
    pub bytes_per_s: f64,
    pub operations_per_s: f64,
}

#[derive(Deserialize)]
struct BenchPlan {
    digest: String,
    target: String,
    #[serde(flatten)]
    measured: Measured,
}

/// A run of `jamba bench` of one plan on a CPU.
#[derive(Clone, Debug)]
pub struct OnCpu {
    pub prompt: u64,
    pub generate: u64,
    pub sequences: u64,
    /// The level of the code that ran.
    pub target: String,
    pub peaks: Peaks,
    pub measured: Measured,
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

impl Measured {
    /// Reads a row of `gpu-bench time`.
    ///
    /// # Errors
    /// The file cannot be read, or is no such row.
    pub fn read(path: &Path) -> Result<Measured> {
        let expected = || format!("{}: expected a row of gpu-bench time", path.display());
        serde_json::from_str(&read(path)?).with_context(expected)
    }

    /// Time of one launch of each kernel of an entry, without the launch itself.
    pub fn launches(&self, entry: &str) -> BTreeMap<&str, f64> {
        let of_entry = self.kernels.iter().filter(|kernel| kernel.entry == entry && kernel.launches > 0);
        let each = |kernel: &KernelTime| kernel.seconds / kernel.launches as f64 - self.overhead_s;
        of_entry.map(|kernel| (kernel.symbol.as_str(), each(kernel).max(0.0))).collect()
    }
}

impl OnCpu {
    /// Reads the plan with this digest from the output of `jamba bench PLAN --json`.
    ///
    /// # Errors
    /// The file cannot be read, is no such output, or has no run of the plan on a CPU.
    pub fn read(path: &Path, digest: &str) -> Result<OnCpu> {
        let expected = || format!("{}: expected the output of jamba bench PLAN --json", path.display());
        let Bench { prompt, generate, batch, peaks, plans } =
            serde_json::from_str(&read(path)?).with_context(expected)?;
        let n_plans = plans.len();
        let plan = plans.into_iter().find(|plan| plan.digest == digest);
        let found =
            || format!("{}: found {n_plans} plans, none of them {digest}; expected a run of this plan", path.display());
        let BenchPlan { target, measured, .. } = plan.with_context(found)?;
        let peaks = peaks.with_context(|| format!("{}: found no peaks, expected a run on a CPU", path.display()))?;
        ensure!(generate > 0 && prompt > 0, "{}: found no tokens", path.display());
        Ok(OnCpu { prompt, generate, sequences: batch, target, peaks, measured })
    }
}

/// The constants that a run shows, each the median over the launches that it bounds: memory, blocks, and the time of a launch. The
/// others stay as they were.
pub fn fit(card: &Card, predicted: &[Predicted], measured: &Measured, entry: &str) -> Card {
    let times = measured.launches(entry);
    // Launches are timed one by one: what each adds is what it takes beyond the shortest.
    let least = predicted.iter().map(|x| x.seconds - stream(x, card)).fold(f64::INFINITY, f64::min);
    let pairs: Vec<(&Predicted, f64)> =
        predicted.iter().filter_map(|x| Some((x, times.get(x.symbol.as_str())? + least))).collect();
    let of = |bound: Bound| pairs.iter().filter(move |(x, _)| x.bound == bound);
    let mut fitted = *card;
    let overheads = of(Bound::Launch).map(|(x, time)| (time - card.read * f64::from(x.dependent_reads - 1)).max(0.0));
    if let Some(overhead) = median(overheads) {
        fitted.gap = (overhead - card.count - card.read - card.tail).max(0.0);
    }
    let launched = fitted;
    let streams = |(x, time): &(&Predicted, f64)| (time - launched.overhead(x.dependent_reads)).max(1e-9);
    if let Some(bandwidth) = median(of(Bound::Memory).map(|pair| pair.0.bytes / streams(pair))) {
        fitted.bandwidth = bandwidth;
    }
    if let Some(bandwidth) = median(of(Bound::Blocks).map(|pair| pair.0.bytes / pair.0.blocks / streams(pair))) {
        fitted.block_bandwidth = bandwidth;
    }
    fitted
}

/// The part of a prediction that is bytes or arithmetic.
fn stream(x: &Predicted, card: &Card) -> f64 {
    x.seconds - card.overhead(x.dependent_reads)
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
