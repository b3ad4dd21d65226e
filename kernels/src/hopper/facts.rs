//! Facts of the target: compute capability 9.0, and the H100 SXM and H200 built from it. These numbers appear nowhere else.
//!
//! Source: CUDA C++ Programming Guide, "Compute Capability 9.x" and its table of technical specifications; NVIDIA H100 Tensor
//! Core GPU Architecture, for the number of SMs.

/// Streaming multiprocessors of an H100 SXM and of an H200. Tiles and splits are chosen for this number; results do not
/// depend on it.
pub const N_SMS: usize = 132;

/// Threads of a warp.
pub const WARP: u32 = 32;

/// Threads of a warpgroup, which executes wgmma and setmaxnreg together.
pub const WARPGROUP: u32 = 4 * WARP;

/// Threads of a block at most.
pub const MAX_THREADS: u32 = 1024;

/// 32-bit registers of an SM.
pub const REGISTERS: u32 = 64 * 1024;

/// Registers of a thread at most.
pub const MAX_REGISTERS: u32 = 255;

/// Registers of a thread come in multiples of this.
pub const REGISTER_UNIT: u32 = 8;

/// Bytes of shared memory of an SM that blocks share.
pub const SHARED_PER_SM: usize = 228 * 1024;

/// Bytes of shared memory that the system reserves for each block.
pub const SHARED_RESERVED: usize = 1024;

/// Bytes of shared memory that each of `n` resident blocks of an SM may use.
pub const fn shared_bytes(n: u32) -> usize {
    SHARED_PER_SM / n as usize - SHARED_RESERVED
}

/// Bytes of shared memory that a block may use: 227 KiB.
pub const SHARED_BYTES: usize = shared_bytes(1);

/// Bytes of a cache line, of a row across all banks of shared memory, and of a row of the 128-byte swizzle.
pub const LINE_BYTES: usize = 128;

/// Rows after which the 128-byte swizzle repeats.
pub const SWIZZLE_ROWS: usize = 8;

/// Bytes after which the 128-byte swizzle repeats. Swizzled matrices begin at a multiple of this.
pub const SWIZZLE_BYTES: usize = SWIZZLE_ROWS * LINE_BYTES;

/// Bytes of the widest access of a thread.
pub const VECTOR_BYTES: usize = 16;

/// Bytes of an mbarrier.
pub const MBARRIER_BYTES: usize = 8;

/// Named barriers of a block. Number 0 is the barrier of the whole block.
pub const NAMED_BARRIERS: u32 = 16;

/// Registers of a thread after setmaxnreg, in a block of one warpgroup that copies and two that multiply.
pub const PRODUCER_REGISTERS: u32 = 40;

/// Registers of a thread that multiplies, in such a block.
pub const CONSUMER_REGISTERS: u32 = 232;

const _: () = {
    assert!(WARPGROUP * (PRODUCER_REGISTERS + 2 * CONSUMER_REGISTERS) <= REGISTERS);
    assert!(PRODUCER_REGISTERS.is_multiple_of(REGISTER_UNIT) && CONSUMER_REGISTERS.is_multiple_of(REGISTER_UNIT));
    assert!(CONSUMER_REGISTERS <= MAX_REGISTERS);
};
