//! Named barriers of a block.

use crate::fault::{FaultKind, Run, Trouble};
use crate::memory::order::Knowledge;

/// The barrier of the cluster. Programs use 0 to 15.
pub(crate) const CLUSTER_BARRIER: u32 = 16;

#[derive(Debug, Default)]
pub(crate) struct Barrier {
    arrived: u32,
    expected: u32,
    /// Number of completions.
    pub generation: u64,
    gathering: Knowledge,
    /// Clocks that the released warps acquire.
    pub released: Knowledge,
    /// Start time of the block. `gathering` is invalid before the first arrival.
    start: u32,
    used: bool,
}

impl Barrier {
    /// Resets to no arrivals.
    pub fn reset(&mut self, time: u32) {
        (self.arrived, self.expected, self.generation) = (0, 0, 0);
        (self.start, self.used) = (time, false);
    }

    /// A warp arrives. True if this completes the barrier.
    pub fn arrive(&mut self, knows: &Knowledge, expected: u32) -> Run<bool> {
        if self.arrived > 0 && self.expected != expected {
            let what = format!("the barrier waits for {} threads, this warp names {expected}", self.expected);
            return Err(Trouble::warp(FaultKind::Barrier, what));
        }
        self.expected = expected;
        self.arrived += 32;
        if !self.used {
            self.gathering.reset(self.start);
            self.used = true;
        }
        self.gathering.join(knows);
        if self.arrived > expected {
            let what = format!("{} threads at a barrier for {expected}", self.arrived);
            return Err(Trouble::warp(FaultKind::Barrier, what));
        }
        if self.arrived < expected {
            return Ok(false);
        }
        self.arrived = 0;
        self.generation += 1;
        self.released.become_as(&self.gathering);
        Ok(true)
    }

    /// Arrived and expected threads.
    pub fn progress(&self) -> (u32, u32) {
        (self.arrived, self.expected)
    }
}
