//! Counts of a launch.

use crate::program::{Class, N_CLASSES};

/// Counts of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Executed instructions, counted per warp.
    pub warp_instructions: u64,
    /// Executed instructions, counted per active lane.
    pub lane_instructions: u64,
    /// Bytes loaded from global memory by ordinary loads and asynchronous copies.
    pub global_loaded: u64,
    /// Bytes stored to global memory.
    pub global_stored: u64,
    classes: [u64; N_CLASSES],
}

impl Stats {
    /// Warp instructions of a class.
    pub fn of(&self, class: Class) -> u64 {
        self.classes[class as usize]
    }

    #[inline]
    pub(crate) fn count(&mut self, class: Class, mask: u32) {
        self.warp_instructions += 1;
        self.lane_instructions += u64::from(mask.count_ones());
        self.classes[class as usize] += 1;
    }

    /// Adds the counts of another launch.
    pub fn add(&mut self, other: &Stats) {
        self.warp_instructions += other.warp_instructions;
        self.lane_instructions += other.lane_instructions;
        self.global_loaded += other.global_loaded;
        self.global_stored += other.global_stored;
        for (held, other) in self.classes.iter_mut().zip(other.classes) {
            *held += other;
        }
    }
}
