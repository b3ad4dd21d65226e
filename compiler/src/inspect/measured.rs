//! Measured times for the page: `jamba bench --json` and `jamba run --trace` files of the same plan.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The measurements of one file.
#[derive(Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The file's name.
    pub file: String,
    /// `cpu`, or the GPU's name.
    pub device: String,
    /// Peak rates of the machine; None if the file has none.
    pub peaks: Option<Peaks>,
    /// Prefill and decode.
    pub entries: Vec<MeasuredEntry>,
}

/// Peak rates of the machine that ran the plan.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Peaks {
    pub threads: usize,
    pub bytes_per_s: f64,
    pub operations_per_s: f64,
}

/// The measurements of one kind of entry.
#[derive(Debug, PartialEq, Serialize)]
pub struct MeasuredEntry {
    /// `prefill` or `decode`.
    pub entry: String,
    /// Median tokens per second; None in a trace.
    pub tokens_per_s: Option<f64>,
    /// Totals of each kernel, longest time first.
    pub kernels: Vec<MeasuredKernel>,
}

/// Totals over all steps of one kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MeasuredKernel {
    pub symbol: String,
    pub steps: u64,
    pub seconds: f64,
    pub bytes: f64,
    pub operations: f64,
}

/// The parts of `jamba bench --json` that the page uses.
#[derive(Deserialize)]
struct Bench {
    peaks: Option<Peaks>,
    plans: Vec<BenchPlan>,
}

#[derive(Deserialize)]
struct BenchPlan {
    plan: String,
    digest: String,
    device: String,
    prefill_tokens_per_s: Rate,
    decode_tokens_per_s: Rate,
    kernels: Vec<BenchKernel>,
}

#[derive(Deserialize)]
struct Rate {
    median: f64,
}

#[derive(Deserialize)]
struct BenchKernel {
    entry: String,
    kind: String,
    steps: u64,
    seconds: f64,
    bytes: f64,
    operations: f64,
}

/// The parts of a trace that the page uses.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TraceFile {
    trace_events: Vec<TraceEvent>,
    other_data: TraceData,
}

#[derive(Deserialize)]
struct TraceData {
    plan: String,
    device: String,
}

#[derive(Deserialize)]
struct TraceEvent {
    name: String,
    #[serde(default)]
    cat: String,
    #[serde(default)]
    tid: u64,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    args: Value,
}

/// Reads a file with measurements of the plan with this digest.
pub fn read(path: &Path, digest: &str) -> Result<Measured> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let value: Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .with_context(|| format!("{}: expected JSON", path.display()))?;
    let file = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let measured = if value.get("plans").is_some() {
        of_bench(file, serde_json::from_value(value).with_context(|| expected(path))?, digest)
    } else if value.get("traceEvents").is_some() {
        of_trace(file, serde_json::from_value(value).with_context(|| expected(path))?, digest)
    } else {
        bail!("{}", expected(path))
    };
    measured.with_context(|| path.display().to_string())
}

fn expected(path: &Path) -> String {
    format!(
        "{}: expected the output of `jamba bench PLAN --json`, or a file of `jamba run PLAN --trace FILE`",
        path.display()
    )
}

fn of_bench(file: String, bench: Bench, digest: &str) -> Result<Measured> {
    let found: Vec<String> =
        bench.plans.iter().map(|plan| format!("{} ({})", plan.plan, short(&plan.digest))).collect();
    let Some(plan) = bench.plans.into_iter().find(|plan| plan.digest == digest) else {
        bail!("found measurements of {}, expected this plan ({})", found.join(", "), short(digest));
    };
    let rates = [("prefill", plan.prefill_tokens_per_s), ("decode", plan.decode_tokens_per_s)];
    let entries = rates.map(|(entry, rate)| {
        let kernels = plan.kernels.iter().filter(|kernel| kernel.entry == entry).map(|kernel| MeasuredKernel {
            symbol: kernel.kind.clone(),
            steps: kernel.steps,
            seconds: kernel.seconds,
            bytes: kernel.bytes,
            operations: kernel.operations,
        });
        MeasuredEntry { entry: entry.to_owned(), tokens_per_s: Some(rate.median), kernels: kernels.collect() }
    });
    Ok(Measured { file, device: plan.device, peaks: bench.peaks, entries: entries.into() })
}

