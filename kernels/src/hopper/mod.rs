//! Kernels for sm_90a (Hopper): the code and memory layouts that they share, and the builder of their bodies.
//!
//! Rules for all Hopper kernels:
//! - activations are rows of [`row_stride`] elements; lanes beyond the last column are unspecified, may be NaN, and never
//!   reach a result. i32 tables are dense. Every buffer is 128-byte aligned;
//! - a kernel is a PTX entry named by its symbol, with one parameter per slot: the address of a buffer, an integer or the
//!   address of a count (i64) as `.u64`, or a tensor map by value. A tensor map in global memory would need a fence in every
//!   block: a launch orders it with nothing (PTX ISA, "Causality order");
//! - blocks without work return immediately;
//! - the terms and the order of each sum depend neither on the number of rows nor on their position, so results are
//!   bit-identical for any batch.

pub mod facts;
pub mod matmul;
pub(crate) mod operand;
mod tensor_map;
pub mod weight;

pub use facts::WARP;
pub use tensor_map::{Swizzle, TensorMap};

#[cfg(feature = "emit")]
pub mod asm;
#[cfg(feature = "emit")]
mod builder;
#[cfg(feature = "emit")]
pub(crate) mod fragment;
#[cfg(feature = "emit")]
mod math;
#[cfg(feature = "emit")]
mod memory;
#[cfg(feature = "emit")]
pub mod nvvm;
#[cfg(feature = "emit")]
pub(crate) mod ring;
#[cfg(feature = "emit")]
pub(crate) mod roles;
#[cfg(feature = "emit")]
pub(crate) mod rows;
#[cfg(feature = "emit")]
pub(crate) mod select;
#[cfg(feature = "emit")]
mod threads;
#[cfg(feature = "emit")]
pub(crate) mod work;

#[cfg(feature = "emit")]
pub use builder::{Builder, DYNAMIC_SHARED, ModuleBuilder, RESIDENT_BLOCKS, THREADS};

use jamba_plan::format::Elem;

use crate::kernel::Unsupported;
use facts::{LINE_BYTES, MAX_THREADS, VECTOR_BYTES};

/// Stride of rows with `cols` elements of an activation or a weight, in elements: whole lines of [`LINE_BYTES`].
pub fn row_stride(elem: Elem, cols: usize) -> usize {
    cols.next_multiple_of(LINE_BYTES * 8 / elem.bits())
}

/// Columns that a thread processes at once in row-wise kernels: 16 bytes of f32.
pub(crate) const COLUMNS: usize = 4;

/// Threads of a block that processes one row: two vectors of columns per thread, up to the maximum block size.
pub(crate) fn row_threads(cols: usize) -> u32 {
    (cols.div_ceil(2 * COLUMNS).next_multiple_of(WARP as usize) as u32).clamp(WARP, MAX_THREADS)
}

/// Maximum columns of a row that a block holds in registers: 16 in each of 1024 threads.
pub(crate) const MAX_ROW_COLUMNS: usize = 16 * MAX_THREADS as usize;

/// Whether a block can hold a row in registers.
pub(crate) fn check_row(cols: usize) -> Result<(), Unsupported> {
    match cols {
        ..=MAX_ROW_COLUMNS => Ok(()),
        cols => Err(Unsupported(format!("found rows of {cols} columns, expected at most {MAX_ROW_COLUMNS} on sm_90a"))),
    }
}

/// Threads per block to copy a `bytes`-long row in 16-byte chunks.
pub(crate) fn copy_threads(bytes: usize) -> u32 {
    (bytes.div_ceil(VECTOR_BYTES).next_multiple_of(WARP as usize) as u32).clamp(WARP, 256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole_lines() {
        assert_eq!(row_stride(Elem::F32, 1), 32);
        assert_eq!(row_stride(Elem::Bf16, 64), 64);
        assert_eq!(row_stride(Elem::Bf16, 65), 128);
        assert_eq!(row_stride(Elem::Bf16, 72), 128);
        assert_eq!(row_stride(Elem::I8, 128), 128);
        assert_eq!(row_stride(Elem::I8, 129), 256);
    }
}
