//! Lane-wise conversions between number types.

use super::scope::current;
use super::types::{Num, Value};
use super::value::op;

impl Value {
    /// To f32: exact from bf16, f16, i8 and i16; rounded to nearest from i32 and index.
    #[track_caller]
    pub fn to_f32(self) -> Value {
        let ty = self.ty.with(Num::F32);
        match self.ty.num {
            Num::F32 => self,
            Num::Bf16 => (op("arith.extui", &[self], ty.with(Num::I32)) << 16).bitcast(Num::F32),
            Num::F16 => {
                assert_f16();
                op("arith.extf", &[self], ty)
            }
            Num::I8 | Num::I16 | Num::I32 => op("arith.sitofp", &[self], ty),
            Num::Index => self.to_i32().to_f32(),
            Num::I1 | Num::I64 | Num::F64 | Num::Global | Num::Shared | Num::Map | Num::Address => {
                panic!("to_f32 of {}", self.ty)
            }
        }
    }

    /// E4M3 numbers in bytes, times 2⁻⁸, to f32: exact, subnormal numbers included. NaN becomes a number.
    #[track_caller]
    pub fn e4m3_to_f32(self) -> Value {
        assert_eq!(self.ty.num, Num::I8, "e4m3_to_f32");
        if current(|b| b.target()).has_f16c() {
            // A half has the same fields, with an exponent that is 8 larger for the same number.
            let fields = (self.to_i16() << 7) & -0x4001;
            return fields.bitcast(Num::F16).to_f32();
        }
        let fields = (self.to_i32() << 20) & (0x87f0_0000_u32 as i32);
        fields.bitcast(Num::F32) * 2f32.powi(112)
    }

    /// To f64, exact: from f32, and from i32 as unsigned.
    #[track_caller]
    pub fn to_f64(self) -> Value {
        let ty = self.ty.with(Num::F64);
        match self.ty.num {
            Num::F32 => op("arith.extf", &[self], ty),
            Num::I32 => op("arith.uitofp", &[self], ty),
            _ => panic!("to_f64 of {}", self.ty),
        }
    }

    /// f32 to bf16, ties to even; NaN stays NaN.
    #[track_caller]
    pub fn to_bf16(self) -> Value {
        assert_eq!(self.ty.num, Num::F32, "to_bf16");
        let bits = self.bitcast(Num::I32);
        let odd = (bits >> 16) & 1;
        let rounded = bits + (odd + 0x7fff);
        // Rounding can turn a NaN into infinity, so NaNs are made quiet instead.
        let quiet = bits | 0x0040_0000;
        let high = self.eq(self).select(rounded, quiet) >> 16;
        op("arith.trunci", &[high], self.ty.with(Num::Bf16))
    }

    /// f32 to f16, ties to even; requires F16C.
    #[track_caller]
    pub fn to_f16(self) -> Value {
        assert_eq!(self.ty.num, Num::F32, "to_f16");
        assert_f16();
        op("arith.truncf", &[self], self.ty.with(Num::F16))
    }

    /// To i32: f32 and f64 truncate towards zero (undefined outside i32's range), i8 and i16 are sign-extended, i1 becomes
    /// 0 or 1, i64 and index are truncated to the low 32 bits.
    #[track_caller]
    pub fn to_i32(self) -> Value {
        let ty = self.ty.with(Num::I32);
        match self.ty.num {
            Num::I32 => self,
            Num::F32 | Num::F64 => op("arith.fptosi", &[self], ty),
            Num::I8 | Num::I16 => op("arith.extsi", &[self], ty),
            Num::I1 => op("arith.extui", &[self], ty),
            Num::Index => op("arith.index_cast", &[self], ty),
            Num::I64 => op("arith.trunci", &[self], ty),
            Num::Bf16 | Num::F16 => panic!("to_i32 of {}: convert to f32 first", self.ty),
            Num::Global | Num::Shared | Num::Map | Num::Address => panic!("to_i32 of a {}", self.ty),
        }
    }

    /// To i16: i8 is sign-extended, i32 saturates to the nearest i16.
    #[track_caller]
    pub fn to_i16(self) -> Value {
        let ty = self.ty.with(Num::I16);
        match self.ty.num {
            Num::I16 => self,
            Num::I8 => op("arith.extsi", &[self], ty),
            Num::I32 => op("arith.trunci", &[self.min(i32::from(i16::MAX)).max(i32::from(i16::MIN))], ty),
            _ => panic!("to_i16 of {}", self.ty),
        }
    }

    /// The low 8 bits of an i16 or an i32.
    #[track_caller]
    pub fn to_i8(self) -> Value {
        assert!(matches!(self.ty.num, Num::I16 | Num::I32), "to_i8 of {}", self.ty);
        op("arith.trunci", &[self], self.ty.with(Num::I8))
    }

    /// To i64: from i32 and index, both non-negative.
    #[track_caller]
    pub fn to_i64(self) -> Value {
        let ty = self.ty.with(Num::I64);
        match self.ty.num {
            Num::I64 => self,
            Num::I32 => op("arith.extui", &[self], ty),
            Num::Index => op("arith.index_cast", &[self], ty),
            _ => panic!("to_i64 of {}", self.ty),
        }
    }

    /// To index, from a non-negative i32.
    #[track_caller]
    pub fn to_index(self) -> Value {
        match self.ty.num {
            Num::Index => self,
            Num::I32 => op("arith.index_cast", &[self], self.ty.with(Num::Index)),
            _ => panic!("to_index of {}", self.ty),
        }
    }

    /// Bitcast to another type of the same width; a vector keeps its number of lanes.
    #[track_caller]
    pub fn bitcast(self, num: Num) -> Value {
        assert!(self.ty.num.bytes() == num.bytes(), "bitcast of {} to {num}", self.ty);
        op("arith.bitcast", &[self], self.ty.with(num))
    }
}

#[track_caller]
fn assert_f16() {
    let target = current(|b| b.target());
    assert!(target.has_f16c(), "half precision needs F16C, which {target} lacks");
}
