//! Tensor maps: a matrix in global memory and the shape of the boxes that are copied to shared memory.

use jamba_plan::format::{self, Arg, Elem, TensorElem};

use super::row_stride;

pub use jamba_plan::format::Swizzle;

/// A row-major matrix for the copy engine. Elements beyond the last row or column read as zero. The number of rows and the
/// address come from the buffer or weight that is bound to the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Element type; i8 is copied as bytes.
    pub elem: Elem,
    /// Number of columns.
    pub cols: usize,
    /// Rows of a box; at most 256.
    pub box_rows: usize,
    /// Columns of a box; at most 256, and at most 128 bytes if the box is swizzled.
    pub box_cols: usize,
    /// Layout of a box in shared memory.
    pub swizzle: Swizzle,
}

impl TensorMap {
    /// The element type in a plan. Copies depend only on its size.
    pub fn tensor_elem(&self) -> TensorElem {
        match self.elem {
            Elem::F32 => TensorElem::F32,
            Elem::I32 => TensorElem::I32,
            Elem::Bf16 | Elem::F16 => TensorElem::Bf16,
            Elem::I8 | Elem::I4 | Elem::I3 | Elem::F8 => TensorElem::I8,
        }
    }

    /// The map without its matrix, as a plan states it in a kernel's operands.
    pub fn boxes(&self) -> format::MatrixBoxes {
        format::MatrixBoxes {
            elem: self.tensor_elem(),
            cols: self.cols as u64,
            row_stride: self.row_bytes() as u64,
            box_rows: self.box_rows as u32,
            box_cols: self.box_cols as u32,
            swizzle: self.swizzle,
        }
    }

    /// The plan's tensor map of all rows of the matrix at `base`, `bytes` long.
    pub fn of(&self, base: Arg, bytes: u64) -> format::TensorMap {
        let row_stride = self.row_bytes() as u64;
        format::TensorMap {
            base,
            elem: self.tensor_elem(),
            rows: bytes / row_stride,
            cols: self.cols as u64,
            row_stride,
            box_rows: self.box_rows as u32,
            box_cols: self.box_cols as u32,
            swizzle: self.swizzle,
        }
    }

    /// Row stride in bytes.
    pub fn row_bytes(&self) -> usize {
        row_stride(self.elem, self.cols) * self.elem.bits() / 8
    }

    /// Bytes written to shared memory per box, including zeros.
    pub fn box_bytes(&self) -> usize {
        self.box_rows * self.box_cols * self.elem.bits() / 8
    }
}
