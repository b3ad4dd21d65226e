//! Runs an entry: replays a graph of its launches, or launches each step separately for checks and traces.

use jamba_plan::format::{Pick, Program, Step};

use super::driver::{Driver, DriverError, LaunchOf};
use super::fault::Fault;
use super::graphs::{Bucket, Graphs};
use super::guards::Guards;
use crate::check::Broken;
use crate::execute::{Lane, execute};
use crate::trace::{Trace, Traced};

/// The arguments of one entry's steps, concatenated.
pub(super) struct Arguments {
    pub(super) slots: Vec<u64>,
    /// Start of each step's arguments in `slots`, and the end of the last ones.
    pub(super) begins: Vec<usize>,
}

/// Inputs of a run.
pub(super) struct Run<'a> {
    pub(super) driver: &'a mut dyn Driver,
    pub(super) n_sms: u32,
    pub(super) program: &'a Program,
    /// Index of the entry.
    pub(super) entry: usize,
    pub(super) arguments: &'a Arguments,
    pub(super) bucket: Bucket,
    /// Selects the step that picks tokens, if any.
    pub(super) pick: Option<Pick>,
    pub(super) guards: Option<&'a Guards>,
}

impl Run<'_> {
    /// Starts the steps without waiting for them. Replays the bucket's graph, which its first run records. Launches each step
    /// separately if graphs are off or the driver has no memory for another one.
    pub(super) fn all(&mut self, graphs: &mut Graphs) -> Result<(), Fault> {
        let key = (self.entry, self.bucket, self.pick);
        if let Some(graph) = graphs.get(key) {
            return self.driver.replay(graph).map_err(|error| self.fault(error));
        }
        if !graphs.take_more() {
            return self.launch(Pace::Queued, None).map(|_| ());
        }
        self.driver.begin_capture().map_err(|error| self.fault(error))?;
        let launched = self.launch(Pace::Queued, None);
        let graph = self.driver.end_capture();
        launched?;
        match graph {
            Ok(graph) => {
                graphs.add(key, graph);
                self.driver.replay(graph).map_err(|error| self.fault(error))
            }
            Err(DriverError::OutOfMemory { .. }) => {
                graphs.stop();
                self.launch(Pace::Queued, None).map(|_| ())
            }
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
            bucket: self.bucket,
            arguments: self.arguments,
            pace,
            guards: self.guards.filter(|_| pace == Pace::Synchronized),
            broken: None,
            failed: None,
        };
        let steps = self.program.entries[self.entry].steps_of(self.pick);
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
    bucket: Bucket,
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
        let blocks = launch.blocks(self.n_sms, |count| self.bucket.of_count(count));
        let args = &self.arguments.slots[self.arguments.begins[index]..self.arguments.begins[index + 1]];
        self.driver.launch(&LaunchOf {
            kernel: step.kernel as usize,
            grid: blocks.map(|blocks| blocks as u32), // verified to fit u32 for the largest step
            threads: launch.threads,
            shared_bytes: launch.shared_bytes,
            args,
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
