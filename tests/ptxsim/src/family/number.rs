//! Element types of matrices, as f32: products of two are exact there.

use half::{bf16, f16};

/// An element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    Bf16,
    F16,
    E4m3,
    E5m2,
    S8,
    U8,
}

impl Number {
    pub fn named(name: &str) -> Option<Number> {
        Some(match name {
            "bf16" => Number::Bf16,
            "f16" => Number::F16,
            "e4m3" => Number::E4m3,
            "e5m2" => Number::E5m2,
            "s8" => Number::S8,
            "u8" => Number::U8,
            _ => return None,
        })
    }

    pub fn bytes(self) -> usize {
        match self {
            Number::Bf16 | Number::F16 => 2,
            _ => 1,
        }
    }

    pub fn is_integer(self) -> bool {
        matches!(self, Number::S8 | Number::U8)
    }

    /// The `i`th element of a word.
    #[inline]
    pub fn of_word(self, word: u32, i: usize) -> f32 {
        match self {
            Number::Bf16 => f32::from_bits(if i == 0 { word << 16 } else { word & 0xffff_0000 }),
            Number::F16 => f16::from_bits((word >> (16 * i)) as u16).to_f32(),
            Number::E4m3 => e4m3((word >> (8 * i)) as u8),
            Number::E5m2 => f16::from_bits(((word >> (8 * i)) as u8 as u16) << 8).to_f32(),
            Number::S8 => f32::from((word >> (8 * i)) as i8),
            Number::U8 => f32::from((word >> (8 * i)) as u8),
        }
    }
}

/// Four bits of exponent, three of mantissa, no infinities.
pub(crate) fn e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The nearest bf16, in integers.
#[inline]
pub(crate) fn brain(bits: u32) -> u32 {
    let nan = bits & 0x7fff_ffff > 0x7f80_0000;
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if nan { 0x7fff } else { rounded }
}

/// A bf16 from an f64, rounded once.
pub(crate) fn brain64(x: f64) -> u16 {
    if x.is_nan() { 0x7fff } else { bf16::from_f64(x).to_bits() }
}
