//! Mbarriers: arrivals and bytes, counted per phase.

use crate::fault::{FaultKind, Run, Trouble};
use crate::memory::order::Knowledge;

/// Largest count of pending arrivals or bytes.
const MOST: i64 = (1 << 20) - 1;

#[derive(Debug)]
pub(crate) struct MBarrier {
    pub address: usize,
    /// Arrivals per phase.
    expected: u32,
    /// Pending arrivals of this phase.
    pending: u32,
    /// Announced bytes minus arrived bytes.
    bytes: i64,
    /// Number of completed phases.
    pub phase: u32,
    gathering: Knowledge,
    /// Clocks that a wait for the last phase acquires.
    pub released: Knowledge,
    /// Agent and time of the initialisation.
    pub made_by: (u8, u32),
    /// The initialisation was fenced for the async proxy.
    pub published: bool,
    /// Agent of the loads that report to it, and their time in phase 0.
    loads: Option<u8>,
    first_time: u32,
    /// Loads in flight.
    outstanding: u32,
}

impl MBarrier {
    pub fn new(address: usize, expected: u32, made_by: (u8, u32), time: u32) -> Run<MBarrier> {
        if expected == 0 || i64::from(expected) > MOST {
            return Err(Trouble::warp(FaultKind::Barrier, format!("an mbarrier for {expected} arrivals")));
        }
        let knows = Knowledge::new(time);
        Ok(MBarrier {
            address,
            expected,
            pending: expected,
            bytes: 0,
            phase: 0,
            gathering: knows.clone(),
            released: knows,
            made_by,
            published: false,
            loads: None,
            first_time: time + 1,
            outstanding: 0,
        })
    }

    /// A load that reports to the current phase starts. Returns its time.
    pub fn start_load(&mut self, agent: u8) -> u32 {
        self.loads = Some(agent);
        self.outstanding += 1;
        self.first_time + self.phase
    }

    /// Whether the phase of this parity has completed.
    pub fn passed(&self, parity: u32) -> bool {
        self.phase & 1 != parity & 1
    }

    /// Announces bytes for this phase.
    pub fn expect(&mut self, bytes: u32) -> Run {
        self.bytes += i64::from(bytes);
        self.in_range()
    }

    /// `count` arrivals. Waiting warps acquire the clocks of the arriving one.
    pub fn arrive(&mut self, count: u32, knows: Option<&Knowledge>) -> Run {
        if count > self.pending {
            let what = format!(
                "{count} arrivals at mbarrier {:#x}, which waits for {} of {}",
                self.address, self.pending, self.expected
            );
            return Err(Trouble::warp(FaultKind::Barrier, what));
        }
        self.pending -= count;
        if let Some(knows) = knows {
            self.gathering.join(knows);
        }
        self.turn();
        Ok(())
    }

    /// Adds a pending arrival to this phase.
    pub fn owe_one(&mut self) -> Run {
        self.pending += 1;
        if i64::from(self.pending) > MOST {
            let what = format!("mbarrier {:#x} waits for {} arrivals", self.address, self.pending);
            return Err(Trouble::warp(FaultKind::Barrier, what));
        }
        Ok(())
    }

    /// Bytes of a copy issued in `phase` have arrived.
    pub fn complete(&mut self, bytes: u32, phase: u32) -> Run {
        if phase != self.phase {
            let what = format!(
                "a copy of {bytes} bytes reports to mbarrier {:#x} in phase {}, it was issued in phase {phase}: \
                 more bytes are copied than expect_tx announced",
                self.address, self.phase
            );
            return Err(Trouble::warp(FaultKind::Barrier, what));
        }
        self.outstanding -= 1;
        self.bytes -= i64::from(bytes);
        self.in_range()?;
        self.turn();
        Ok(())
    }

    fn in_range(&self) -> Run {
        if self.bytes.abs() > MOST {
            let what = format!("mbarrier {:#x} waits for {} bytes", self.address, self.bytes);
            return Err(Trouble::warp(FaultKind::Barrier, what));
        }
        Ok(())
    }

    fn turn(&mut self) {
        if self.pending > 0 || self.bytes != 0 {
            return;
        }
        // If loads are still in flight, the announced bytes were too few, and the wait orders none of them.
        if let Some(agent) = self.loads.filter(|_| self.outstanding == 0) {
            self.gathering.learn(agent, self.first_time + self.phase);
        }
        self.released.become_as(&self.gathering);
        self.phase += 1;
        self.pending = self.expected;
    }

    pub fn describe(&self) -> String {
        format!(
            "mbarrier {:#x} in phase {} lacks {} of {} arrivals and {} bytes",
            self.address, self.phase, self.pending, self.expected, self.bytes
        )
    }
}
