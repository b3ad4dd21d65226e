//! Floating-point arithmetic on f32, f64, f16, bf16 and pairs of the latter, rounded to nearest even.

use half::{bf16, f16};

use super::table::{Decoded, Row, one, rows, three, two};
use super::value::{Pair, Value};
use crate::decode::{Call, Decoder};

pub(super) const ROWS: &[Row] = rows! {
    optional <T as Float>::MODIFIERS;
    "add" [f32, f64, f16, bf16, Pair<f16>, Pair<bf16>] binary::<T>(|a, b| a + b);
    "sub" [f32, f64, f16, bf16, Pair<f16>, Pair<bf16>] binary::<T>(|a, b| a - b);
    "mul" [f32, f64, f16, bf16, Pair<f16>, Pair<bf16>] binary::<T>(|a, b| a * b);
    "div" [f32, f64] binary::<T>(|a, b| a / b);
    "fma" [f32] ternary::<T>(fused);
    "mad" [f32] ternary::<T>(fused);
    "fma" [f64] ternary::<T>(f64::mul_add);
    "mad" [f64] ternary::<T>(f64::mul_add);
    // The product of two halves is exact in f64, and nearly all sums are.
    "fma" [f16, bf16, Pair<f16>, Pair<bf16>] ternary::<T>(|a, b, c| a * b + c);
    "min" [f32, f64, f16, bf16, Pair<f16>, Pair<bf16>] binary::<T>(minimum);
    "max" [f32, f64, f16, bf16, Pair<f16>, Pair<bf16>] binary::<T>(maximum);
    "min.NaN" [f32, f64, f16, bf16, Pair<f16>, Pair<bf16>] binary::<T>(|a, b| nan_or(a, b, minimum));
    "max.NaN" [f32, f64, f16, bf16, Pair<f16>, Pair<bf16>] binary::<T>(|a, b| nan_or(a, b, maximum));
    "copysign" [f32, f64] binary::<T>(|a, b| b.copysign(a));
    "neg" [f32, f64] unary::<T>(|a| -a);
    "abs" [f32, f64] unary::<T>(|a| a.abs());
    // On the bits: NaN keeps its payload.
    "neg" [f16, bf16] one(|a: T| T::of(a.word() ^ 0x8000));
    "abs" [f16, bf16] one(|a: T| T::of(a.word() & 0x7fff));
    "neg" [Pair<f16>, Pair<bf16>] one(|a: T| T::of(a.word() ^ 0x8000_8000));
    "abs" [Pair<f16>, Pair<bf16>] one(|a: T| T::of(a.word() & 0x7fff_7fff));
};

/// Modifiers that change operands and results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mode {
    /// Subnormal operands and results of f32 become zeros of their sign.
    pub ftz: bool,
    /// Results are clamped to [0, 1].
    pub sat: bool,
    /// Negative results become zero.
    pub relu: bool,
}

impl Mode {
    pub const PLAIN: Mode = Mode { ftz: false, sat: false, relu: false };
    const FTZ: Mode = Mode { ftz: true, ..Mode::PLAIN };

    pub fn of(call: &Call) -> Mode {
        Mode { ftz: call.has("ftz"), sat: call.has("sat"), relu: call.has("relu") }
    }
}

/// One floating-point number, and the type that its arithmetic is done in.
pub(super) trait Scalar: Value {
    const MODIFIERS: &'static [&'static str];
    /// Has `.ftz`.
    const FTZ: bool = false;
    type Real: Real;
    fn wide(self, mode: Mode) -> Self::Real;
    fn narrow(value: Self::Real, mode: Mode) -> Self;

    fn from_f64(value: f64, mode: Mode) -> Self {
        Self::narrow(Self::Real::from_f64(value), mode)
    }

    /// As [`Scalar::from_f64`] without modifiers.
    #[inline]
    fn nearest(value: f32) -> Self {
        Self::from_f64(value.into(), Mode::PLAIN)
    }
}

impl Scalar for f64 {
    const MODIFIERS: &'static [&'static str] = &["rn"];
    type Real = f64;

    #[inline]
    fn wide(self, _: Mode) -> f64 {
        self
    }

    #[inline]
    fn narrow(value: f64, mode: Mode) -> f64 {
        value.clamped(mode)
    }
}

