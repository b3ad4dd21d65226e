//! mbarrier: arrivals of threads and bytes of asynchronous copies, awaited by phase; and fences.

use crate::cpu::builder::Value;
use crate::hopper::Builder;

/// mbarrier objects: 8 bytes of shared memory each, at a multiple of 8.
impl Builder<'_> {
    /// Makes one of `arrivals` arrivals a phase. By one thread; [`fence_mbarrier_init`](Self::fence_mbarrier_init) and a
    /// barrier of the block come before its use.
    #[track_caller]
    pub fn mbarrier_init(&self, barrier: Value, arrivals: u32) {
        self.asm0("mbarrier.init.shared::cta.b64 [$0], $1;", &[barrier, self.i32(arrivals as i32)]);
    }

    /// Arrives.
    #[track_caller]
    pub fn mbarrier_arrive(&self, barrier: Value) {
        self.asm0("mbarrier.arrive.shared::cta.b64 _, [$0];", &[barrier]);
    }

    /// Arrives where the condition holds.
    #[track_caller]
    pub fn mbarrier_arrive_if(&self, barrier: Value, condition: Value) {
        let text = "{ .reg .pred p; setp.ne.b32 p, $1, 0; @p mbarrier.arrive.shared::cta.b64 _, [$0]; }";
        self.asm0(text, &[barrier, condition]);
    }

    /// Arrives, and lets the phase wait for so many bytes of copies.
    #[track_caller]
    pub fn mbarrier_arrive_expect_tx(&self, barrier: Value, bytes: Value) {
        self.asm0("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", &[barrier, bytes]);
    }

    /// Waits for the end of the phase of this parity: 0 for the first, then 1, 0, … What was written before the arrivals, or
    /// by the copies, is then seen.
    #[track_caller]
    pub fn mbarrier_wait(&self, barrier: Value, parity: Value) {
        let text = "{ .reg .pred p; \
                    wait: mbarrier.try_wait.parity.shared::cta.b64 p, [$0], $1; @p bra done; bra wait; done: }";
        self.asm0(text, &[barrier, parity]);
    }

    /// Makes the initialisation of barriers seen by asynchronous copies.
    #[track_caller]
    pub fn fence_mbarrier_init(&self) {
        self.asm0("fence.mbarrier_init.release.cluster;", &[]);
    }
}

/// Fences.
impl Builder<'_> {
    /// Makes this thread's writes to shared memory seen by asynchronous copies and wgmma, and theirs by it.
    #[track_caller]
    pub fn fence_async_shared(&self) {
        self.asm0("fence.proxy.async.shared::cta;", &[]);
    }

    /// Orders this thread's accesses to memory as all threads of the device see them.
    #[track_caller]
    pub fn fence_device(&self) {
        self.asm0("fence.acq_rel.gpu;", &[]);
    }
}
