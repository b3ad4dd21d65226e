//! Types in a kernel: numbers, scalars, vectors and buffers.

use crate::kernel::Elem;
use melior::Context;
use melior::dialect::llvm;
use melior::ir::r#type::IntegerType;
use std::fmt;

/// The type of one number in a kernel: the types of [`Elem`] and types that exist only in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Num {
    /// A position or a count: 64 bits; dividends and divisors are never negative.
    Index,
    /// A boolean; not in memory.
    I1,
    /// 8-bit signed integer.
    I8,
    /// 16-bit signed integer.
    I16,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// bfloat16, for loads, stores and conversion to f32; no arithmetic. Values are held as their 16 bits: LLVM would call
    /// a library to round to bf16, and AVX-512 BF16 rounds differently, so kernels round with integer arithmetic,
    /// identically on all targets.
    Bf16,
    /// IEEE half precision, for loads, stores and conversion to f32; no arithmetic; requires F16C.
    F16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision, for arithmetic in GPU kernels, in registers and shared memory.
    F64,
    /// An address in GPU global memory.
    Global,
    /// An address in a GPU block's shared memory.
    Shared,
    /// The generic address of a tensor map among a GPU kernel's parameters.
    Map,
    /// An address in a CPU's memory, for instructions that take one.
    Address,
}

impl Num {
    /// Bytes of one element in memory.
    pub fn bytes(self) -> usize {
        match self {
            Num::I1 | Num::I8 => 1,
            Num::I16 | Num::Bf16 | Num::F16 => 2,
            Num::I32 | Num::F32 | Num::Shared => 4,
            Num::Index | Num::I64 | Num::F64 | Num::Global | Num::Map | Num::Address => 8,
        }
    }

    pub(super) fn is_integer(self) -> bool {
        matches!(self, Num::Index | Num::I1 | Num::I8 | Num::I16 | Num::I32 | Num::I64)
    }

    /// Whether arithmetic on it is floating-point.
    pub(super) fn is_float(self) -> bool {
        matches!(self, Num::F32 | Num::F64)
    }

    pub(super) fn is_number(self) -> bool {
        self.is_integer() || self.is_float()
    }

    pub(crate) fn mlir(self, context: &Context) -> melior::ir::Type<'_> {
        match self {
            Num::Index => melior::ir::Type::index(context),
            Num::I1 => IntegerType::new(context, 1).into(),
            Num::I8 => IntegerType::new(context, 8).into(),
            Num::I16 | Num::Bf16 => IntegerType::new(context, 16).into(),
            Num::I32 => IntegerType::new(context, 32).into(),
            Num::I64 => IntegerType::new(context, 64).into(),
            Num::F16 => melior::ir::Type::float16(context),
            Num::F32 => melior::ir::Type::float32(context),
            Num::F64 => melior::ir::Type::float64(context),
            // Numbers of NVPTX's address spaces.
            Num::Global => llvm::r#type::pointer(context, 1),
            Num::Shared => llvm::r#type::pointer(context, 3),
            Num::Map | Num::Address => llvm::r#type::pointer(context, 0),
        }
    }
}

impl From<Elem> for Num {
    fn from(elem: Elem) -> Num {
        match elem {
            Elem::F32 => Num::F32,
            Elem::Bf16 => Num::Bf16,
            Elem::F16 => Num::F16,
            Elem::I32 => Num::I32,
            // Smaller integers and E4M3 numbers are read as bytes.
            Elem::I8 | Elem::I4 | Elem::I3 | Elem::F8 => Num::I8,
        }
    }
}

impl fmt::Display for Num {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Num::Index => "index",
            Num::I1 => "i1",
            Num::I8 => "i8",
            Num::I16 => "i16",
            Num::I32 => "i32",
            Num::I64 => "i64",
            Num::Bf16 => "bf16",
            Num::F16 => "f16",
            Num::F32 => "f32",
            Num::F64 => "f64",
            Num::Global => "global pointer",
            Num::Shared => "shared pointer",
            Num::Map => "tensor map",
            Num::Address => "address",
        })
    }
}

/// The type of a value: a scalar, or a vector of lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Type {
    /// Type of a lane.
    pub num: Num,
    /// Lanes of a vector; `None` for a scalar.
    pub lanes: Option<u32>,
}

impl Type {
    pub const fn scalar(num: Num) -> Self {
        Type { num, lanes: None }
    }

    /// A vector. Any number of lanes is legal; LLVM splits it into target registers.
    pub const fn vector(num: Num, lanes: usize) -> Self {
        Type { num, lanes: Some(lanes as u32) }
    }

    /// The same shape with another number type.
    pub const fn with(self, num: Num) -> Self {
        Type { num, lanes: self.lanes }
    }

    pub(crate) fn mlir(self, context: &Context) -> melior::ir::Type<'_> {
        match self.lanes {
            None => self.num.mlir(context),
            Some(lanes) => melior::ir::Type::vector(&[lanes.into()], self.num.mlir(context)),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lanes {
            None => write!(f, "{}", self.num),
            Some(lanes) => write!(f, "vector<{lanes}x{}>", self.num),
        }
    }
}

/// A value in a kernel under construction: a handle, valid only in the [`Builder`](super::Builder) that made it.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    pub(crate) id: u32,
    pub(crate) ty: Type,
}

impl Value {
    pub fn ty(self) -> Type {
        self.ty
    }

    /// Number of lanes; 1 for a scalar.
    pub fn lanes(self) -> usize {
        self.ty.lanes.unwrap_or(1) as usize
    }
}

/// A half-open range of indices or i32.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub start: Value,
    /// Exclusive.
    pub end: Value,
}

impl Range {
    /// `end - start`.
    #[track_caller]
    pub fn count(self) -> Value {
        self.end - self.start
    }
}

/// A row-major array in memory: a handle, valid only in the [`Builder`](super::Builder) that made it.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    pub(super) id: u32,
    pub(super) num: Num,
    pub(super) rank: u32,
}

impl Buffer {
    /// Element type.
    pub fn num(self) -> Num {
        self.num
    }
}

/// Leading extent of a view whose length is known only at run time. The value never reaches the code, which depends only on
/// the inner extents: they are the strides.
pub const UNBOUNDED: usize = 1 << 30;
