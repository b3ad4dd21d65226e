//! Matrices for the GPU's tensor copies.

use serde::{Deserialize, Serialize};

use super::{Arg, MatrixBoxes};

/// Size in bytes of an encoded map.
pub const TENSOR_MAP_BYTES: usize = 128;

/// Alignment in bytes of an encoded map among a kernel's parameters.
pub const TENSOR_MAP_ALIGN: usize = 64;

/// A row-major matrix, and the box of it that one copy transfers to shared memory. Elements outside the matrix read as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMap {
    /// Start of the matrix: an address in the arena or in the KV pool, or a weight.
    pub base: Arg,
    /// Element type.
    pub elem: TensorElem,
    /// Number of rows of the matrix.
    pub rows: u64,
    /// Number of columns of the matrix.
    pub cols: u64,
    /// Distance between rows in bytes; a multiple of 16.
    pub row_stride: u64,
    /// Rows of a box, at most 256.
    pub box_rows: u32,
    /// Columns of a box, at most 256.
    pub box_cols: u32,
    /// Layout of a box in shared memory.
    pub swizzle: Swizzle,
}

impl TensorMap {
    /// The matrix and the boxes without the address and the number of rows.
    pub fn boxes(&self) -> MatrixBoxes {
        let &TensorMap { elem, cols, row_stride, box_rows, box_cols, swizzle, .. } = self;
        MatrixBoxes { elem, cols, row_stride, box_rows, box_cols, swizzle }
    }
}

/// Element type of a tensor copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TensorElem {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// 32-bit signed integer.
    I32,
    /// 8-bit integer.
    I8,
}

impl TensorElem {
    /// Size of an element in bytes.
    pub fn bytes(self) -> u64 {
        match self {
            TensorElem::F32 | TensorElem::I32 => 4,
            TensorElem::Bf16 => 2,
            TensorElem::I8 => 1,
        }
    }

    /// The name in listings.
    pub fn name(self) -> &'static str {
        match self {
            TensorElem::F32 => "f32",
            TensorElem::Bf16 => "bf16",
            TensorElem::I32 => "i32",
            TensorElem::I8 => "i8",
        }
    }
}

/// Layout of a box in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Swizzle {
    /// Row-major, unswizzled.
    None,
    /// 128-byte swizzle: in rows of at most 128 bytes, address bits 4 … 6 are XORed with bits 7 … 9, which permutes the 16-byte
    /// chunks.
    B128,
}