impl Scalar for f32 {
    const MODIFIERS: &'static [&'static str] = &["rn", "ftz", "sat", "full", "approx"];
    const FTZ: bool = true;
    type Real = f32;

    #[inline]
    fn wide(self, mode: Mode) -> f32 {
        if mode.ftz { flush(self) } else { self }
    }

    #[inline]
    fn narrow(value: f32, mode: Mode) -> f32 {
        (if mode.ftz { flush(value) } else { value }).clamped(mode)
    }
}

macro_rules! halves {
    ($($t:ident: $nearest:expr;)*) => {$(
        impl Scalar for $t {
            const MODIFIERS: &'static [&'static str] = &["rn", "relu"];
            type Real = f64;

            #[inline]
            fn wide(self, _: Mode) -> f64 {
                self.to_f64()
            }

            #[inline]
            fn narrow(value: f64, mode: Mode) -> $t {
                let value = value.clamped(mode);
                if value.is_nan() { $t::from_bits(0x7fff) } else { $t::from_f64(value) }
            }

            #[inline]
            fn nearest(value: f32) -> $t {
                $nearest(value)
            }
        }
    )*};
}

halves! {
    f16: |x: f32| <f16 as Scalar>::from_f64(x.into(), Mode::PLAIN);
    bf16: nearest_bf16;
}

/// In integers, which is faster than by f64.
#[inline]
fn nearest_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    bf16::from_bits(if x.is_nan() { 0x7fff } else { rounded as u16 })
}

/// A scalar or a pair of scalars.
trait Float: Value {
    const MODIFIERS: &'static [&'static str];
    const FTZ: bool;
    type Real: Real;
    /// A function of up to three values, applied to each scalar.
    fn apply(of: (Self, Self, Self), mode: Mode, f: impl Fn(Self::Real, Self::Real, Self::Real) -> Self::Real) -> Self;
}

impl<T: Scalar> Float for T {
    const MODIFIERS: &'static [&'static str] = <T as Scalar>::MODIFIERS;
    const FTZ: bool = <T as Scalar>::FTZ;
    type Real = <T as Scalar>::Real;

    #[inline]
    fn apply((a, b, c): (T, T, T), mode: Mode, f: impl Fn(Self::Real, Self::Real, Self::Real) -> Self::Real) -> T {
        T::narrow(f(a.wide(mode), b.wide(mode), c.wide(mode)), mode)
    }
}

impl<T: Scalar<Word = u32>> Float for Pair<T>
where
    Pair<T>: Value<Word = u32>,
{
    const MODIFIERS: &'static [&'static str] = <T as Scalar>::MODIFIERS;
    const FTZ: bool = <T as Scalar>::FTZ;
    type Real = <T as Scalar>::Real;

    #[inline]
    fn apply(
        (a, b, c): (Self, Self, Self),
        mode: Mode,
        f: impl Fn(Self::Real, Self::Real, Self::Real) -> Self::Real,
    ) -> Self {
        Pair(T::apply((a.0, b.0, c.0), mode, &f), T::apply((a.1, b.1, c.1), mode, &f))
    }
}

fn unary<T: Float>(
    f: impl Fn(T::Real) -> T::Real + Send + Sync + 'static,
) -> impl FnOnce(&mut Decoder, &Call) -> Decoded {
    |d, call| {
        let mode = Mode::of(call);
        one(move |a: T| T::apply((a, a, a), mode, |a, _, _| f(a)))(d, call)
    }
}

fn binary<T: Float>(
    f: impl Fn(T::Real, T::Real) -> T::Real + Send + Sync + 'static,
) -> impl FnOnce(&mut Decoder, &Call) -> Decoded {
    |d, call| match Mode::of(call) {
        // Usual modes are constants: their loops have no branches.
        Mode::PLAIN => two(move |a: T, b: T| T::apply((a, b, b), Mode::PLAIN, |a, b, _| f(a, b)))(d, call),
        Mode::FTZ if T::FTZ => two(move |a: T, b: T| T::apply((a, b, b), Mode::FTZ, |a, b, _| f(a, b)))(d, call),
        mode => two(move |a: T, b: T| T::apply((a, b, b), mode, |a, b, _| f(a, b)))(d, call),
    }
}

