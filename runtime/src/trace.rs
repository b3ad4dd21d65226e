//! Optional timing of every step on every thread, and totals per kernel.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jamba_plan::cost::Size;
use jamba_plan::format::{Arg, Count, EntryKind, KernelRecord, Program, Step};

use crate::execute::Lane;

/// One run of an entry.
#[derive(Clone, Copy, Debug)]
pub struct TraceRun {
    /// Index of the entry.
    pub index: usize,
    /// Kind of the entry.
    pub entry: EntryKind,
    /// Size of the step, for cost models.
    pub size: Size,
    /// Index of the run's first step in [`Trace::steps`].
    pub begin: usize,
    /// Start of the run, relative to the start of the trace.
    pub start: Duration,
    /// End of the run, relative to the start of the trace.
    pub end: Duration,
}

/// One executed step.
#[derive(Clone, Copy, Debug)]
pub struct TraceStep {
    /// Index of the entry.
    pub entry: usize,
    /// Index of the step in its entry.
    pub step: usize,
    /// Start of the step, relative to the start of the trace.
    pub begin: Duration,
    /// Duration of the first thread's share.
    pub share: Duration,
}

/// What one thread did in a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceWork {
    /// Its share of the step with this index in the entry.
    Step(usize),
    /// It waited for the other threads.
    Wait,
}

/// A span of time on one thread.
#[derive(Clone, Copy, Debug)]
pub struct TraceSpan {
    /// Index of the run in [`Trace::runs`].
    pub run: usize,
    /// The work.
    pub work: TraceWork,
    /// Start, relative to the start of the trace.
    pub begin: Duration,
    /// Duration.
    pub duration: Duration,
}

/// Times of all steps since [`Engine::set_trace`](crate::Engine::set_trace).
#[derive(Debug)]
pub struct Trace {
    began: Instant,
    runs: Vec<TraceRun>,
    steps: Vec<TraceStep>,
    threads: Vec<Vec<TraceSpan>>,
}

/// Totals over all steps of one op, or of one kernel, in one entry.
#[derive(Clone, Debug, PartialEq)]
pub struct KindTotal {
    /// Kind of the entry.
    pub entry: EntryKind,
    /// The op, for example `linear`, or the symbol of the kernel.
    pub op: String,
    /// Number of executed steps.
    pub steps: usize,
    /// Sum of the times from the start of each step to the start of the next, including waits for other threads.
    pub time: Duration,
    /// Minimum memory traffic of the steps by the cost model, in bytes.
    pub bytes: f64,
    /// Arithmetic operations of the steps by the cost model; a multiply-add counts as two.
    pub operations: f64,
}

impl Trace {
    pub(crate) fn new() -> Trace {
        Trace { began: Instant::now(), runs: Vec::new(), steps: Vec::new(), threads: Vec::new() }
    }

    /// All runs, in order.
    pub fn runs(&self) -> &[TraceRun] {
        &self.runs
    }

    /// All steps, in order of their start.
    pub fn steps(&self) -> &[TraceStep] {
        &self.steps
    }

    /// The spans of every thread, in order; one thread for a GPU.
    pub fn threads(&self) -> &[Vec<TraceSpan>] {
        &self.threads
    }

    pub(crate) fn begin_run(&mut self, index: usize, entry: EntryKind, size: Size) {
        let start = self.began.elapsed();
        self.runs.push(TraceRun { index, entry, size, begin: self.steps.len(), start, end: Duration::ZERO });
    }

    /// The clock of the current run's recorders.
    pub(crate) fn clock(&self) -> Clock {
        Clock { began: self.began, run: self.runs.len().saturating_sub(1) }
    }

    /// Adds the spans of the current run, one list per thread. The first thread's shares are the steps.
    pub(crate) fn record(&mut self, threads: impl IntoIterator<Item = Vec<TraceSpan>>) {
        let entry = self.runs.last().map_or(0, |run| run.index);
        for (thread, spans) in threads.into_iter().enumerate() {
            if thread == 0 {
                let steps = spans.iter().filter_map(|&TraceSpan { work, begin, duration, .. }| match work {
                    TraceWork::Step(step) => Some(TraceStep { entry, step, begin, share: duration }),
                    TraceWork::Wait => None,
                });
                self.steps.extend(steps);
            }
            if self.threads.len() == thread {
                self.threads.push(Vec::new());
            }
            self.threads[thread].extend(spans);
        }
    }

