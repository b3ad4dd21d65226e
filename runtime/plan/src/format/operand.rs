//! What a kernel takes in each slot of its argument array. The catalog states it for the compiler; the plan repeats it beside
//! the code, so that the arguments of every step can be checked where the plan is opened.

use serde::{Deserialize, Serialize};

use super::{Count, Layout, PartOrder, Rows, Swizzle, Table, TensorElem, Transform, Weight, WeightFormat};

/// Element type of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Elem {
    /// binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// binary16.
    F16,
    /// 32-bit signed integer.
    I32,
    /// Integer weights, −128 … 127, with one scale per output.
    I8,
    /// Integer weights, −8 … 7, two per byte, with one scale per output and group of inputs.
    I4,
    /// E4M3 weights, with one scale per output and 128 inputs.
    F8,
    /// Integer weights, −4 … 3, with one scale per output and group of inputs.
    I3,
}

impl From<WeightFormat> for Elem {
    fn from(format: WeightFormat) -> Elem {
        match format {
            WeightFormat::F32 => Elem::F32,
            WeightFormat::Bf16 => Elem::Bf16,
            WeightFormat::F16 => Elem::F16,
            WeightFormat::Int8 => Elem::I8,
            WeightFormat::Int4 => Elem::I4,
            WeightFormat::Fp8 => Elem::F8,
            WeightFormat::Int3 => Elem::I3,
        }
    }
}

impl Elem {
    /// Size in bits.
    pub fn bits(self) -> usize {
        match self {
            Elem::F32 | Elem::I32 => 32,
            Elem::Bf16 | Elem::F16 => 16,
            Elem::I8 | Elem::F8 => 8,
            Elem::I4 => 4,
            Elem::I3 => 3,
        }
    }

    /// Size in bytes.
    ///
    /// # Panics
    /// For types smaller than a byte.
    #[track_caller]
    pub fn bytes(self) -> usize {
        assert!(self.bits().is_multiple_of(8), "{} is smaller than a byte", self.name());
        self.bits() / 8
    }

    /// The name in symbols.
    pub fn name(self) -> &'static str {
        match self {
            Elem::F32 => "f32",
            Elem::Bf16 => "bf16",
            Elem::F16 => "f16",
            Elem::I32 => "i32",
            Elem::I8 => "i8",
            Elem::I4 => "i4",
            Elem::F8 => "f8",
            Elem::I3 => "i3",
        }
    }

    /// The weight format with this element type; `None` for i32, which stores no weights.
    pub fn weight_format(self) -> Option<WeightFormat> {
        match self {
            Elem::F32 => Some(WeightFormat::F32),
            Elem::Bf16 => Some(WeightFormat::Bf16),
            Elem::F16 => Some(WeightFormat::F16),
            Elem::I8 => Some(WeightFormat::Int8),
            Elem::I4 => Some(WeightFormat::Int4),
            Elem::F8 => Some(WeightFormat::Fp8),
            Elem::I3 => Some(WeightFormat::Int3),
            Elem::I32 => None,
        }
    }
}

/// How a kernel uses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes every element that later steps read, and reads none.
    Write,
    /// As `Write`, and may alias an operand of the same shape: each element is read and then written by the same thread.
    WriteOver,
    /// Reads and writes it: state.
    ReadWrite,
}

/// A dimension of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Per {
    /// The rows that the step works on: tokens or wanted outputs, times the step's factor.
    Row,
    /// Tokens of all sequences.
    Token,
    /// Sequences.
    Sequence,
    /// Rows of logits.
    Output,
}

impl Per {
    /// The dimension times `factor` as a count and a factor, in a step with these rows; `None` on overflow.
    pub fn count(self, factor: u32, rows: Rows) -> Option<(Count, u32)> {
        Some(match self {
            Per::Row => (rows.count, factor.checked_mul(rows.per)?),
            Per::Token => (Count::Tokens, factor),
            Per::Sequence => (Count::Sequences, factor),
            Per::Output => (Count::Outputs, factor),
        })
    }
}

/// The bytes of a value: `fixed + factor · n` rows of `row` elements, where n is the size of the dimension `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Element type.
    pub elem: Elem,
    /// Elements from one row to the next.
    pub row: u64,
    /// Rows of every step.
    pub fixed: u64,
    /// Rows for each one of `per`.
    pub factor: u64,
    /// The dimension that the extent scales with.
    pub per: Per,
}

impl Shape {
    /// Bytes from one row to the next; `None` on overflow, and for rows that end inside a byte.
    pub fn row_bytes(&self) -> Option<u64> {
        let bits = self.row.checked_mul(self.elem.bits() as u64)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Total bytes where the dimension `per` has this size; `None` on overflow.
    pub fn bytes(&self, size: u64) -> Option<u64> {
        self.factor.checked_mul(size)?.checked_add(self.fixed)?.checked_mul(self.row_bytes()?)
    }
}

/// One slot of a kernel's argument array.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Operand {
    /// The address of a value in the arena.
    Value(Access, Shape),
    /// The address of a packed weight.
    Weight(WeightShape),
    /// The address of the scales of the integer weight in the nearest slot before this one.
    Scales,
    /// The address of a step table.
    Table(Table),
    /// The address of a state in slot 0: this many elements in each slot, read and written.
    State(Elem, u64),
    /// The address of keys or values in page 0: this many elements in each page.
    Kv(Access, Elem, u64),
    /// Elements of this type from one state slot to the next.
    SlotStride(Elem),
    /// Elements of this type from one KV page to the next.
    PageStride(Elem),
    /// Entries of a sequence in the page table.
    PagesPerSequence,
    /// The size of a dimension, times a factor. On a GPU the argument is the address of a word that holds it.
    Count(Per, u32),
    /// This integer.
    Constant(u64),
    /// The address of a tensor map, of all rows of a matrix.
    Matrix(MatrixBoxes, Matrix),
}

/// What a tensor map describes. (Not an [`Operand`], since a record that contains itself could nest without end.)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Matrix {
    /// A packed weight.
    Weight(WeightShape),
    /// A value in the arena, which the kernel reads.
    Value(Shape),
}

/// The weight that a kernel reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightShape {
    /// Stored element type.
    pub format: WeightFormat,
    /// Order of the elements.
    pub layout: Layout,
    /// Rows of each part.
    pub parts: Vec<u64>,
    /// Order of the parts.
    pub order: PartOrder,
    /// Applied to the values before they are rounded.
    pub transform: Transform,
}

impl WeightShape {
    /// What a kernel states that reads this weight.
    pub fn of(weight: &Weight) -> WeightShape {
        WeightShape {
            format: weight.format,
            layout: weight.layout,
            parts: weight.parts.iter().map(|part| part.rows).collect(),
            order: weight.order,
            transform: weight.transform,
        }
    }
}

/// The boxes in which a kernel copies a matrix. [`super::TensorMap`] has the same fields for one matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatrixBoxes {
    /// Element type of the copies.
    pub elem: TensorElem,
    /// Number of columns of the matrix.
    pub cols: u64,
    /// Distance between rows in bytes.
    pub row_stride: u64,
    /// Rows of a box.
    pub box_rows: u32,
    /// Columns of a box.
    pub box_cols: u32,
    /// Layout of a box in shared memory.
    pub swizzle: Swizzle,
}
