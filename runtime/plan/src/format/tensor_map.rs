//! Matrices that a GPU's tensor copies move boxes of.

use serde::{Deserialize, Serialize};

use super::Arg;

/// Bytes of an encoded map in memory.
pub const TENSOR_MAP_BYTES: u64 = 128;

/// A matrix of rows, and the boxes of it that a kernel copies into shared memory; what is outside of it reads as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMap {
    /// Where it begins: an address in the arena or in the KV pool, or a weight.
    pub base: Arg,
    /// Element type.
    pub elem: TensorElem,
    /// Rows.
    pub rows: u64,
    /// Columns.
    pub cols: u64,
    /// Bytes from one row to the next; a multiple of 16.
    pub row_stride: u64,
    /// Rows of a box, at most 256.
    pub box_rows: u32,
    /// Columns of a box, at most 256.
    pub box_cols: u32,
    /// How a box lies in shared memory.
    pub swizzle: Swizzle,
}

/// Element type of a tensor copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TensorElem {
    /// binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// 32-bit signed integer.
    I32,
    /// 8-bit integer.
    I8,
}

impl TensorElem {
    /// Size in bytes.
    pub fn bytes(self) -> u64 {
        match self {
            TensorElem::F32 | TensorElem::I32 => 4,
            TensorElem::Bf16 => 2,
            TensorElem::I8 => 1,
        }
    }

    /// The name people use.
    pub fn name(self) -> &'static str {
        match self {
            TensorElem::F32 => "f32",
            TensorElem::Bf16 => "bf16",
            TensorElem::I32 => "i32",
            TensorElem::I8 => "i8",
        }
    }
}

/// How a box lies in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Swizzle {
    /// Row after row.
    None,
    /// 16-byte parts of a row of at most 128 bytes exchanged by its number: address bits 4 … 6 ^ bits 7 … 9.
    B128,
}
