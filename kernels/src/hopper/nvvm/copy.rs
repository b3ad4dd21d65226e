//! Asynchronous copies from global to shared memory: cp.async by threads, bulk and tensor copies by the copy engine.

use crate::cpu::builder::{Num, Value};
use crate::hopper::Builder;

/// cp.async: 16 bytes per thread, awaited in groups.
impl Builder<'_> {
    /// Copies 16 bytes; both addresses are 16-byte aligned.
    #[track_caller]
    pub fn cp_async_16(&self, to: Value, from: Value) {
        assert_copy(to, from);
        self.asm0("cp.async.cg.shared.global [$0], [$1], 16;", &[to, from]);
    }

    /// Copies the first `bytes` (i32, 0 … 16) of 16 bytes and zero-fills the remainder.
    #[track_caller]
    pub fn cp_async_16_zfill(&self, to: Value, from: Value, bytes: Value) {
        assert_copy(to, from);
        self.asm0("cp.async.cg.shared.global [$0], [$1], 16, $2;", &[to, from, bytes]);
    }

    /// Ends a group of this thread's copies.
    #[track_caller]
    pub fn cp_async_commit(&self) {
        self.asm0("cp.async.commit_group;", &[]);
    }

    /// Waits until at most `pending` groups of this thread are in flight. Copies of other threads are visible after a barrier.
    #[track_caller]
    pub fn cp_async_wait(&self, pending: u32) {
        self.asm0(&format!("cp.async.wait_group {pending};"), &[]);
    }
}

/// The copy engine: one thread starts a copy, which signals its bytes to an mbarrier.
impl Builder<'_> {
    /// Copies `bytes` (i32, a multiple of 16) between 16-byte-aligned addresses.
    #[track_caller]
    pub fn cp_async_bulk(&self, to: Value, from: Value, bytes: Value, barrier: Value) {
        assert_copy(to, from);
        let text = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [$0], [$1], $2, [$3];";
        self.asm0(text, &[to, from, bytes, barrier]);
    }

    /// Copies the box of a tensor map whose first element is (row, col). The box may extend outside the matrix; the byte
    /// count is always that of a whole box.
    #[track_caller]
    pub fn cp_async_bulk_tensor_2d(&self, to: Value, map: Value, [row, col]: [Value; 2], barrier: Value) {
        assert!(to.ty().num == Num::Shared && map.ty().num == Num::Map, "a copy by a {} to a {}", map.ty(), to.ty());
        let text = "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
                    [$0], [$1, {$2, $3}], [$4];";
        self.asm0(text, &[to, map, col, row, barrier]);
    }

    /// Prefetches a tensor map into the descriptor cache.
    #[track_caller]
    pub fn prefetch_tensor_map(&self, map: Value) {
        self.asm0("prefetch.tensormap [$0];", &[map]);
    }
}

#[track_caller]
fn assert_copy(to: Value, from: Value) {
    assert!(to.ty().num == Num::Shared && from.ty().num == Num::Global, "a copy from a {} to a {}", from.ty(), to.ty());
}
