//! A ring of stages in shared memory: a producer fills them by asynchronous copies, consumers empty them.
//!
//! Each stage has two mbarriers. `full` ends a phase when the producer has arrived and its bytes with it, `empty` when every
//! consumer has arrived. A [`Slot`] is where a side is in the ring; both sides begin at [`Ring::first`] and take the stages in
//! turn. The producer waits for the phase before the one that it fills, so that its first round passes at once.

use super::Builder;
use crate::cpu::builder::{Compare, Value};

/// Bytes of an mbarrier.
const BARRIER_BYTES: usize = 8;

/// The barriers of a ring.
#[derive(Clone, Copy)]
pub(crate) struct Ring {
    /// Shared memory of two mbarriers a stage, at a multiple of 8.
    pub(crate) barriers: Value,
    /// Stages.
    pub(crate) stages: usize,
}

/// A stage, and the parity of its phase; both i32.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    /// Which stage.
    pub(crate) stage: Value,
    /// 0 in the first round, then 1, 0, …
    pub(crate) parity: Value,
}

impl Ring {
    /// Makes the barriers, for one producer and `consumers` arrivals a stage. By one thread; a barrier of the block comes after.
    #[track_caller]
    pub(crate) fn init(&self, b: &Builder, consumers: u32) {
        for stage in 0..self.stages {
            b.mbarrier_init(b.at_byte(self.barriers, stage * BARRIER_BYTES), 1);
            b.mbarrier_init(b.at_byte(self.barriers, (self.stages + stage) * BARRIER_BYTES), consumers);
        }
        b.fence_mbarrier_init();
    }

    /// Where both sides begin.
    #[track_caller]
    pub(crate) fn first(&self, b: &Builder) -> Slot {
        Slot { stage: b.i32(0), parity: b.i32(0) }
    }

    /// The slot after one.
    #[track_caller]
    pub(crate) fn next(&self, b: &Builder, slot: Slot) -> Slot {
        let stage = b.add(slot.stage, b.i32(1));
        let wraps = b.cmp(Compare::Eq, stage, b.i32(self.stages as i32));
        Slot { stage: b.select(wraps, b.i32(0), stage), parity: b.xor(slot.parity, b.to_i32(wraps)) }
    }

    /// The barrier at which a stage becomes full.
    #[track_caller]
    pub(crate) fn full(&self, b: &Builder, slot: Slot) -> Value {
        b.at(self.barriers, b.scaled(slot.stage, BARRIER_BYTES))
    }

    /// The producer waits until the stage is empty.
    #[track_caller]
    pub(crate) fn wait_empty(&self, b: &Builder, slot: Slot) {
        b.mbarrier_wait(self.empty(b, slot.stage), b.xor(slot.parity, b.i32(1)));
    }

    /// A consumer waits until the stage is full.
    #[track_caller]
    pub(crate) fn wait_full(&self, b: &Builder, slot: Slot) {
        b.mbarrier_wait(self.full(b, slot), slot.parity);
    }

    /// A warp has read what it needs of a stage: one arrival, after all its lanes.
    #[track_caller]
    pub(crate) fn release(&self, b: &Builder, stage: Value) {
        b.sync_warp();
        b.mbarrier_arrive_if(self.empty(b, stage), b.cmp(Compare::Eq, b.lane(), b.i32(0)));
    }

    #[track_caller]
    fn empty(&self, b: &Builder, stage: Value) -> Value {
        b.at(self.barriers, b.add(b.scaled(stage, BARRIER_BYTES), b.i32((self.stages * BARRIER_BYTES) as i32)))
    }
}
