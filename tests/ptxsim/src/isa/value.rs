//! Types of a lane: how a value is kept in a register, and which PTX types name it.

use std::ops::{BitAnd, BitOr, Not};

use half::{bf16, f16};

use super::number::{E4m3, E5m2};
use crate::decode::Decoder;
use crate::fault::ParseError;
use crate::parse::{Operand, RegisterKind};
use crate::registers::{File, Halves, Registers, Slot};

/// The word of a register file: 32 or 64 bits.
pub(crate) trait Word:
    Copy + Default + BitAnd<Output = Self> + BitOr<Output = Self> + Not<Output = Self> + Send + Sync + 'static
{
    const KIND: RegisterKind;
    fn file(regs: &Registers) -> &File<Self>;
    fn file_mut(regs: &mut Registers) -> &mut File<Self>;
    fn source(d: &mut Decoder, operand: &Operand) -> Result<Slot, ParseError>;
    fn narrow(value: u64) -> Self;
    fn widen(self) -> u64;
}

impl Word for u32 {
    const KIND: RegisterKind = RegisterKind::Word;

    #[inline]
    fn file(regs: &Registers) -> &File<u32> {
        &regs.r
    }

    #[inline]
    fn file_mut(regs: &mut Registers) -> &mut File<u32> {
        &mut regs.r
    }

    fn source(d: &mut Decoder, operand: &Operand) -> Result<Slot, ParseError> {
        d.r(operand)
    }

    fn narrow(value: u64) -> u32 {
        value as u32
    }

    fn widen(self) -> u64 {
        self.into()
    }
}

impl Word for u64 {
    const KIND: RegisterKind = RegisterKind::Double;

    #[inline]
    fn file(regs: &Registers) -> &File<u64> {
        &regs.d
    }

    #[inline]
    fn file_mut(regs: &mut Registers) -> &mut File<u64> {
        &mut regs.d
    }

    fn source(d: &mut Decoder, operand: &Operand) -> Result<Slot, ParseError> {
        d.d(operand)
    }

    fn narrow(value: u64) -> u64 {
        value
    }

    fn widen(self) -> u64 {
        self
    }
}

/// The value of one lane. Values below 32 bits are zero-extended in their register.
pub(crate) trait Value: Copy + 'static {
    type Word: Word;
    const NAMES: &'static [&'static str];
    fn of(word: Self::Word) -> Self;
    fn word(self) -> Self::Word;

    /// Poison of a result computed from a source of this type.
    #[inline]
    fn poison(source: Halves) -> Halves {
        Halves::both(source.any())
    }
}

macro_rules! values {
    ($($type:ty: $word:ty, $names:expr, $of:expr, $to:expr;)*) => {$(
        impl Value for $type {
            type Word = $word;
            const NAMES: &'static [&'static str] = &$names;

            #[inline]
            fn of(word: $word) -> $type {
                ($of)(word)
            }

            #[inline]
            fn word(self) -> $word {
                ($to)(self)
            }

            #[inline]
            fn poison(source: Halves) -> Halves {
                // Values of 16 bits and less are the low half of their register.
                Halves::both(if size_of::<$type>() < 4 { source.low } else { source.any() })
            }
        }
    )*};
}

values! {
    u8: u32, ["u8", "b8"], |w| w as u8, u32::from;
    i8: u32, ["s8"], |w| w as i8, |v| u32::from(v as u8);
    u16: u32, ["u16", "b16"], |w| w as u16, u32::from;
    i16: u32, ["s16"], |w| w as i16, |v| u32::from(v as u16);
    u32: u32, ["u32", "b32"], |w| w, |v| v;
    i32: u32, ["s32"], |w| w as i32, |v| v as u32;
    u64: u64, ["u64", "b64"], |w| w, |v| v;
    i64: u64, ["s64"], |w| w as i64, |v| v as u64;
    f16: u32, ["f16"], |w| f16::from_bits(w as u16), |v: f16| u32::from(v.to_bits());
    bf16: u32, ["bf16"], |w| bf16::from_bits(w as u16), |v: bf16| u32::from(v.to_bits());
    f32: u32, ["f32"], f32::from_bits, f32::to_bits;
    f64: u64, ["f64"], f64::from_bits, f64::to_bits;
    E4m3: u32, ["e4m3"], |w| E4m3(w as u8), |v: E4m3| u32::from(v.0);
    E5m2: u32, ["e5m2"], |w| E5m2(w as u8), |v: E5m2| u32::from(v.0);
}

/// Two values in a register, the first in the low bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair<T>(pub T, pub T);

macro_rules! pairs {
    ($($type:ty: $name:literal;)*) => {$(
        impl Value for Pair<$type> {
            type Word = u32;
            const NAMES: &'static [&'static str] = &[$name];

            #[inline]
            fn of(word: u32) -> Self {
                Pair(Value::of(word), Value::of(word >> (8 * size_of::<$type>())))
            }

            #[inline]
            fn word(self) -> u32 {
                self.0.word() | self.1.word() << (8 * size_of::<$type>())
            }

            #[inline]
            fn poison(source: Halves) -> Halves {
                if size_of::<$type>() == 2 { source } else { Halves::both(source.low) }
            }
        }
    )*};
}

pairs! {
    f16: "f16x2";
    bf16: "bf16x2";
    E4m3: "e4m3x2";
    E5m2: "e5m2x2";
}
