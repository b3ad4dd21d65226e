//! Arithmetic: single-instruction approximations, f64, and bf16 pairs. Denormal f32 are flushed to zero.

use super::Builder;
use super::asm::Effect;
use crate::cpu::builder::{Num, Value};

/// Single instructions on f32 scalars; errors are taken from the PTX manual.
impl Builder<'_> {
    /// 2ˣ to 2 ulp: 2⁻²² relative.
    #[track_caller]
    pub fn exp2(&self, x: Value) -> Value {
        self.intrinsic("llvm.nvvm.ex2.approx.ftz.f", &[x], Num::F32)
    }

    /// log₂ x to 2⁻²² absolute near 1, relative elsewhere.
    #[track_caller]
    pub fn log2(&self, x: Value) -> Value {
        self.intrinsic("llvm.nvvm.lg2.approx.ftz.f", &[x], Num::F32)
    }

    /// 1/x to 1 ulp.
    #[track_caller]
    pub fn reciprocal(&self, x: Value) -> Value {
        self.intrinsic("llvm.nvvm.rcp.approx.ftz.f", &[x], Num::F32)
    }

    /// 1/√x to 2⁻²² relative.
    #[track_caller]
    pub fn rsqrt(&self, x: Value) -> Value {
        self.intrinsic("llvm.nvvm.rsqrt.approx.ftz.f", &[x], Num::F32)
    }

    /// The maximum of two f32; the other one if one is NaN.
    #[track_caller]
    pub fn greater(&self, x: Value, y: Value) -> Value {
        self.intrinsic("llvm.nvvm.fmax.ftz.f", &[x, y], Num::F32)
    }

    /// The minimum of two f32; the other one if one is NaN.
    #[track_caller]
    pub fn lesser(&self, x: Value, y: Value) -> Value {
        self.intrinsic("llvm.nvvm.fmin.ftz.f", &[x, y], Num::F32)
    }
}

/// f64.
impl Builder<'_> {
    /// eˣ to 2⁻⁵¹ relative, for x ≤ 0; 0 below −700, where the result is below 10⁻³⁰⁴.
    #[track_caller]
    pub fn exp_f64(&self, x: Value) -> Value {
        use std::f64::consts::{LN_2, LOG2_E};
        // ln 2 in two parts. The last 21 bits of the first are zero, so n · LN_2_HIGH is exact.
        const LN_2_HIGH: f64 = f64::from_bits(LN_2.to_bits() >> 21 << 21);
        const LN_2_LOW: f64 = LN_2 - LN_2_HIGH + 2.319_046_813_846_299_6e-17;
        // Adding 1.5 · 2⁵² leaves the nearest integer in the low bits.
        let shifter = self.f64(6_755_399_441_055_744.0);
        let shifted = x.mul_add(self.f64(LOG2_E), shifter);
        let n = shifted - shifter;
        let r = n.mul_add(self.f64(-LN_2_HIGH), x);
        let r = n.mul_add(self.f64(-LN_2_LOW), r);
        let term = |k: u32| self.f64(1.0 / (1..=k).map(f64::from).product::<f64>());
        let sum = (0..13).rev().fold(term(13), |sum, k| sum.mul_add(r, term(k)));
        let exponent = (shifted.bitcast(Num::I64) << 52) + (1023_i64 << 52);
        let y = sum * exponent.bitcast(Num::F64);
        x.ge(self.f64(-700.0)).select(y, self.f64(0.0))
    }
}

/// Division of non-negative i32.
impl Builder<'_> {
    /// ⌊x / y⌋.
    #[track_caller]
    pub fn div_unsigned(&self, x: Value, y: u32) -> Value {
        self.op1("arith.divui", &[x, self.i32(y as i32)], x.ty, &[])
    }

    /// x mod y.
    #[track_caller]
    pub fn rem_unsigned(&self, x: Value, y: u32) -> Value {
        self.op1("arith.remui", &[x, self.i32(y as i32)], x.ty, &[])
    }
}

/// Composed functions.
impl Builder<'_> {
    /// eˣ.
    #[track_caller]
    pub fn exp(&self, x: Value) -> Value {
        self.exp2(x * std::f32::consts::LOG2_E)
    }

    /// x / (1 + e⁻ˣ). If e⁻ˣ overflows, the quotient is −0, which is the correct limit.
    #[track_caller]
    pub fn silu(&self, x: Value) -> Value {
        let decay = self.exp2(x * (-std::f32::consts::LOG2_E));
        x * self.reciprocal(decay + 1.0)
    }

    /// log(1 + eˣ) to 2⁻¹⁹ relative, as max(x, 0) + log(1 + e), e = e^−|x|. The log instruction has only an absolute error
    /// bound near 1, so a series is used below e = 2⁻⁴.
    #[track_caller]
    pub fn softplus(&self, x: Value) -> Value {
        let e = self.exp2(x.abs() * (-std::f32::consts::LOG2_E));
        let log = self.log2(e + 1.0) * std::f32::consts::LN_2;
        // 1 − e/2 + e²/3 − e³/4 + e⁴/5.
        let terms = [-1.0 / 4.0, 1.0 / 3.0, -1.0 / 2.0, 1.0].map(|term| self.f32(term));
        let series = terms.into_iter().fold(self.f32(1.0 / 5.0), |sum, term| sum.mul_add(e, term));
        let is_small = e.lt(1.0 / 16.0);
        self.greater(x, self.f32(0.0)) + is_small.select(series * e, log)
    }
}

/// bf16 pairs, packed in an i32 with the first in the low half.
impl Builder<'_> {
    /// Two f32 rounded to bf16, ties to even.
    #[track_caller]
    pub fn pack_bf16(&self, low: Value, high: Value) -> Value {
        self.asm1(Effect::Pure, "cvt.rn.bf16x2.f32 $0, $1, $2;", &[high, low], Num::I32)
    }

    /// Two bf16 as f32, exactly.
    #[track_caller]
    pub fn unpack_bf16(&self, pair: Value) -> [Value; 2] {
        let high = pair & 0xffff_0000_u32 as i32;
        [pair << 16, high].map(|bits| bits.bitcast(Num::F32))
    }

    /// One f32 rounded to bf16, ties to even.
    #[track_caller]
    pub fn round_bf16(&self, x: Value) -> Value {
        self.asm1(Effect::Pure, "cvt.rn.bf16.f32 $0, $1;", &[x], Num::Bf16)
    }
}
