//! Element types of matrices. Their products are exact in f32.

use half::f16;

use super::float::{Mode, Real, Scalar};

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

    /// Element `i` of a word.
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

/// Four bits of exponent, three bits of mantissa, no infinities.
pub(crate) fn e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

/// f8 with four bits of exponent.
#[derive(Debug, Clone, Copy)]
pub(super) struct E4m3(pub u8);

/// f8 with five bits of exponent.
#[derive(Debug, Clone, Copy)]
pub(super) struct E5m2(pub u8);

macro_rules! f8 {
    ($($t:ident: $wide:expr, $narrow:expr;)*) => {$(
        impl Scalar for $t {
            const MODIFIERS: &'static [&'static str] = &[];
            type Real = f64;

            fn wide(self, _: Mode) -> f64 {
                ($wide)(self.0)
            }

            fn narrow(value: f64, mode: Mode) -> $t {
                $t(($narrow)(value.clamped(mode)))
            }
        }
    )*};
}

f8! {
    E4m3: |bits| f64::from(e4m3(bits)), |x| to_fp8(x, 3, 7, 448.0);
    E5m2: |bits| f16::from_bits(u16::from(bits) << 8).to_f64(), |x| to_fp8(x, 2, 15, 57344.0);
}

/// Rounded to nearest even; values beyond `top` become `top`.
fn to_fp8(x: f64, mantissa_bits: i32, bias: i32, top: f64) -> u8 {
    if x.is_nan() {
        return 0x7f;
    }
    let sign = u8::from(x.is_sign_negative()) << 7;
    let magnitude = x.abs().min(top);
    if magnitude == 0.0 {
        return sign;
    }
    let exponent = (magnitude.log2().floor() as i32).max(1 - bias);
    let units = (magnitude / 2f64.powi(exponent - mantissa_bits)).round_ties_even() as i32;
    let one = 1 << mantissa_bits;
    let bits = if units < one { units } else { ((exponent + bias) << mantissa_bits) + units - one };
    sign | bits as u8
}
