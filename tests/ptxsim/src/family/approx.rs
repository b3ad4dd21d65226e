//! The special-function unit: right within the documented error, and no righter.
//!
//! | instruction | error (PTX ISA 8.0) |
//! |---|---|
//! | ex2, lg2 | 2⁻²² relative (lg2 between 0.5 and 2: absolute) |
//! | rcp, sqrt | 2⁻²³ relative |
//! | rsqrt | 2⁻²²·⁹ relative |
//! | tanh | 2⁻¹¹ relative |
//! | sin, cos | 2⁻²⁰·⁵ absolute |
//!
//! Each result is moved inside that error by an amount drawn from the seed and the operand's bits: the same operand gives the
//! same result throughout a launch, as on the hardware. Zeros, infinities and NaN stay exact.

use super::Op;
use super::float::flush;
use crate::decode::{Call, Decoder};
use crate::fault::ParseError;
use crate::parse::RegisterKind::Word;
use crate::registers::{Lanes, Registers, Slot, map1};
use crate::rng::mix;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Ex2,
    Lg2,
    Rcp,
    Rsqrt,
    Sqrt,
    Tanh,
    Sin,
    Cos,
}

/// One function of f32.
#[derive(Debug)]
pub(crate) struct Approx {
    f: Function,
    ftz: bool,
    /// `.rn`: rounded to nearest, no error but that.
    rounded: bool,
    d: Slot,
    a: Slot,
}

/// How far results are moved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Error {
    pub seed: u64,
    pub exact: bool,
}

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Op, ParseError> {
    let f = match call.parts[0] {
        "ex2" => Function::Ex2,
        "lg2" => Function::Lg2,
        "rcp" => Function::Rcp,
        "rsqrt" => Function::Rsqrt,
        "sqrt" => Function::Sqrt,
        "tanh" => Function::Tanh,
        "sin" => Function::Sin,
        _ => Function::Cos,
    };
    let rounded = call.has("rn");
    if call.last() != "f32" || !rounded && !call.has("approx") || call.has("rz") {
        return d.unknown();
    }
    d.count(call, 2..=2)?;
    let (a, target) = (d.r(&call.operands[1])?, d.target(&call.operands[0], Word)?);
    Ok(Op::Approx(Approx { f, ftz: call.has("ftz"), rounded, d: target, a }))
}

/// 2⁻²²·⁹
const RSQRT: f64 = 1.277_635e-7;
/// 2⁻²⁰·⁵
const SINE: f64 = 6.743_495e-7;

/// Half a unit in an f32's last place, of the smallest mantissa.
const HALF_UNIT: f64 = bits(24);

/// 2ˣ within 2⁻⁴¹, far nearer than the error that is added: a Taylor series around the nearest whole number.
#[inline]
fn exp2(x: f64) -> f64 {
    const LN_2: f64 = std::f64::consts::LN_2;
    let x = if x > 200.0 { 200.0 } else { x };
    let x = if x < -200.0 { -200.0 } else { x };
    // Adding 1.5 · 2⁵² leaves the nearest whole number in the low bits; NaN stays NaN.
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
    // What an f32 cannot hold either way.
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

impl Approx {
    pub fn run(&self, regs: &mut Registers, mask: u32, error: Error) {
        let seed = if self.rounded || error.exact { None } else { Some(error.seed) };
        let x = regs.r.get(self.a);
        let out = match self.f {
            Function::Ex2 if seed.is_none() => self.lanes(x, seed, f64::exp2, |_| (bits(22), 0.0)),
            Function::Ex2 => self.lanes(x, seed, exp2, |_| (bits(22), 0.0)),
            Function::Lg2 => {
                self.lanes(x, seed, f64::log2, |x| if x > 0.5 && x < 2.0 { (0.0, bits(22)) } else { (bits(22), 0.0) })
            }
            Function::Rcp => self.lanes(x, seed, |x| 1.0 / x, |_| (bits(23), 0.0)),
            Function::Rsqrt => self.lanes(x, seed, |x| 1.0 / x.sqrt(), |_| (RSQRT, 0.0)),
            Function::Sqrt => self.lanes(x, seed, f64::sqrt, |_| (bits(23), 0.0)),
            Function::Tanh => self.lanes(x, seed, f64::tanh, |_| (bits(11), 0.0)),
            Function::Sin => self.lanes(x, seed, f64::sin, |_| (0.0, SINE)),
            Function::Cos => self.lanes(x, seed, f64::cos, |_| (0.0, SINE)),
        };
        regs.r.put(self.d, &out, regs.r.poison(self.a), mask);
    }

    /// `bound` is the relative and the absolute error of a value.
    #[inline]
    fn lanes(
        &self,
        lanes: &Lanes<u32>,
        seed: Option<u64>,
        f: impl Fn(f64) -> f64,
        bound: impl Fn(f64) -> (f64, f64),
    ) -> Lanes<u32> {
        let salt = seed.unwrap_or(0) ^ self.f as u64;
        map1(lanes, |bits| {
            let x = if self.ftz { flush(f32::from_bits(bits)) } else { f32::from_bits(bits) };
            let exact = f(f64::from(x));
            let y = if seed.is_none() || exact == 0.0 || !exact.is_finite() {
                exact as f32
            } else {
                let (relative, absolute) = bound(f64::from(x));
                // The draw is in [−1, 1); rounding to f32 may add half a unit to what is left of the bound for it.
                let draw = (mix(salt ^ u64::from(x.to_bits()) << 8) >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
                let reach = absolute + (relative - HALF_UNIT) * exact.abs();
                (exact + draw * reach.max(0.0)) as f32
            };
            (if self.ftz { flush(y) } else { y }).to_bits()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Exact = fn(f64) -> f64;

    fn value(f: Function, x: f32, error: Error) -> f64 {
        let mut regs = Registers::default();
        regs.reset(2, 0, 0);
        regs.r.fill(0, x.to_bits());
        Approx { f, ftz: true, rounded: false, d: 1, a: 0 }.run(&mut regs, u32::MAX, error);
        f64::from(f32::from_bits(regs.r.get(1)[0]))
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
        let cases: [(Function, f64, Exact); 5] = [
            (Function::Ex2, bits(22), f64::exp2),
            (Function::Rcp, bits(23), |x| 1.0 / x),
            (Function::Sqrt, bits(23), f64::sqrt),
            (Function::Tanh, bits(11), f64::tanh),
            (Function::Rsqrt, RSQRT, |x| 1.0 / x.sqrt()),
        ];
        for (f, bound, exact) in cases {
            let mut worst: f64 = 0.0;
            for i in 1..4000 {
                let x = i as f32 / 500.0;
                worst = worst.max((value(f, x, Error { seed: 7, exact: false }) / exact(f64::from(x)) - 1.0).abs());
                assert_eq!(value(f, x, Error { seed: 7, exact: true }), f64::from(exact(f64::from(x)) as f32));
            }
            assert!(worst > 0.7 * bound && worst <= bound, "{f:?}: {worst:e} of {bound:e}");
        }
        assert!((RSQRT.log2() + 22.9).abs() < 1e-4 && (SINE.log2() + 20.5).abs() < 1e-4);
    }
}