fn ternary<T: Float>(
    f: impl Fn(T::Real, T::Real, T::Real) -> T::Real + Send + Sync + 'static,
) -> impl FnOnce(&mut Decoder, &Call) -> Decoded {
    |d, call| match Mode::of(call) {
        Mode::PLAIN => three(move |a: T, b: T, c: T| T::apply((a, b, c), Mode::PLAIN, &f))(d, call),
        Mode::FTZ if T::FTZ => three(move |a: T, b: T, c: T| T::apply((a, b, c), Mode::FTZ, &f))(d, call),
        mode => three(move |a: T, b: T, c: T| T::apply((a, b, c), mode, &f))(d, call),
    }
}

/// What the functions of the table need: implemented for f32 and f64.
pub(super) trait Real: Copy + PartialOrd + Into<f64> {
    const NAN: Self;
    const ZERO: Self;
    const ONE: Self;
    fn is_nan(self) -> bool;
    fn is_negative(self) -> bool;
    fn from_f64(value: f64) -> Self;

    #[inline]
    fn clamped(self, mode: Mode) -> Self {
        let value = if mode.relu && self <= Self::ZERO { Self::ZERO } else { self };
        match mode.sat {
            false => value,
            true if value > Self::ONE => Self::ONE,
            true if value > Self::ZERO => value,
            true => Self::ZERO,
        }
    }
}

macro_rules! real {
    ($($t:ident),*) => {$(
        impl Real for $t {
            const NAN: $t = $t::NAN;
            const ZERO: $t = 0.0;
            const ONE: $t = 1.0;

            #[inline]
            fn is_nan(self) -> bool {
                self.is_nan()
            }

            #[inline]
            fn is_negative(self) -> bool {
                self.is_sign_negative()
            }

            #[inline]
            fn from_f64(value: f64) -> $t {
                value as $t
            }
        }
    )*};
}

real!(f32, f64);

/// The operand that is a number; −0 is less than +0.
#[inline]
fn minimum<R: Real>(a: R, b: R) -> R {
    // Comparisons with NaN are false.
    if a < b || b.is_nan() || a == b && a.is_negative() { a } else { b }
}

#[inline]
fn maximum<R: Real>(a: R, b: R) -> R {
    if a > b || b.is_nan() || a == b && !a.is_negative() { a } else { b }
}

#[inline]
fn nan_or<R: Real>(a: R, b: R, f: impl Fn(R, R) -> R) -> R {
    if a.is_nan() || b.is_nan() { R::NAN } else { f(a, b) }
}

/// A subnormal becomes a zero of its sign.
#[inline]
pub(super) fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    let keep = if bits & 0x7f80_0000 == 0 { 0x8000_0000 } else { u32::MAX };
    f32::from_bits(bits & keep)
}

/// a·b + c, rounded once.
///
/// The product is exact in f64; the sum is rounded to odd there, so that rounding it again to f32 is right.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = p + c;
    let back = sum - p;
    let error = (p - (sum - back)) + (c - back);
    let bits = sum.to_bits() as i64;
    // Round to odd: if the sum is inexact and its last bit is 0, take the neighbor in the direction of the exact sum.
    let away = if (error > 0.0) == (sum > 0.0) { 1 } else { -1 };
    let inexact = error != 0.0 && error.is_finite() && bits & 1 == 0;
    f64::from_bits((bits + if inexact { away } else { 0 }) as u64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn fused_rounds_once() {
        let mut rng = Rng::new(1, 2);
        for _ in 0..200_000 {
            let mut draw = || f32::from_bits((rng.next() as u32 & 0x83ff_ffff) | (110 + rng.below(30) as u32) << 23);
            let (a, b, c) = (draw(), draw(), draw());
            assert_eq!(fused(a, b, c).to_bits(), a.mul_add(b, c).to_bits(), "{a} {b} {c}");
        }
        for (a, b, c) in [(f32::MAX, 2.0, f32::NEG_INFINITY), (1e-30, 1e-30, 1e-45), (0.0, -1.0, 0.0)] {
            assert_eq!(fused(a, b, c).to_bits(), a.mul_add(b, c).to_bits(), "{a} {b} {c}");
        }
        assert!(fused(f32::INFINITY, 0.0, 1.0).is_nan());
    }
}
