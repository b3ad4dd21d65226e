//! The file of `jamba run --trace`, for Perfetto or chrome://tracing: a row of runs, and a row per thread with its shares of
//! steps and its waits for other threads. Times are in microseconds; the cost model's bytes and operations are arguments.

use std::time::Duration;

use jamba_runtime::{Engine, Trace, TraceRun, TraceSpan, TraceWork};
use serde_json::{Value, json};

/// Ids start at 1: Perfetto takes thread 0 for the system's idle thread.
const PROCESS: usize = 1;

/// The row of runs, above the threads.
const RUNS: usize = 1;

/// The document of the engine's trace.
pub(crate) fn document(engine: &Engine) -> Value {
    let Some(trace) = engine.trace() else { return json!({ "traceEvents": [] }) };
    let name = |row: usize, name: &str| json!({ "name": "thread_name", "ph": "M", "pid": PROCESS, "tid": row, "args": { "name": name } });
    let process = json!({ "name": "process_name", "ph": "M", "pid": PROCESS, "args": { "name": engine.path().display().to_string() } });
    let mut events = vec![process, name(RUNS, "steps of the engine")];
    events.extend(trace.runs().iter().map(of_run));
    for (thread, spans) in trace.threads().iter().enumerate() {
        events.push(name(row(thread), &format!("thread {thread}")));
        let mut last = None;
        for span in spans {
            events.extend(of_span(engine, trace, (thread, span), &mut last));
        }
    }
    json!({
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": { "plan": engine.plan_digest().to_hex().as_str(), "target": engine.target(), "device": engine.device() },
    })
}

/// The row of a thread.
fn row(thread: usize) -> usize {
    RUNS + 1 + thread
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn of_run(run: &TraceRun) -> Value {
    let (n_tokens, n_sequences) = (run.size.tokens, run.size.sequences);
    json!({
        "name": format!("{} of {n_tokens}", run.entry.name()), "cat": "run", "ph": "X", "pid": PROCESS, "tid": RUNS,
        "ts": micros(run.start), "dur": micros(run.end.saturating_sub(run.start)),
        "args": { "tokens": n_tokens, "sequences": n_sequences, "outputs": run.size.outputs, "context": run.size.context },
    })
}

/// The event of a span; `last` is the kernel that the thread ran before it in the same run.
fn of_span<'e>(
    engine: &'e Engine,
    trace: &Trace,
    (thread, span): (usize, &TraceSpan),
    last: &mut Option<(usize, &'e str)>,
) -> Option<Value> {
    let run = trace.runs().get(span.run)?;
    let program = engine.program();
    let (name, category, args) = match span.work {
        TraceWork::Wait => {
            let after = last.filter(|(before, _)| *before == span.run).map(|(_, symbol)| symbol);
            ("wait", "wait", json!({ "after": after }))
        }
        TraceWork::Step(index) => {
            let entry = program.entries.get(run.index)?;
            let step = entry.steps.get(index)?;
            let symbol = program.kernels.get(step.kernel as usize)?.symbol.as_str();
            *last = Some((span.run, symbol));
            let (bytes, operations) = (step.cost.bytes.at(run.size), step.cost.operations.at(run.size));
            let args = json!({
                "step": index, "source": step.source, "op": program.kernels[step.kernel as usize].op,
                "bytes": bytes, "operations": operations,
            });
            (symbol, run.entry.name(), args)
        }
    };
    Some(json!({
        "name": name, "cat": category, "ph": "X", "pid": PROCESS, "tid": row(thread),
        "ts": micros(span.begin), "dur": micros(span.duration), "args": args,
    }))
}
