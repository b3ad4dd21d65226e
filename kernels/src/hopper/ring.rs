//! A ring of stages in shared memory, filled by asynchronous copies and emptied by warps.
//!
//! A stage has two mbarriers. A phase of `full` ends when the producer has arrived and the expected bytes have been copied;
//! a phase of `empty` ends when every consumer has arrived. A [`Slot`] is a position in the ring. Producer and consumers
//! start at [`Ring::first`] and take the stages in turn. The producer waits for the phase before the one that it fills, so
//! its first round does not block. A warp that fills its own ring does so too: a copy is not ordered after its lanes' reads by
//! a warp barrier alone.

use super::Builder;
use super::facts::MBARRIER_BYTES;
use crate::cpu::builder::Value;

/// The barriers of a ring.
#[derive(Clone, Copy)]
pub(crate) struct Ring {
    /// Shared memory aligned to [`MBARRIER_BYTES`]: `full` of each stage, then `empty` of each stage.
    pub(crate) barriers: Value,
    pub(crate) stages: usize,
}

/// A position in a ring; both i32.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) stage: Value,
    /// Parity of the stage's phase: 0 in the first round, then 1, 0, …
    pub(crate) parity: Value,
}

impl Slot {
    /// Rebuilds a slot from the first two loop-carried values.
    pub(crate) fn of(carried: &[Value]) -> Slot {
        Slot { stage: carried[0], parity: carried[1] }
    }

    pub(crate) fn values(self) -> [Value; 2] {
        [self.stage, self.parity]
    }
}

impl Ring {
    /// Initializes the barriers for one producer and `consumers` arrivals per stage. Executed by one thread; a block
    /// barrier must follow.
    #[track_caller]
    pub(crate) fn init(&self, b: &Builder, consumers: u32) {
        for stage in 0..self.stages {
            b.mbarrier_init(b.at_byte(self.barriers, stage * MBARRIER_BYTES), 1);
            b.mbarrier_init(b.at_byte(self.barriers, (self.stages + stage) * MBARRIER_BYTES), consumers);
        }
        b.fence_mbarrier_init();
    }

    /// The slot at which both sides start.
    #[track_caller]
    pub(crate) fn first(&self, b: &Builder) -> Slot {
        Slot { stage: b.i32(0), parity: b.i32(0) }
    }

    /// The slot after `slot`.
    #[track_caller]
    pub(crate) fn next(&self, slot: Slot) -> Slot {
        let stage = slot.stage + 1;
        let wraps = stage.eq(self.stages);
        Slot { stage: wraps.select(0, stage), parity: slot.parity ^ wraps.to_i32() }
    }

    /// The `full` barrier of a stage, which copies signal.
    #[track_caller]
    pub(crate) fn full(&self, b: &Builder, slot: Slot) -> Value {
        b.at(self.barriers, slot.stage * MBARRIER_BYTES)
    }

    /// Producer: waits until the consumers have emptied the stage.
    #[track_caller]
    pub(crate) fn wait_empty(&self, b: &Builder, slot: Slot) {
        b.mbarrier_wait(self.empty(b, slot.stage), slot.parity ^ 1);
    }

    /// Consumer: waits until the stage is full.
    #[track_caller]
    pub(crate) fn wait_full(&self, b: &Builder, slot: Slot) {
        b.mbarrier_wait(self.full(b, slot), slot.parity);
    }

    /// Consumer: waits again for a stage that is full already. Emit it before `wgmma.wait_group` where arithmetic should overlap
    /// with products: ptxas hoists that wait to the start of its basic block, and the branch of this wait starts a new block.
    #[track_caller]
    pub(crate) fn retest_full(&self, b: &Builder, slot: Slot) {
        self.wait_full(b, slot);
    }

    /// Consumer: one arrival for the warp, which has finished reading the stage.
    ///
    /// Lane 0 arrives for all lanes, so the warp synchronizes first: that orders the other lanes' loads from the stage
    /// before the arrival. A stage that only wgmma has read needs no such order, because `wgmma.wait_group` returns in all
    /// lanes once the products are complete. The barrier is kept for that case too, at the cost of one instruction per
    /// stage, so that a release is correct for all kinds of reads.
    #[track_caller]
    pub(crate) fn release(&self, b: &Builder, stage: Value) {
        b.sync_warp();
        b.mbarrier_arrive_if(self.empty(b, stage), b.lane().eq(0));
    }

    #[track_caller]
    fn empty(&self, b: &Builder, stage: Value) -> Value {
        b.at(self.barriers, stage * MBARRIER_BYTES + self.stages * MBARRIER_BYTES)
    }
}
