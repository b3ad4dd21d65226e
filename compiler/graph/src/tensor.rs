//! Element types and shapes of values.

use std::fmt;

/// Element type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16: the upper half of a binary32.
    Bf16,
    /// IEEE 754 binary16.
    F16,
    /// 8-bit signed integers with a scale per row: matrices that a checkpoint stores as integers. No op computes them.
    I8,
    /// 4-bit signed integers with a scale per 32 inputs of a row: matrices that a checkpoint stores so. No op computes them.
    I4,
    /// E4M3 numbers with scales of 128 inputs of a row, or of more: matrices that a checkpoint stores so. No op computes them.
    F8,
    /// 32-bit signed integer: token ids, expert indices, row numbers.
    I32,
}

impl DType {
    /// Every element type, in the order of the text form's documentation.
    pub const ALL: [DType; 7] = [DType::F32, DType::Bf16, DType::F16, DType::I8, DType::I4, DType::F8, DType::I32];

    /// Size of one element in bytes, rounded up.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::Bf16 | DType::F16 => 2,
            DType::I8 | DType::I4 | DType::F8 => 1,
        }
    }

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::I8 => "i8",
            DType::I4 => "i4",
            DType::F8 => "f8",
            DType::I32 => "i32",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A dimension whose size is known only when a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Symbol {
    /// Tokens of this step, all sequences together (a ragged batch, no padding).
    Tokens,
    /// Sequences of this step.
    Sequences,
    /// Rows of this step whose logits are computed.
    Outputs,
    /// Tokens of one sequence that its KV cache holds.
    Context,
}

impl Symbol {
    pub const ALL: [Symbol; 4] = [Symbol::Tokens, Symbol::Sequences, Symbol::Outputs, Symbol::Context];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Symbol::Tokens => "tokens",
            Symbol::Sequences => "sequences",
            Symbol::Outputs => "outputs",
            Symbol::Context => "context",
        }
    }
}

/// One dimension of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dim {
    /// Known when the graph is built.
    Fixed(usize),
    /// Known when a step runs.
    Symbol(Symbol),
}

impl Dim {
    /// The size, if it is fixed.
    pub fn fixed(self) -> Option<usize> {
        match self {
            Dim::Fixed(n) => Some(n),
            Dim::Symbol(_) => None,
        }
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::Fixed(n)
    }
}

impl From<Symbol> for Dim {
    fn from(symbol: Symbol) -> Dim {
        Dim::Symbol(symbol)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Symbol(symbol) => f.write_str(symbol.name()),
        }
    }
}

/// Element type and dimensions of a value, outermost dimension first; printed as `f32[tokens, 128]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Type {
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<Dim>,
}

impl Type {
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Type {
        Type { dtype, shape: shape.into_iter().map(Into::into).collect() }
    }

    /// `f32[rows, cols]`.
    pub fn rows(rows: impl Into<Dim>, cols: usize) -> Type {
        Type { dtype: DType::F32, shape: vec![rows.into(), Dim::Fixed(cols)] }
    }

    /// The innermost dimension, if it is fixed.
    pub fn cols(&self) -> Option<usize> {
        self.shape.last().and_then(|dim| dim.fixed())
    }

    /// Number of elements, if every dimension is fixed.
    pub fn elements(&self) -> Option<usize> {
        self.shape.iter().map(|dim| dim.fixed()).product()
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, dim) in self.shape.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}
