//! Runs of one thread whose steps an observer sees.

use jamba_plan::format::Step;

use super::memory::Region;
use super::{Cpu, Job};
use crate::StepObserver;
use crate::device::Counts;
use crate::execute::{Lane, execute};
use crate::trace::{Trace, Traced};

impl Cpu {
    /// Runs the steps of an entry on the calling thread and shows the arena around each.
    pub(crate) fn run_observed(
        &mut self,
        entry: usize,
        counts: Counts,
        observer: &mut dyn StepObserver,
        trace: Option<&mut Trace>,
    ) {
        self.set_counts(entry, counts);
        let job = Job { n_threads: 1, kernels: &self.code.kernels, arguments: &self.entries[entry] };
        let mut lane = Observed { job, entry, arena: &mut self.arena, observer };
        let steps = self.program.entries[entry].steps.iter().enumerate();
        match trace {
            Some(trace) => {
                let mut spans = Vec::new();
                execute(steps, &mut Traced { lane: &mut lane, clock: trace.clock(), spans: &mut spans });
                trace.record([spans]);
            }
            None => execute(steps, &mut lane),
        }
    }
}

/// The only lane of a run.
struct Observed<'a> {
    job: Job<'a>,
    entry: usize,
    arena: &'a mut Region,
    observer: &'a mut dyn StepObserver,
}

impl Lane for Observed<'_> {
    fn wait_for_all(&mut self) {}

    fn launch(&mut self, index: usize, step: &Step) {
        self.observer.before(self.entry, index, self.arena.as_mut_slice());
        self.job.launch(index, step, 0);
        self.observer.after(self.entry, index, self.arena.as_slice());
    }
}
