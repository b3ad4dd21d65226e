//! Special functions, with an error of the documented size.
//!
//! | instruction | error (PTX ISA 8.0) |
//! |---|---|
//! | ex2, lg2 | 2⁻²² relative (lg2 between 0.5 and 2: absolute) |
//! | rcp, sqrt | 2⁻²³ relative |
//! | rsqrt | 2⁻²²·⁹ relative |
//! | tanh | 2⁻¹¹ relative |
//! | sin, cos | 2⁻²⁰·⁵ absolute |
//!
//! Each result is moved within that error by an amount that depends on the seed and the bits of the operand: the same operand
//! always gives the same result, as on the hardware. Zeros, infinities and NaN are exact.

use super::float::flush;
use super::table::{Decoded, Row, rows};
use crate::decode::{Call, Decoder};
use crate::parse::RegisterKind::Word;
use crate::registers::{Registers, map1};
use crate::rng::mix;

pub(super) const ROWS: &[Row<Effect>] = rows! {
    optional &["approx", "rn", "ftz"];
    "ex2" [f32] special(0, f64::exp2, exp2, |_| (bits(22), 0.0));
    "lg2" [f32] special(1, f64::log2, f64::log2, |x| if x > 0.5 && x < 2.0 { (0.0, bits(22)) } else { (bits(22), 0.0) });
    "rcp" [f32] special(2, f64::recip, f64::recip, |_| (bits(23), 0.0));
    "rsqrt" [f32] special(3, |x| 1.0 / x.sqrt(), |x| 1.0 / x.sqrt(), |_| (RSQRT, 0.0));
    "sqrt" [f32] special(4, f64::sqrt, f64::sqrt, |_| (bits(23), 0.0));
    "tanh" [f32] special(5, f64::tanh, f64::tanh, |_| (bits(11), 0.0));
    "sin" [f32] special(6, f64::sin, f64::sin, |_| (0.0, SINE));
    "cos" [f32] special(7, f64::cos, f64::cos, |_| (0.0, SINE));
};

/// As [`super::table::Effect`], with the error of the results.
pub(crate) type Effect = Box<dyn Fn(&mut Registers, u32, Error) + Send + Sync>;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Error {
    pub seed: u64,
    pub exact: bool,
}

/// A function: rounded from `exact`, or computed as `near` and moved within `bound`, a relative and an absolute error.
/// `salt` separates the draws of the functions.
fn special(
    salt: u64,
    exact: fn(f64) -> f64,
    near: impl Fn(f64) -> f64 + Send + Sync + 'static,
    bound: impl Fn(f64) -> (f64, f64) + Send + Sync + 'static,
) -> impl FnOnce(&mut Decoder, &Call) -> Decoded<Effect> {
    move |d, call| {
        let (ftz, rounded) = (call.has("ftz"), call.has("rn"));
        if !rounded && !call.has("approx") {
            return d.unknown();
        }
        d.count(call, 2..=2)?;
        let (a, to) = (d.r(&call.operands[1])?, d.target(&call.operands[0], Word)?);
        let flushed = move |x: f32| if ftz { flush(x) } else { x };
        Ok(Box::new(move |regs, mask, error| {
            let x = map1(regs.r.get(a), |bits| flushed(f32::from_bits(bits)));
            let out = if rounded || error.exact {
                map1(&x, |x| flushed(exact(f64::from(x)) as f32).to_bits())
            } else {
                map1(&x, |x| {
                    let y = near(f64::from(x));
                    if y == 0.0 || !y.is_finite() {
                        return flushed(y as f32).to_bits();
                    }
                    let (relative, absolute) = bound(f64::from(x));
                    // The draw is in [−1, 1). Rounding to f32 may add half a unit, which the bound leaves room for.
                    let draw = mix(error.seed ^ salt ^ u64::from(x.to_bits()) << 8) >> 11;
                    let draw = draw as f64 / (1u64 << 52) as f64 - 1.0;
                    let reach = absolute + (relative - HALF_UNIT) * y.abs();
                    flushed((y + draw * reach.max(0.0)) as f32).to_bits()
                })
            };
            regs.r.put(to, &out, regs.r.poison(a), mask);
        }))
    }
}

