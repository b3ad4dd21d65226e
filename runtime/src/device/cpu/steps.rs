//! The steps of a plan's entries as work of a team: which steps form a run, and their arguments.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jamba_plan::format::{Arg, Count, Entry};

use super::code::Code;
use super::threads::{Place, Work};
use crate::device::Counts;
use crate::trace::{Clock, TraceSpan, TraceWork};

/// The kernels and all entries' steps.
pub(super) struct Steps {
    code: Code,
    entries: Vec<EntrySteps>,
    is_traced: AtomicBool,
    clock: Mutex<Option<Clock>>,
    /// Traced parts, by thread. Each thread locks its own.
    spans: Vec<Mutex<Vec<TraceSpan>>>,
}

/// The steps of one entry.
pub(super) struct EntrySteps {
    steps: Vec<StepAt>,
    /// The first step of each run, and the number of steps: no step of a run reads what another one writes.
    runs: Vec<usize>,
    /// Argument arrays of all steps, concatenated. Only the caller's thread writes them, between jobs.
    slots: Box<[AtomicU64]>,
    /// Slots that each job sets to a count times a factor.
    counts: Vec<(usize, Count, u32)>,
}

struct StepAt {
    /// Index of the kernel.
    kernel: usize,
    /// Start of the step's arguments.
    slot: usize,
}

impl EntrySteps {
    /// `value` maps an argument to its value; `None` for counts.
    pub(super) fn new(entry: &Entry, value: impl Fn(Arg) -> Option<u64>) -> EntrySteps {
        let (mut slots, mut counts, mut runs, mut steps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, step) in entry.steps.iter().enumerate() {
            if index == 0 || step.barrier {
                runs.push(index);
            }
            steps.push(StepAt { kernel: step.kernel as usize, slot: slots.len() });
            for &arg in &step.args {
                if let Arg::Count(count, factor) = arg {
                    counts.push((slots.len(), count, factor));
                }
                // Counts are 0 until a job sets them; verified CPU programs have no tensor maps.
                slots.push(AtomicU64::new(value(arg).unwrap_or(0)));
            }
        }
        runs.push(steps.len());
        EntrySteps { steps, runs, slots: slots.into(), counts }
    }
}

impl Steps {
    pub(super) fn new(code: Code, entries: Vec<EntrySteps>, n_threads: usize) -> Steps {
        let spans = (0..n_threads).map(|_| Mutex::default()).collect();
        Steps { code, entries, is_traced: AtomicBool::new(false), clock: Mutex::new(None), spans }
    }

    /// Sets the counts of an entry's next job.
    pub(super) fn set_counts(&self, entry: usize, counts: Counts) {
        let entry = &self.entries[entry];
        for &(slot, count, factor) in &entry.counts {
            entry.slots[slot].store(counts.of(count) * u64::from(factor), Ordering::Relaxed);
        }
    }

    /// One part of a step.
    pub(super) fn launch(&self, entry: usize, step: usize, part: usize, n_parts: usize) {
        let entry = &self.entries[entry];
        let StepAt { kernel, slot } = entry.steps[step];
        // SAFETY: the array has as many slots as the kernel reads, and every address points into its region
        // (`jamba_plan::verify` and the engine checked both). The kernel stays within its buffers (the schedule's verifier
        // checked their sizes). No Rust reference to the regions is alive: the engine runs steps through `&mut self`, and
        // parts execute within a job. The slots are written between jobs only.
        unsafe { self.code.kernels[kernel](entry.slots[slot..].as_ptr().cast(), part as u64, n_parts as u64) };
    }

    /// Records all parts from now on.
    pub(super) fn begin_trace(&self, clock: Clock) {
        if let Ok(mut current) = self.clock.lock() {
            *current = Some(clock);
        }
        self.is_traced.store(true, Ordering::Release);
    }

    /// The recorded parts of each thread.
    pub(super) fn end_trace(&self) -> Vec<Vec<TraceSpan>> {
        self.is_traced.store(false, Ordering::Release);
        let take =
            |spans: &Mutex<Vec<TraceSpan>>| spans.lock().map_or(Vec::new(), |mut spans| std::mem::take(&mut spans));
        self.spans.iter().map(take).collect()
    }
}

impl Work for Steps {
    fn n_runs(&self, entry: usize) -> usize {
        self.entries[entry].runs.len() - 1
    }

    fn n_steps(&self, entry: usize, run: usize) -> usize {
        let runs = &self.entries[entry].runs;
        runs[run + 1] - runs[run]
    }

    fn execute(&self, at: Place, part: usize, n_parts: usize) {
        let step = self.entries[at.job].runs[at.run] + at.step;
        if !self.is_traced.load(Ordering::Relaxed) {
            return self.launch(at.job, step, part, n_parts);
        }
        let clock = self.clock.lock().map_or(None, |clock| *clock);
        let begin = clock.map(Clock::elapsed);
        self.launch(at.job, step, part, n_parts);
        if let (Some(clock), Some(begin), Ok(mut spans)) = (clock, begin, self.spans[at.thread].lock()) {
            spans.push(clock.span(TraceWork::Step(step), begin));
        }
    }
}
