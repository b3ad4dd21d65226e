//! Counts of a simulated device.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::Stats;

/// A handle to the counts of one device, shared between clones.
#[derive(Debug, Clone, Default)]
pub struct Counters(Arc<Mutex<Counts>>);

#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Launches, including those of replays.
    pub launches: u64,
    /// Captured graphs.
    pub graphs: u64,
    /// Replays of graphs.
    pub replays: u64,
    /// Bytes of all allocations.
    pub allocated_bytes: u64,
    pub uploaded_bytes: u64,
    pub downloaded_bytes: u64,
    /// Counts by symbol.
    pub kernels: BTreeMap<String, KernelCounts>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct KernelCounts {
    /// Launches without a fault.
    pub launches: u64,
    pub stats: Stats,
    /// Time on the host.
    pub time: Duration,
}

impl Counters {
    pub fn read(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Counts {
    pub(super) fn add(&mut self, symbol: &str, stats: &Stats, time: Duration) {
        self.launches += 1;
        if !self.kernels.contains_key(symbol) {
            self.kernels.insert(symbol.to_owned(), KernelCounts::default());
        }
        if let Some(kernel) = self.kernels.get_mut(symbol) {
            kernel.launches += 1;
            kernel.stats.add(stats);
            kernel.time += time;
        }
    }

    /// A table with one line per kernel, the slowest first: launches, warp instructions, lane instructions per second, milliseconds
    /// per launch.
    pub fn table(&self) -> String {
        let mut rows: Vec<_> = self.kernels.iter().collect();
        rows.sort_by_key(|(_, kernel)| std::cmp::Reverse(kernel.time));
        let mut out = String::from("launches  warp instr.  M lane instr./s  ms/launch  kernel\n");
        for (symbol, kernel) in rows {
            let seconds = kernel.time.as_secs_f64();
            out.push_str(&format!(
                "{:>8}  {:>11}  {:>15.1}  {:>9.3}  {symbol}\n",
                kernel.launches,
                kernel.stats.warp_instructions,
                kernel.stats.lane_instructions as f64 / 1e6 / seconds.max(1e-9),
                1e3 * seconds / kernel.launches.max(1) as f64,
            ));
        }
        out
    }
}