    /// Adds the parts of steps that each thread executed in the current run. Between them, the thread waited. A step begins with
    /// its first part on any thread.
    pub(crate) fn record_parts(&mut self, threads: Vec<Vec<TraceSpan>>) {
        let entry = self.runs.last().map_or(0, |run| run.index);
        let mut steps: BTreeMap<usize, TraceStep> = BTreeMap::new();
        for (thread, span) in
            threads.iter().enumerate().flat_map(|(thread, spans)| spans.iter().map(move |span| (thread, span)))
        {
            let TraceWork::Step(step) = span.work else { continue };
            let found =
                steps.entry(step).or_insert(TraceStep { entry, step, begin: span.begin, share: Duration::ZERO });
            found.begin = found.begin.min(span.begin);
            if thread == 0 {
                found.share += span.duration;
            }
        }
        self.steps.extend(steps.into_values());
        let spans = || threads.iter().flatten();
        let begin = spans().map(|span| span.begin).min().unwrap_or_default();
        let end = spans().map(|span| span.begin + span.duration).max().unwrap_or_default();
        self.threads.resize_with(self.threads.len().max(threads.len()), Vec::new);
        for (all, spans) in self.threads.iter_mut().zip(threads) {
            let run = self.runs.len().saturating_sub(1);
            let wait = |from: Duration, to: Duration| {
                let duration = to.saturating_sub(from);
                (!duration.is_zero()).then_some(TraceSpan { run, work: TraceWork::Wait, begin: from, duration })
            };
            let (mut now, first) = (begin, all.len());
            for span in spans {
                let end = span.begin + span.duration;
                match all[first..].last_mut() {
                    // Parts of a step that follow each other are one span.
                    Some(last) if last.work == span.work => last.duration = end - last.begin,
                    _ => {
                        all.extend(wait(now, span.begin));
                        all.push(span);
                    }
                }
                now = end;
            }
            all.extend(wait(now, end));
        }
    }

    pub(crate) fn end_run(&mut self) {
        let now = self.began.elapsed();
        if let Some(run) = self.runs.last_mut() {
            run.end = now;
        }
    }

    /// Totals per op: prefill before decode, longest time first.
    pub fn by_kind(&self, program: &Program) -> Vec<KindTotal> {
        self.totals(program, |kernel| &kernel.op)
    }

    /// Totals per kernel symbol, in the same order.
    pub fn by_symbol(&self, program: &Program) -> Vec<KindTotal> {
        self.totals(program, |kernel| &kernel.symbol)
    }

    fn totals(&self, program: &Program, name: impl Fn(&KernelRecord) -> &String) -> Vec<KindTotal> {
        let mut totals: Vec<KindTotal> = Vec::new();
        for (index, run) in self.runs.iter().enumerate() {
            let end = self.runs.get(index + 1).map_or(self.steps.len(), |next| next.begin);
            let steps = &self.steps[run.begin..end];
            let ends = steps.iter().skip(1).map(|next| next.begin).chain([run.end]);
            for (traced, end) in steps.iter().zip(ends) {
                let found = program.entries.get(run.index);
                let Some(step) = found.and_then(|entry| entry.steps.get(traced.step)) else { continue };
                let op = name(&program.kernels[step.kernel as usize]);
                let place = totals.iter().position(|total| total.entry == run.entry && total.op == *op);
                let place = place.unwrap_or_else(|| {
                    totals.push(KindTotal::new(run.entry, op));
                    totals.len() - 1
                });
                let total = &mut totals[place];
                total.steps += 1;
                total.time += end.saturating_sub(traced.begin);
                if does_something(step, run.size) {
                    total.bytes += step.cost.bytes.at(run.size);
                    total.operations += step.cost.operations.at(run.size);
                }
            }
        }
        totals.sort_by_key(|total| (total.entry != EntryKind::Prefill, std::cmp::Reverse(total.time)));
        totals
    }
}

impl KindTotal {
    fn new(entry: EntryKind, op: &str) -> KindTotal {
        KindTotal { entry, op: op.to_owned(), steps: 0, time: Duration::ZERO, bytes: 0.0, operations: 0.0 }
    }
}

