//! Runs that stop after each step: steps that an observer sees, and checked steps.

use jamba_plan::format::Step;

use super::Cpu;
use super::memory::Region;
use super::steps::Steps;
use crate::StepObserver;
use crate::check::{Broken, Checked};
use crate::device::Counts;
use crate::execute::{Lane, execute};
use crate::trace::{Trace, Traced};

impl Cpu {
    /// Runs the steps of an entry and shows the arena around each.
    pub(crate) fn run_observed(
        &mut self,
        entry: usize,
        counts: Counts,
        observer: &mut dyn StepObserver,
        trace: Option<&mut Trace>,
    ) {
        self.steps.set_counts(entry, counts);
        let n_parts = self.team.n_threads();
        let mut lane = Observed { steps: &self.steps, entry, n_parts, arena: &mut self.arena, observer };
        let steps = self.program.entries[entry].steps.iter().enumerate();
        walk(steps, &mut lane, trace);
    }

    /// Runs the parts of all threads and checks the guards after each step.
    pub(super) fn run_checked(&mut self, entry: usize, trace: Option<&mut Trace>) {
        let regions = [&self.arena, &self.state, &self.kv, &self.tables];
        let mut broken = None;
        let mut look = |step: usize| {
            let region = regions.iter().copied().chain(self.weights.region()).find(|region| !region.guards_hold());
            broken = broken.take().or(region.map(|region| Broken { step, region: region.name }));
        };
        let mut alone = Alone { steps: &self.steps, entry, n_parts: self.team.n_threads() };
        let mut lane = Checked { lane: &mut alone, look: Some(&mut look) };
        let steps = self.program.entries[entry].steps.iter().enumerate();
        walk(steps, &mut lane, trace);
        if let Some(broken) = broken {
            self.broken.get_or_insert(broken.error(&self.program, entry));
        }
    }
}

/// Runs `steps` on the only lane.
fn walk<'a>(steps: impl Iterator<Item = (usize, &'a Step)>, lane: &mut dyn Lane, trace: Option<&mut Trace>) {
    match trace {
        Some(trace) => {
            let mut spans = Vec::new();
            execute(steps, &mut Traced { lane, clock: trace.clock(), spans: &mut spans });
            trace.record([spans]);
        }
        None => execute(steps, lane),
    }
}

/// A lane that executes all parts of each step.
struct Alone<'a> {
    steps: &'a Steps,
    entry: usize,
    n_parts: usize,
}

impl Lane for Alone<'_> {
    fn wait_for_all(&mut self) {}

    fn launch(&mut self, index: usize, _: &Step) {
        (0..self.n_parts).for_each(|part| self.steps.launch(self.entry, index, part, self.n_parts));
    }
}

/// A lane that shows the arena around each step, and executes the parts of a step on threads of its own.
struct Observed<'a> {
    steps: &'a Steps,
    entry: usize,
    n_parts: usize,
    arena: &'a mut Region,
    observer: &'a mut dyn StepObserver,
}

impl Lane for Observed<'_> {
    fn wait_for_all(&mut self) {}

    fn launch(&mut self, index: usize, _: &Step) {
        let &mut Observed { steps, entry, n_parts, .. } = self;
        self.observer.before(entry, index, self.arena.as_mut_slice());
        std::thread::scope(|scope| {
            let launch = move |part: usize| steps.launch(entry, index, part, n_parts);
            (1..n_parts).for_each(|part| drop(scope.spawn(move || launch(part))));
            launch(0);
        });
        self.observer.after(entry, index, self.arena.as_slice());
    }
}
