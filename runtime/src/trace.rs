//! Optional times of every step, as the first thread saw them.

use std::time::{Duration, Instant};

use jamba_plan::format::{EntryKind, Step};

use crate::execute::Lane;

/// One step that ran.
#[derive(Clone, Copy, Debug)]
pub struct TraceStep {
    /// Entry that the step belongs to.
    pub entry: EntryKind,
    /// Index of the step in its entry.
    pub step: usize,
    /// Begin, since the trace began.
    pub begin: Duration,
    /// Time of the first thread's share.
    pub share: Duration,
}

/// Times of the steps that ran since tracing was turned on.
#[derive(Debug)]
pub struct Trace {
    began: Instant,
    steps: Vec<TraceStep>,
}

impl Trace {
    pub(crate) fn new() -> Trace {
        Trace { began: Instant::now(), steps: Vec::new() }
    }

    /// The steps, in order of their begin.
    pub fn steps(&self) -> &[TraceStep] {
        &self.steps
    }
}

/// A lane that notes when its steps begin and end.
pub(crate) struct Traced<'a> {
    pub(crate) lane: &'a mut dyn Lane,
    pub(crate) entry: EntryKind,
    pub(crate) trace: &'a mut Trace,
}

impl Lane for Traced<'_> {
    fn wait_for_all(&mut self) {
        self.lane.wait_for_all();
    }

    fn launch(&mut self, index: usize, step: &Step) {
        let begin = self.trace.began.elapsed();
        self.lane.launch(index, step);
        let share = self.trace.began.elapsed() - begin;
        self.trace.steps.push(TraceStep { entry: self.entry, step: index, begin, share });
    }
}
