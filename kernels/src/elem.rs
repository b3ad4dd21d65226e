//! Element types of the buffers that kernels read and write.

use jamba_plan::format::WeightFormat;

/// Element type of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
        }
    }

    /// Size in bytes. Panics for types smaller than a byte.
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
            Elem::I32 => None,
        }
    }
}
