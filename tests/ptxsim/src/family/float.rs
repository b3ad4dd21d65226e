//! f32 and f64 arithmetic, rounded to nearest even.

use crate::decode::{Call, Decoder};
use crate::fault::ParseError;
use crate::parse::RegisterKind::{Double, Word};
use crate::registers::{Registers, Slot, map1, map2, map3};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Two {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    /// Min and max that give NaN where one operand is.
    MinNan,
    MaxNan,
    CopySign,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum One {
    Neg,
    Abs,
}

/// What happens to operands and results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    /// Subnormals become zeros of their sign.
    pub ftz: bool,
    /// The result is clamped to [0, 1].
    pub sat: bool,
}

#[derive(Debug)]
pub(crate) enum Float {
    Two32 { f: Two, mode: Mode, d: Slot, a: Slot, b: Slot },
    Fma32 { mode: Mode, d: Slot, abc: [Slot; 3] },
    One32 { f: One, mode: Mode, d: Slot, a: Slot },
    Two64 { f: Two, d: Slot, a: Slot, b: Slot },
    Fma64 { d: Slot, abc: [Slot; 3] },
    One64 { f: One, d: Slot, a: Slot },
}

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Float, ParseError> {
    for part in &call.parts[1..call.parts.len() - 1] {
        if !["rn", "ftz", "sat", "full", "approx", "NaN"].contains(part) {
            return d.unknown();
        }
    }
    let mode = Mode { ftz: call.has("ftz"), sat: call.has("sat") };
    let nan = call.has("NaN");
    let wide = call.last() == "f64";
    let two = match call.parts[0] {
        "add" => Some(Two::Add),
        "sub" => Some(Two::Sub),
        "mul" => Some(Two::Mul),
        "div" => Some(Two::Div),
        "min" if nan => Some(Two::MinNan),
        "max" if nan => Some(Two::MaxNan),
        "min" => Some(Two::Min),
        "max" => Some(Two::Max),
        "copysign" => Some(Two::CopySign),
        _ => None,
    };
    if let Some(f) = two {
        d.count(call, 3..=3)?;
        if wide {
            let [a, b] = [1, 2].map(|index| d.d(&call.operands[index]));
            return Ok(Float::Two64 { f, d: d.target(&call.operands[0], Double)?, a: a?, b: b? });
        }
        let [a, b] = [1, 2].map(|index| d.r(&call.operands[index]));
        return Ok(Float::Two32 { f, mode, d: d.target(&call.operands[0], Word)?, a: a?, b: b? });
    }
    let one = match call.parts[0] {
        "neg" => Some(One::Neg),
        "abs" => Some(One::Abs),
        _ => None,
    };
    if let Some(f) = one {
        d.count(call, 2..=2)?;
        if wide {
            return Ok(Float::One64 { f, d: d.target(&call.operands[0], Double)?, a: d.d(&call.operands[1])? });
        }
        return Ok(Float::One32 { f, mode, d: d.target(&call.operands[0], Word)?, a: d.r(&call.operands[1])? });
    }
    if !matches!(call.parts[0], "fma" | "mad") {
        return d.unknown();
    }
    d.count(call, 4..=4)?;
    if wide {
        let [a, b, c] = [1, 2, 3].map(|index| d.d(&call.operands[index]));
        return Ok(Float::Fma64 { d: d.target(&call.operands[0], Double)?, abc: [a?, b?, c?] });
    }
    let [a, b, c] = [1, 2, 3].map(|index| d.r(&call.operands[index]));
    Ok(Float::Fma32 { mode, d: d.target(&call.operands[0], Word)?, abc: [a?, b?, c?] })
}

/// A subnormal becomes a zero of its sign.
#[inline]
pub(crate) fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    let keep = if bits & 0x7f80_0000 == 0 { 0x8000_0000 } else { u32::MAX };
    f32::from_bits(bits & keep)
}

/// a·b + c, rounded once.
///
/// The product is exact in f64; the sum is rounded to odd there, so that rounding it again to f32 is right.
#[inline]
pub(crate) fn fused(a: f32, b: f32, c: f32) -> f32 {
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = p + c;
    let back = sum - p;
    let error = (p - (sum - back)) + (c - back);
    let bits = sum.to_bits() as i64;
    // Towards the exact sum where it lies between two doubles and the nearer one is even.
    let away = if (error > 0.0) == (sum > 0.0) { 1 } else { -1 };
    let inexact = error != 0.0 && error.is_finite() && bits & 1 == 0;
    f64::from_bits((bits + if inexact { away } else { 0 }) as u64) as f32
}

#[inline]
fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// One of the two that is a number; −0 below +0.
#[inline]
pub(crate) fn minimum(a: f32, b: f32) -> f32 {
    if a == b {
        return if a.is_sign_negative() { a } else { b };
    }
    a.min(b)
}

#[inline]
pub(crate) fn maximum(a: f32, b: f32) -> f32 {
    if a == b {
        return if a.is_sign_negative() { b } else { a };
    }
    a.max(b)
}

