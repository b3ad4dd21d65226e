//! Pinned host memory for copies: two buffers, one of which is filled or emptied while the device copies the other.

use std::ffi::c_void;
use std::ptr::null_mut;

use cudarc::driver::sys;

use super::super::driver::DriverError;
use super::abi;
use super::calls::check;

/// Size of a buffer, in bytes.
const BYTES: usize = 16 << 20;

/// Host copies of at least this many bytes use several threads, since one thread is slower than the bus.
const SHARED: usize = 4 << 20;

/// Number of threads for large host copies.
const THREADS: usize = 4;

/// The two buffers.
pub(super) struct Staging {
    pieces: [Piece; 2],
    /// Index of the buffer to use next.
    next: usize,
}

/// Pinned memory and the event that signals the end of its last copy.
#[derive(Clone, Copy)]
struct Piece {
    memory: *mut u8,
    done: sys::CUevent,
}

/// A copy from the device in progress: its buffer, and offset and size of its destination.
struct Arriving(Piece, usize, usize);

impl Staging {
    /// No buffers, before a context exists.
    pub(super) fn none() -> Staging {
        Staging { pieces: [Piece { memory: null_mut(), done: null_mut() }; 2], next: 0 }
    }

    /// Allocates the buffers in the current context.
    pub(super) fn allocate(&mut self) -> Result<(), DriverError> {
        for piece in &mut self.pieces {
            let mut memory = null_mut();
            // SAFETY: `memory` is a local variable.
            check("cuMemAllocHost", unsafe { abi::cuMemAllocHost_v2(&mut memory, BYTES) })?;
            piece.memory = memory.cast();
            let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
            // SAFETY: `piece.done` is writable.
            check("cuEventCreate", unsafe { abi::cuEventCreate(&mut piece.done, flags) })?;
        }
        Ok(())
    }

    /// Frees the buffers that were allocated.
    ///
    /// # Safety
    /// Their context is current, and no copy is in progress. Only [`Staging::none`]'s methods may be called after this.
    pub(super) unsafe fn free(&mut self) {
        for piece in std::mem::replace(self, Staging::none()).pieces {
            // SAFETY: the handles are of the current context (caller), and nothing uses them after this.
            unsafe {
                if !piece.memory.is_null() {
                    let _ = abi::cuMemFreeHost(piece.memory.cast());
                }
                if !piece.done.is_null() {
                    let _ = abi::cuEventDestroy_v2(piece.done);
                }
            }
        }
    }

    /// The buffer to use next, after its last copy has ended.
    fn take(&mut self) -> Result<Piece, DriverError> {
        let piece = self.pieces[self.next];
        self.next = 1 - self.next;
        piece.wait()?;
        Ok(piece)
    }

    /// Copies bytes to the device. The last copy may still be in progress on return.
    pub(super) fn upload(&mut self, stream: sys::CUstream, to: u64, bytes: &[u8]) -> Result<(), DriverError> {
        let mut at = to;
        for bytes in bytes.chunks(BYTES) {
            let piece = self.take()?;
            // SAFETY: the buffer has `BYTES` bytes; `take` waited for its last copy; no other reference to it exists.
            copy(bytes, unsafe { std::slice::from_raw_parts_mut(piece.memory, bytes.len()) });
            let memory = piece.memory.cast::<c_void>();
            // SAFETY: the buffer is not changed or freed before the event recorded below. `Driver::upload` requires a device
            // range inside an allocation.
            let result = unsafe { abi::cuMemcpyHtoDAsync_v2(at, memory, bytes.len(), stream) };
            check("cuMemcpyHtoDAsync", result)?;
            piece.record(stream)?;
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Copies bytes from the device after all earlier operations on the stream.
    pub(super) fn download(&mut self, stream: sys::CUstream, from: u64, bytes: &mut [u8]) -> Result<(), DriverError> {
        let mut arriving: Option<Arriving> = None;
        for first in (0..bytes.len()).step_by(BYTES) {
            let n = BYTES.min(bytes.len() - first);
            let piece = self.take()?;
            // SAFETY: the buffer is not used or freed before the event recorded below. `Driver::download` requires a device
            // range inside an allocation.
            let result = unsafe { abi::cuMemcpyDtoHAsync_v2(piece.memory.cast(), from + first as u64, n, stream) };
            check("cuMemcpyDtoHAsync", result)?;
            piece.record(stream)?;
            if let Some(before) = arriving.replace(Arriving(piece, first, n)) {
                before.finish(bytes)?;
            }
        }
        arriving.map_or(Ok(()), |last| last.finish(bytes))
    }
}

impl Piece {
    fn record(self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: event and stream belong to the current context.
        check("cuEventRecord", unsafe { abi::cuEventRecord(self.done, stream) })
    }

    /// Waits for the last copy, if there was one.
    fn wait(self) -> Result<(), DriverError> {
        // SAFETY: the event belongs to the current context.
        check("cuEventSynchronize", unsafe { abi::cuEventSynchronize(self.done) })
    }
}

impl Arriving {
    fn finish(self, bytes: &mut [u8]) -> Result<(), DriverError> {
        let Arriving(piece, first, n) = self;
        piece.wait()?;
        // SAFETY: the copy into the buffer has ended (`wait`), and no other copy uses it.
        copy(unsafe { std::slice::from_raw_parts(piece.memory, n) }, &mut bytes[first..first + n]);
        Ok(())
    }
}

/// Copies bytes, with several threads if there are many.
fn copy(from: &[u8], to: &mut [u8]) {
    if from.len() < SHARED {
        to.copy_from_slice(from);
        return;
    }
    let share = from.len().div_ceil(THREADS);
    std::thread::scope(|scope| {
        for (from, to) in from.chunks(share).zip(to.chunks_mut(share)) {
            scope.spawn(|| to.copy_from_slice(from));
        }
    });
}