/// 2⁻²²·⁹
const RSQRT: f64 = 1.277_635e-7;
/// 2⁻²⁰·⁵
const SINE: f64 = 6.743_495e-7;

/// Half a unit in the last place of an f32, relative to the smallest mantissa.
const HALF_UNIT: f64 = bits(24);

/// 2ˣ with a relative error below 2⁻⁴¹, much less than the documented error: a Taylor series around the nearest integer.
#[inline]
fn exp2(x: f64) -> f64 {
    const LN_2: f64 = std::f64::consts::LN_2;
    let x = if x > 200.0 { 200.0 } else { x };
    let x = if x < -200.0 { -200.0 } else { x };
    // Adding 1.5 · 2⁵² leaves the nearest integer in the low bits. NaN stays NaN.
    let shifted = x + 6_755_399_441_055_744.0;
    let whole = shifted - 6_755_399_441_055_744.0;
    let r = (x - whole) * LN_2;
    let mut sum = 1.0 / 3_628_800.0;
    for factor in [1.0 / 362_880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        sum = sum * r + factor;
    }
    let sum = (sum * r + 1.0) * r + 1.0;
    let scale = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    let y = sum * scale;
    // Overflow and underflow of f32.
    if x == 200.0 {
        f64::INFINITY
    } else if x == -200.0 {
        0.0
    } else {
        y
    }
}

/// 2 to a negative power.
const fn bits(n: u32) -> f64 {
    1.0 / (1u64 << n) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Op;

    type Exact = fn(f64) -> f64;

    /// One instruction as a function.
    fn function(name: &str) -> impl Fn(f32, Error) -> f64 {
        let text =
            format!(".visible .entry k()\n{{\n.reg .f32 %x;\n.reg .f32 %y;\n{name}.approx.ftz.f32 %y, %x;\nret;\n}}\n");
        let program = crate::decode::decode(&text).expect("parses").remove("k").expect("an entry");
        move |x, error| {
            let Op::Special(effect) = &program.code[0].op else { panic!("{text}") };
            let mut regs = Registers::default();
            regs.reset(2, 0, 0);
            regs.r.fill(0, x.to_bits());
            effect(&mut regs, u32::MAX, error);
            f64::from(f32::from_bits(regs.r.get(1)[0]))
        }
    }

    #[test]
    fn the_series_is_near() {
        for i in -1_499_000..1_300_000 {
            let x = f64::from(i as f32 / 9999.0);
            assert!((exp2(x) / x.exp2() - 1.0).abs() < 2f64.powi(-41), "{x}: {} of {}", exp2(x), x.exp2());
        }
        assert!(exp2(f64::NAN).is_nan());
        assert_eq!((exp2(f64::INFINITY), exp2(f64::NEG_INFINITY), exp2(0.0)), (f64::INFINITY, 0.0, 1.0));
    }

    #[test]
    fn stays_within_the_bound_and_uses_it() {
        let cases: [(&str, f64, Exact); 5] = [
            ("ex2", bits(22), f64::exp2),
            ("rcp", bits(23), |x| 1.0 / x),
            ("sqrt", bits(23), f64::sqrt),
            ("tanh", bits(11), f64::tanh),
            ("rsqrt", RSQRT, |x| 1.0 / x.sqrt()),
        ];
        for (name, bound, exact) in cases {
            let value = function(name);
            let mut worst: f64 = 0.0;
            for i in 1..4000 {
                let x = i as f32 / 500.0;
                worst = worst.max((value(x, Error { seed: 7, exact: false }) / exact(f64::from(x)) - 1.0).abs());
                assert_eq!(value(x, Error { seed: 7, exact: true }), f64::from(exact(f64::from(x)) as f32));
            }
            assert!(worst > 0.7 * bound && worst <= bound, "{name}: {worst:e} of {bound:e}");
        }
        assert!((RSQRT.log2() + 22.9).abs() < 1e-4 && (SINE.log2() + 20.5).abs() < 1e-4);
    }
}
