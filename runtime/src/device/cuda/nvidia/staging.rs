//! Memory of the host that the device copies from and to by itself: two pieces, one of which is filled or emptied while the
//! other is under way.

use std::ffi::c_void;
use std::ptr::null_mut;

use cudarc::driver::sys;

use super::super::driver::DriverError;
use super::abi;
use super::calls::check;

/// Bytes of a piece.
const BYTES: usize = 16 << 20;

/// Copies of at least so many bytes are shared among threads: one alone is slower than the bus.
const SHARED: usize = 4 << 20;

/// Threads that share a copy.
const THREADS: usize = 4;

/// The two pieces.
pub(super) struct Staging {
    pieces: [Piece; 2],
    /// The one that is used next.
    next: usize,
}

/// Memory that stays where it is, and the event that its last copy is over.
#[derive(Clone, Copy)]
struct Piece {
    memory: *mut u8,
    done: sys::CUevent,
}

/// A copy from the device that is under way, and where it goes from here: its piece, first byte, and bytes.
struct Arriving(Piece, usize, usize);

impl Staging {
    /// None, until there is a context.
    pub(super) fn none() -> Staging {
        Staging { pieces: [Piece { memory: null_mut(), done: null_mut() }; 2], next: 0 }
    }

    /// Takes the memory, in the current context, with which it goes.
    pub(super) fn new() -> Result<Staging, DriverError> {
        let mut staging = Staging::none();
        for piece in &mut staging.pieces {
            let mut memory = null_mut();
            // SAFETY: the place is ours.
            check("cuMemAllocHost", unsafe { abi::cuMemAllocHost_v2(&mut memory, BYTES) })?;
            piece.memory = memory.cast();
            let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
            // SAFETY: as above.
            check("cuEventCreate", unsafe { abi::cuEventCreate(&mut piece.done, flags) })?;
        }
        Ok(staging)
    }

    /// The piece that is used next, once its last copy is over.
    fn take(&mut self) -> Result<Piece, DriverError> {
        let piece = self.pieces[self.next];
        self.next = 1 - self.next;
        piece.wait()?;
        Ok(piece)
    }

    /// Copies bytes to the device; the last of them may be under way when it returns.
    pub(super) fn upload(&mut self, stream: sys::CUstream, to: u64, bytes: &[u8]) -> Result<(), DriverError> {
        let mut at = to;
        for bytes in bytes.chunks(BYTES) {
            let piece = self.take()?;
            // SAFETY: the piece has `BYTES` bytes, no copy from or to it is under way, and nothing else refers to it.
            copy(bytes, unsafe { std::slice::from_raw_parts_mut(piece.memory, bytes.len()) });
            let memory = piece.memory.cast::<c_void>();
            // SAFETY: the piece stays and is left alone until the event says that it was read; the caller's range of the
            // device is inside what was allocated.
            let result = unsafe { abi::cuMemcpyHtoDAsync_v2(at, memory, bytes.len(), stream) };
            check("cuMemcpyHtoDAsync", result)?;
            piece.record(stream)?;
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Copies bytes from the device, once everything before on the stream is done.
    pub(super) fn download(&mut self, stream: sys::CUstream, from: u64, bytes: &mut [u8]) -> Result<(), DriverError> {
        let mut arriving: Option<Arriving> = None;
        for first in (0..bytes.len()).step_by(BYTES) {
            let n = BYTES.min(bytes.len() - first);
            let piece = self.take()?;
            // SAFETY: the piece stays and is left alone until the event says that it was written; the caller's range of the
            // device is inside what was allocated.
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
        // SAFETY: an event and a stream of the current context.
        check("cuEventRecord", unsafe { abi::cuEventRecord(self.done, stream) })
    }

    /// Returns when its last copy is over; at once where there was none.
    fn wait(self) -> Result<(), DriverError> {
        // SAFETY: an event of the current context.
        check("cuEventSynchronize", unsafe { abi::cuEventSynchronize(self.done) })
    }
}

impl Arriving {
    fn finish(self, bytes: &mut [u8]) -> Result<(), DriverError> {
        let Arriving(piece, first, n) = self;
        piece.wait()?;
        // SAFETY: the copy into the piece is over, and no other one was begun.
        copy(unsafe { std::slice::from_raw_parts(piece.memory, n) }, &mut bytes[first..first + n]);
        Ok(())
    }
}

/// Copies bytes, by several threads where they are many.
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