/// Adds up the first thread's steps. A wait belongs to the step before it.
fn of_trace(file: String, trace: TraceFile, digest: &str) -> Result<Measured> {
    let TraceData { plan, device } = trace.other_data;
    if plan != digest {
        bail!("found a trace of another plan ({}), expected this one ({})", short(&plan), short(digest));
    }
    let mut totals: BTreeMap<&str, BTreeMap<&str, MeasuredKernel>> = BTreeMap::new();
    let mut last: Option<(&str, &str)> = None;
    let is_step = |event: &&TraceEvent| ["prefill", "decode"].contains(&event.cat.as_str());
    let first_thread = trace.trace_events.iter().filter(is_step).map(|event| event.tid).min();
    for event in trace.trace_events.iter().filter(|event| Some(event.tid) == first_thread) {
        let number = |name: &str| event.args.get(name).and_then(Value::as_f64).unwrap_or_default();
        let (entry, symbol, steps) = match (event.cat.as_str(), last) {
            ("wait", Some((entry, symbol))) => (entry, symbol, 0),
            (entry @ ("prefill" | "decode"), _) => (entry, event.name.as_str(), 1),
            _ => continue,
        };
        last = Some((entry, symbol));
        let total = totals.entry(entry).or_default().entry(symbol).or_default();
        total.steps += steps;
        total.seconds += event.dur; // microseconds, until all are added
        total.bytes += number("bytes");
        total.operations += number("operations");
    }
    let entries = totals.into_iter().rev().map(|(entry, kernels)| {
        let named = kernels.into_iter().map(|(symbol, total)| MeasuredKernel {
            symbol: symbol.to_owned(),
            seconds: total.seconds / 1e6,
            ..total
        });
        let mut kernels: Vec<MeasuredKernel> = named.collect();
        kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        MeasuredEntry { entry: entry.to_owned(), tokens_per_s: None, kernels }
    });
    Ok(Measured { file, device, peaks: None, entries: entries.collect() })
}

fn short(digest: &str) -> &str {
    digest.get(..16).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_text(text: &str, digest: &str) -> Result<Measured> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        std::fs::write(&path, text).unwrap();
        read(&path, digest)
    }

    #[test]
    fn a_trace_adds_up_the_first_thread() {
        let event = |name: &str, cat: &str, tid: u64, dur: f64| json!({ "name": name, "cat": cat, "ph": "X", "tid": tid, "dur": dur, "args": { "bytes": 8.0, "operations": 2.0 } });
        let wait = json!({ "name": "wait", "cat": "wait", "tid": 1, "dur": 5.0, "args": { "after": "mix" } });
        let trace = json!({
            "otherData": { "plan": "ab", "device": "cpu" },
            "traceEvents": [
                { "name": "process_name", "ph": "M", "args": {} }, event("prefill of 2", "run", 0, 100.0), wait,
                event("mix", "prefill", 1, 10.0), wait, event("mix", "prefill", 2, 70.0), event("head", "prefill", 1, 40.0),
                event("mix", "decode", 1, 1.0),
            ],
        });
        let measured = read_text(&trace.to_string(), "ab").unwrap();
        let [prefill, decode] = &measured.entries[..] else { panic!("{measured:?}") };
        let kernel = |symbol: &str, micros: f64| MeasuredKernel {
            symbol: symbol.to_owned(),
            steps: 1,
            seconds: micros / 1e6,
            bytes: 8.0,
            operations: 2.0,
        };
        assert_eq!(
            (prefill.entry.as_str(), &prefill.kernels[..]),
            ("prefill", &[kernel("head", 40.0), kernel("mix", 15.0)][..])
        );
        assert_eq!((decode.entry.as_str(), &decode.kernels[..]), ("decode", &[kernel("mix", 1.0)][..]));
        let refused = format!("{:#}", read_text(&trace.to_string(), "cd").unwrap_err());
        assert!(refused.contains("a.json") && refused.contains("another plan (ab)"), "{refused}");
    }

    #[test]
    fn other_files_are_named() {
        for text in ["{}", "[1]", "{\"plans\": 3}", "{\"traceEvents\": []}"] {
            let refused = format!("{:#}", read_text(text, "ab").unwrap_err());
            assert!(refused.contains("a.json") && refused.contains("jamba bench PLAN --json"), "{text}: {refused}");
        }
        let refused = format!("{:#}", read_text("x", "ab").unwrap_err());
        assert!(refused.contains("expected JSON"), "{refused}");
        let bench = json!({ "peaks": null, "plans": [] }).to_string();
        assert!(format!("{:#}", read_text(&bench, "ab").unwrap_err()).contains("expected this plan (ab)"));
    }
}
