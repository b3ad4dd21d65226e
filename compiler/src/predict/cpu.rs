//! The predicted rates of a plan on a CPU, from the peaks that `jamba bench` measured in the same run.
//!
//! ```text
//! T(step) = barrier + max(bytes / (peak read · share), operations / (peak multiply-adds · share))
//! ```
//!
//! The shares are what the kernels of `kernels/src/cpu` reach of the peaks on the machines of `benches/results`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jamba_plan::cost::Size;
use jamba_plan::format::{EntryKind, KernelRecord, Program};
use serde::Serialize;

use super::measured::OnCpu;

/// Share of the peak read bandwidth.
const READ: f64 = 0.85;

/// Share of the peak of f32 multiply-adds, of products whose weights are floats.
const FLOATS: f64 = 0.65;

/// The same of products of integers, whose instructions multiply more numbers at once.
const INTEGERS: f64 = 0.95;

/// The same of everything else: special functions, few operations per byte.
const OTHERS: f64 = 0.3;

/// Seconds that threads take to meet.
const BARRIER: f64 = 0.7e-6;

/// Predicted and measured times of a bench run.
#[derive(Debug, Serialize)]
pub struct Prediction {
    target: String,
    threads: usize,
    prefill: Rates,
    decode: Rates,
    kinds: Vec<Kind>,
}

/// Tokens per second.
#[derive(Clone, Copy, Debug, Serialize)]
struct Rates {
    predicted: f64,
    measured: f64,
}

/// All steps of a kernel in an entry, in seconds.
#[derive(Debug, Serialize)]
struct Kind {
    entry: &'static str,
    symbol: String,
    predicted: f64,
    measured: f64,
}

/// Predicts a run of `jamba bench`.
pub fn predict(program: &Program, run: &OnCpu) -> Prediction {
    let mut kinds = Vec::new();
    let mut rates = BTreeMap::new();
    for kind in [EntryKind::Prefill, EntryKind::Decode] {
        let Some(entry) = program.entries.iter().find(|entry| entry.kind == kind) else { continue };
        let mut seconds: BTreeMap<&str, f64> = BTreeMap::new();
        for size in sizes(kind, entry.max_tokens, run) {
            for step in &entry.steps {
                let kernel = &program.kernels[step.kernel as usize];
                let rate = run.peaks.operations_per_s * share(kernel);
                let memory = step.cost.bytes.at(size) / (run.peaks.bytes_per_s * READ);
                let barrier = if step.barrier { BARRIER } else { 0.0 };
                *seconds.entry(&kernel.symbol).or_default() +=
                    barrier + memory.max(step.cost.operations.at(size) / rate);
            }
        }
        rates.insert(kind.name(), seconds.values().sum::<f64>());
        let measured = run.measured.kernels.iter().filter(|row| row.entry == kind.name());
        let measured: BTreeMap<&str, f64> = measured.map(|row| (row.symbol.as_str(), row.seconds)).collect();
        kinds.extend(seconds.into_iter().map(|(symbol, predicted)| Kind {
            entry: kind.name(),
            symbol: symbol.to_owned(),
            predicted,
            measured: measured.get(symbol).copied().unwrap_or(0.0),
        }));
    }
    kinds.sort_by(|a, b| b.measured.total_cmp(&a.measured));
    let rate = |kind: EntryKind, tokens: u64| {
        (tokens * run.sequences) as f64 / rates.get(kind.name()).copied().unwrap_or(f64::NAN)
    };
    Prediction {
        target: run.target.clone(),
        threads: run.peaks.threads,
        prefill: Rates {
            predicted: rate(EntryKind::Prefill, run.prompt),
            measured: run.measured.prefill_tokens_per_s.median(),
        },
        decode: Rates {
            predicted: rate(EntryKind::Decode, run.generate),
            measured: run.measured.decode_tokens_per_s.median(),
        },
        kinds,
    }
}

/// The steps of a run: chunks of the prompts, or one token for each sequence at a time.
fn sizes(kind: EntryKind, chunk: u64, run: &OnCpu) -> Vec<Size> {
    let sequences = run.sequences as f64;
    match kind {
        EntryKind::Prefill => {
            let starts = (0..run.prompt * run.sequences).step_by(chunk.max(1) as usize);
            let size = |at: u64| {
                let tokens = chunk.min(run.prompt * run.sequences - at) as f64;
                let context = (at % run.prompt) as f64 + (tokens.min(run.prompt as f64) + 1.0) / 2.0;
                Size { tokens, sequences: (tokens / run.prompt as f64).max(1.0), outputs: 1.0, context }
            };
            starts.map(size).collect()
        }
        EntryKind::Decode => {
            let context = |step: u64| (run.prompt + step + 1) as f64;
            let size = |step| Size { tokens: sequences, sequences, outputs: sequences, context: context(step) };
            (0..run.generate).map(size).collect()
        }
    }
}

/// Share of the peak of f32 multiply-adds that a kernel reaches where it is bound by them.
fn share(kernel: &KernelRecord) -> f64 {
    let is_product = kernel.op.contains("linear") || kernel.op.contains("swiglu");
    match () {
        () if is_product
            && ["_i8_", "_i4_", "_i3_", "_int8_", "_int4_", "_int3_"]
                .iter()
                .any(|name| kernel.symbol.contains(name)) =>
        {
            INTEGERS
        }
        () if is_product || kernel.op == "attention" => FLOATS,
        () => OTHERS,
    }
}

impl Prediction {
    /// The prediction as text.
    pub fn table(&self) -> String {
        let off = |rates: Rates| 100.0 * (rates.predicted / rates.measured - 1.0);
        let mut text = format!("{}, {} threads\n", self.target, self.threads);
        for (name, rates) in [("prefill", self.prefill), ("decode", self.decode)] {
            let Rates { predicted, measured } = rates;
            let _ = writeln!(
                text,
                "{name:<8} predicted {predicted:>8.1} tokens/s, measured {measured:>8.1}: {:+.0} %",
                off(rates)
            );
        }
        let _ = writeln!(text, "\n{:<8} {:>10} {:>10} {:>7}  kernel, ms", "entry", "measured", "predicted", "off");
        for Kind { entry, symbol, predicted, measured } in &self.kinds {
            let off = 100.0 * (predicted / measured - 1.0);
            let _ =
                writeln!(text, "{entry:<8} {:>10.2} {:>10.2} {off:>+5.0} %  {symbol}", measured * 1e3, predicted * 1e3);
        }
        text
    }
}
