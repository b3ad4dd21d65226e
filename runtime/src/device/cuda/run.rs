//! Runs an entry: replays a graph of its launches, or launches each step separately: if no graph was recorded, for checks and
//! for traces.

use std::collections::BTreeMap;

use jamba_plan::format::{Program, Step};
use jamba_plan::graphs::Graph;

use super::driver::{Driver, DriverError, GraphId, LaunchOf, Parameters};
use super::fault::Fault;
use super::guards::Guards;
use crate::check::Broken;
use crate::execute::{Lane, execute};
use crate::trace::{Trace, Traced};

/// The parameters of one entry's launches, by step.
pub(super) struct Arguments {
    pub(super) steps: Vec<Parameters>,
}

/// Inputs of a run.
pub(super) struct Run<'a> {
    pub(super) driver: &'a mut dyn Driver,
    pub(super) n_sms: u32,
    pub(super) program: &'a Program,
    /// Index of the entry.
    pub(super) entry: usize,
    pub(super) arguments: &'a Arguments,
    /// The step's counts as grids are computed from them, and the step that picks tokens, if any.
    pub(super) size: Graph,
    pub(super) guards: Option<&'a Guards>,
}

impl Run<'_> {
    /// Starts the steps without waiting for them: replays their graph, or launches each step if none was recorded.
    pub(super) fn all(&mut self, graphs: &BTreeMap<Graph, GraphId>) -> Result<(), Fault> {
        match graphs.get(&self.size) {
            Some(&graph) => self.driver.replay(graph).map_err(|error| self.fault(error)),
            None => self.launch(Pace::Queued, None).map(|_| ()),
        }
    }

    /// Records the steps as a graph; `None` if the driver has no memory for it.
    pub(super) fn record(&mut self) -> Result<Option<GraphId>, Fault> {
        self.driver.begin_capture().map_err(|error| self.fault(error))?;
        let launched = self.launch(Pace::Queued, None);
        let graph = self.driver.end_capture();
        launched?;
        match graph {
            Ok(graph) => Ok(Some(graph)),
            Err(DriverError::OutOfMemory { .. }) => Ok(None),
            Err(error) => Err(self.fault(error)),
        }
    }

    /// Runs the steps one by one, synchronizes after each, and checks the guards if there are any.
    pub(super) fn one_by_one(&mut self, trace: Option<&mut Trace>) -> Result<Option<Broken>, Fault> {
        self.driver.synchronize().map_err(|error| Fault::of_call("copying the step tables", error))?;
        self.launch(Pace::Synchronized, trace)
    }

    fn launch(&mut self, pace: Pace, trace: Option<&mut Trace>) -> Result<Option<Broken>, Fault> {
        let mut stream = Stream {
            driver: &mut *self.driver,
            n_sms: self.n_sms,
            size: self.size,
            arguments: self.arguments,
            pace,
            guards: self.guards.filter(|_| pace == Pace::Synchronized),
            broken: None,
            failed: None,
        };
        let steps = self.program.entries[self.entry].steps_of(self.size.pick);
        match trace {
            Some(trace) => {
                let mut spans = Vec::new();
                execute(steps, &mut Traced { lane: &mut stream, clock: trace.clock(), spans: &mut spans });
                trace.record([spans]);
            }
            None => execute(steps, &mut stream),
        }
        match stream.failed {
            None => Ok(stream.broken),
            Some((step, error)) => Err(Fault::of_step(self.program, self.entry, step, error)),
        }
    }

    fn fault(&self, error: DriverError) -> Fault {
        Fault::of_run(self.program, self.entry, error)
    }
}

/// Whether the host waits for each step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Launches are queued on the stream or recorded.
    Queued,
    /// The host synchronizes after every step.
    Synchronized,
}

/// The only lane of a GPU: launches execute in order on one stream.
struct Stream<'a> {
    driver: &'a mut dyn Driver,
    n_sms: u32,
    size: Graph,
    arguments: &'a Arguments,
    pace: Pace,
    guards: Option<&'a Guards>,
    /// The first broken guard.
    broken: Option<Broken>,
    /// The first failed step. No step is launched after it.
    failed: Option<(usize, DriverError)>,
}

impl Stream<'_> {
    fn try_launch(&mut self, index: usize, step: &Step) -> Result<(), DriverError> {
        let Some(launch) = step.launch else { return Ok(()) };
        let blocks = launch.blocks(self.n_sms, |count| self.size.of_count(count));
        self.driver.launch(&LaunchOf {
            kernel: step.kernel as usize,
            grid: blocks.map(|blocks| blocks as u32), // verified to fit u32 for the largest step
            threads: launch.threads,
            shared_bytes: launch.shared_bytes,
            args: self.arguments.steps[index].words(),
        })?;
        if self.pace == Pace::Synchronized {
            self.driver.synchronize()?;
        }
        if let Some(guards) = self.guards.filter(|_| self.broken.is_none()) {
            self.broken = guards.broken(&mut *self.driver)?.map(|region| Broken { step: index, region });
        }
        Ok(())
    }
}

impl Lane for Stream<'_> {
    fn wait_for_all(&mut self) {}

    fn launch(&mut self, index: usize, step: &Step) {
        if self.failed.is_none() {
            self.failed = self.try_launch(index, step).err().map(|error| (index, error));
        }
    }
}
