//! Hardware facts for compute capability 9.0 and for the H100 SXM and H200. These numbers appear nowhere else.
//!
//! Sources: CUDA C++ Programming Guide, "Compute Capability 9.x" and its table of technical specifications; NVIDIA H100
//! Tensor Core GPU Architecture (number of SMs).

/// Streaming multiprocessors of an H100 SXM and an H200. Tiles and splits are chosen for this number; results do not depend
/// on it.
pub const N_SMS: usize = 132;

/// Threads per warp.
pub const WARP: u32 = 32;

/// Threads per warpgroup, the unit that executes wgmma and setmaxnreg.
pub const WARPGROUP: u32 = 4 * WARP;

/// Maximum threads per block.
pub const MAX_THREADS: u32 = 1024;

/// 32-bit registers per SM.
pub const REGISTERS: u32 = 64 * 1024;

/// Maximum registers per thread.
pub const MAX_REGISTERS: u32 = 255;

/// Allocation granularity of registers per thread.
pub const REGISTER_UNIT: u32 = 8;

/// Bytes of shared memory per SM, shared by its resident blocks.
pub const SHARED_PER_SM: usize = 228 * 1024;

/// Bytes of shared memory reserved by the system per block.
pub const SHARED_RESERVED: usize = 1024;

/// Bytes of shared memory available to each of `n` resident blocks of an SM.
pub const fn shared_bytes(n: u32) -> usize {
    SHARED_PER_SM / n as usize - SHARED_RESERVED
}

/// Bytes of shared memory available to a block: 227 KiB.
pub const SHARED_BYTES: usize = shared_bytes(1);

/// Bytes of a cache line, of one row across all shared memory banks, and of a row of the 128-byte swizzle.
pub const LINE_BYTES: usize = 128;

/// Period of the 128-byte swizzle in rows.
pub const SWIZZLE_ROWS: usize = 8;

/// Period of the 128-byte swizzle in bytes. Swizzled matrices are aligned to it.
pub const SWIZZLE_BYTES: usize = SWIZZLE_ROWS * LINE_BYTES;

/// Bytes of the widest access by one thread.
pub const VECTOR_BYTES: usize = 16;

pub const MBARRIER_BYTES: usize = 8;

/// Named barriers per block. Number 0 is the barrier of the whole block.
pub const NAMED_BARRIERS: u32 = 16;

/// Registers per producer thread after setmaxnreg, in a block with one producer and two consumer warpgroups.
pub const PRODUCER_REGISTERS: u32 = 40;

/// Registers per consumer thread in such a block.
pub const CONSUMER_REGISTERS: u32 = 232;

const _: () = {
    assert!(WARPGROUP * (PRODUCER_REGISTERS + 2 * CONSUMER_REGISTERS) <= REGISTERS);
    assert!(PRODUCER_REGISTERS.is_multiple_of(REGISTER_UNIT) && CONSUMER_REGISTERS.is_multiple_of(REGISTER_UNIT));
    assert!(CONSUMER_REGISTERS <= MAX_REGISTERS);
};