/// False if a count that the step loops over is zero, for example without rows of logits.
fn does_something(step: &Step, size: Size) -> bool {
    step.args.iter().all(|arg| match arg {
        Arg::Count(Count::Tokens, _) => size.tokens > 0.0,
        Arg::Count(Count::Sequences, _) => size.sequences > 0.0,
        Arg::Count(Count::Outputs, _) => size.outputs > 0.0,
        _ => true,
    })
}

/// The start of the trace, and the current run.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    began: Instant,
    run: usize,
}

impl Clock {
    /// Time since the start of the trace.
    pub(crate) fn elapsed(self) -> Duration {
        self.began.elapsed()
    }

    /// A span of work from `begin` until now.
    pub(crate) fn span(self, work: TraceWork, begin: Duration) -> TraceSpan {
        TraceSpan { run: self.run, work, begin, duration: self.elapsed().saturating_sub(begin) }
    }
}

/// A lane that records the start and duration of its steps and waits.
pub(crate) struct Traced<'a> {
    pub(crate) lane: &'a mut dyn Lane,
    pub(crate) clock: Clock,
    pub(crate) spans: &'a mut Vec<TraceSpan>,
}

impl Traced<'_> {
    fn record(&mut self, work: TraceWork, run: impl FnOnce(&mut dyn Lane)) {
        let begin = self.clock.elapsed();
        run(self.lane);
        self.spans.push(self.clock.span(work, begin));
    }
}

impl Lane for Traced<'_> {
    fn wait_for_all(&mut self) {
        self.record(TraceWork::Wait, |lane| lane.wait_for_all());
    }

    fn launch(&mut self, index: usize, step: &Step) {
        self.record(TraceWork::Step(index), |lane| lane.launch(index, step));
    }
}

#[cfg(test)]
mod tests {
    use jamba_plan::cost::{Amount, Cost};
    use jamba_plan::format::{Entry, Logits, Rows};

    use super::*;

    /// Prefill: mix, head (of rows of logits), mix.
    fn program() -> Program {
        let kernel = |op: &str| KernelRecord {
            symbol: op.to_owned(),
            op: op.to_owned(),
            operands: Vec::new(),
            recipe: String::new(),
        };
        let step = |kernel: u32, count: Count, bytes: Amount| Step {
            kernel,
            barrier: true,
            args: vec![Arg::Count(count, 1)],
            rows: Rows::TOKENS,
            launch: None,
            pick: None,
            source: String::new(),
            cost: Cost { bytes, operations: Amount::default() },
        };
        let mix = Amount { constant: 100.0, tokens: 1.0, ..Amount::default() };
        let head = Amount { constant: 1000.0, ..Amount::default() };
        let entry = Entry {
            kind: EntryKind::Prefill,
            max_tokens: 8,
            max_sequences: 1,
            max_outputs: 1,
            logits: Logits { offset: 0, row_stride: 64, n: 1 },
            picks: None,
            steps: vec![step(0, Count::Tokens, mix), step(1, Count::Outputs, head), step(0, Count::Tokens, mix)],
            buffers: Vec::new(),
        };
        let kernels = vec![kernel("mix"), kernel("head")];
        Program { kernels, weights: Vec::new(), tensor_maps: Vec::new(), entries: vec![entry] }
    }

    #[test]
    fn kinds_add_up_and_idle_steps_do_nothing() {
        let mut trace = Trace::new();
        let millis = Duration::from_millis;
        for (run, outputs) in [(0, 0.0), (1, 1.0)] {
            trace.begin_run(0, EntryKind::Prefill, Size { tokens: 4.0, sequences: 1.0, outputs, context: 2.5 });
            for (step, begin) in [(0, 0), (1, 3), (2, 4)] {
                let begin = millis(run * 10 + begin);
                trace.steps.push(TraceStep { entry: 0, step, begin, share: millis(1) });
            }
            trace.runs.last_mut().unwrap().end = millis(run * 10 + 9);
        }
        let [mix, head] = &trace.by_kind(&program())[..] else { panic!("two kinds") };
        assert_eq!((mix.op.as_str(), mix.steps, mix.time, mix.bytes), ("mix", 4, millis(16), 416.0));
        assert_eq!((head.op.as_str(), head.steps, head.time, head.bytes), ("head", 2, millis(2), 1000.0));
    }
}
