//! mbarrier (arrivals of threads and bytes of asynchronous copies, counted by phase) and fences.

use crate::cpu::builder::Value;
use crate::hopper::Builder;

/// mbarrier objects: 8 bytes of shared memory each, 8-byte aligned.
impl Builder<'_> {
    /// Initializes a barrier for `arrivals` arrivals per phase. Executed by one thread;
    /// [`fence_mbarrier_init`](Self::fence_mbarrier_init) and a block barrier must precede its use.
    #[track_caller]
    pub fn mbarrier_init(&self, barrier: Value, arrivals: u32) {
        self.asm0("mbarrier.init.shared::cta.b64 [$0], $1;", &[barrier, self.i32(arrivals as i32)]);
    }

    #[track_caller]
    pub fn mbarrier_arrive(&self, barrier: Value) {
        self.asm0("mbarrier.arrive.shared::cta.b64 _, [$0];", &[barrier]);
    }

    /// Arrives if the condition is true.
    #[track_caller]
    pub fn mbarrier_arrive_if(&self, barrier: Value, condition: Value) {
        let text = "{ .reg .pred p; setp.ne.b32 p, $1, 0; @p mbarrier.arrive.shared::cta.b64 _, [$0]; }";
        self.asm0(text, &[barrier, condition]);
    }

    /// Arrives and adds `bytes` bytes of copies to the phase's expected count.
    #[track_caller]
    pub fn mbarrier_arrive_expect_tx(&self, barrier: Value, bytes: Value) {
        self.asm0("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", &[barrier, bytes]);
    }

    /// Waits for the end of the phase with this parity: 0 for the first, then 1, 0, … Acquires all writes made before the
    /// arrivals and by the copies.
    #[track_caller]
    pub fn mbarrier_wait(&self, barrier: Value, parity: Value) {
        let text = "{ .reg .pred p; \
                    wait: mbarrier.try_wait.parity.shared::cta.b64 p, [$0], $1; @p bra done; bra wait; done: }";
        self.asm0(text, &[barrier, parity]);
    }

    /// Makes the initialization of barriers visible to asynchronous copies.
    #[track_caller]
    pub fn fence_mbarrier_init(&self) {
        self.asm0("fence.mbarrier_init.release.cluster;", &[]);
    }
}

/// Fences.
impl Builder<'_> {
    /// Orders this thread's shared memory accesses with those of asynchronous copies and wgmma.
    #[track_caller]
    pub fn fence_async_shared(&self) {
        self.asm0("fence.proxy.async.shared::cta;", &[]);
    }

    /// Acquire-release fence at device scope.
    #[track_caller]
    pub fn fence_device(&self) {
        self.asm0("fence.acq_rel.gpu;", &[]);
    }
}