#[inline]
fn apply(x: &[u32; 32], y: &[u32; 32], mode: Mode, f: impl Fn(f32, f32) -> f32) -> [u32; 32] {
    let g = |a: u32, b: u32| f(f32::from_bits(a), f32::from_bits(b));
    match mode {
        Mode { ftz: false, sat: false } => map2(x, y, |a, b| g(a, b).to_bits()),
        Mode { ftz: true, sat: false } => {
            map2(x, y, |a, b| flush(f(flush(f32::from_bits(a)), flush(f32::from_bits(b)))).to_bits())
        }
        Mode { ftz: false, sat: true } => map2(x, y, |a, b| saturate(g(a, b)).to_bits()),
        Mode { ftz: true, sat: true } => {
            map2(x, y, |a, b| saturate(flush(f(flush(f32::from_bits(a)), flush(f32::from_bits(b))))).to_bits())
        }
    }
}

fn two64(f: Two, a: f64, b: f64) -> f64 {
    match f {
        Two::Add => a + b,
        Two::Sub => a - b,
        Two::Mul => a * b,
        Two::Div => a / b,
        Two::Min => a.min(b),
        Two::Max => a.max(b),
        Two::MinNan if a.is_nan() || b.is_nan() => f64::NAN,
        Two::MaxNan if a.is_nan() || b.is_nan() => f64::NAN,
        Two::MinNan => a.min(b),
        Two::MaxNan => a.max(b),
        Two::CopySign => b.copysign(a),
    }
}

impl Float {
    pub fn run(&self, regs: &mut Registers, mask: u32) {
        match *self {
            Float::Two32 { f, mode, d, a, b } => {
                let (x, y) = (regs.r.get(a), regs.r.get(b));
                let nan = |a: f32, b: f32| a.is_nan() || b.is_nan();
                let out = match f {
                    Two::Add => apply(x, y, mode, |a, b| a + b),
                    Two::Sub => apply(x, y, mode, |a, b| a - b),
                    Two::Mul => apply(x, y, mode, |a, b| a * b),
                    Two::Div => apply(x, y, mode, |a, b| a / b),
                    Two::Min => apply(x, y, mode, minimum),
                    Two::Max => apply(x, y, mode, maximum),
                    Two::MinNan => apply(x, y, mode, |a, b| if nan(a, b) { f32::NAN } else { minimum(a, b) }),
                    Two::MaxNan => apply(x, y, mode, |a, b| if nan(a, b) { f32::NAN } else { maximum(a, b) }),
                    Two::CopySign => apply(x, y, mode, |a, b| b.copysign(a)),
                };
                regs.r.put(d, &out, regs.r.poison(a) | regs.r.poison(b), mask);
            }
            Float::Fma32 { mode, d, abc: [a, b, c] } => {
                let (x, y, z) = (regs.r.get(a), regs.r.get(b), regs.r.get(c));
                let [fa, fb, fc] = [x, y, z].map(|lanes| map1(lanes, f32::from_bits));
                let out = match mode {
                    Mode { ftz: false, sat: false } => map3(&fa, &fb, &fc, |a, b, c| fused(a, b, c).to_bits()),
                    Mode { ftz, sat } => map3(&fa, &fb, &fc, |a, b, c| {
                        let v = if ftz { flush(fused(flush(a), flush(b), flush(c))) } else { fused(a, b, c) };
                        if sat { saturate(v).to_bits() } else { v.to_bits() }
                    }),
                };
                regs.r.put(d, &out, regs.r.poison(a) | regs.r.poison(b) | regs.r.poison(c), mask);
            }
            Float::One32 { f, mode, d, a } => {
                let out = map1(regs.r.get(a), |a| {
                    let a = if mode.ftz { flush(f32::from_bits(a)).to_bits() } else { a };
                    match f {
                        One::Neg => a ^ 0x8000_0000,
                        One::Abs => a & 0x7fff_ffff,
                    }
                });
                regs.r.put(d, &out, regs.r.poison(a), mask);
            }
            Float::Two64 { f, d, a, b } => {
                let out =
                    map2(regs.d.get(a), regs.d.get(b), |a, b| two64(f, f64::from_bits(a), f64::from_bits(b)).to_bits());
                regs.d.put(d, &out, regs.d.poison(a) | regs.d.poison(b), mask);
            }
            Float::Fma64 { d, abc: [a, b, c] } => {
                let out = map3(regs.d.get(a), regs.d.get(b), regs.d.get(c), |a, b, c| {
                    f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits()
                });
                regs.d.put(d, &out, regs.d.poison(a) | regs.d.poison(b) | regs.d.poison(c), mask);
            }
            Float::One64 { f, d, a } => {
                let out = map1(regs.d.get(a), |a| match f {
                    One::Neg => a ^ 1 << 63,
                    One::Abs => a & !(1 << 63),
                });
                regs.d.put(d, &out, regs.d.poison(a), mask);
            }
        }
    }
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
