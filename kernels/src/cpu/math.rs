//! Elementary functions of f32, lane by lane, as polynomials: no library is called, and each lane computes the same bits
//! whatever stands beside it.
//!
//! Errors are in units in the last place (ulp) of the result, against the exact value, and hold with and without FMA.
//! The polynomials are minimax in the relative error, their coefficients rounded to f32 one after the other from the
//! lowest, the rest refitted each time.

use crate::cpu::builder::{Builder, Compare, Num, Value};

/// (e^r − 1 − r) / r² for |r| ≤ ln 2 / 2, from the constant up: relative error of e^r 2⁻²⁷·⁸.
const EXP: [f32; 5] = [0.5, 0.166_664_88, 0.041_665_55, 0.008_372_29, 0.001_403_606_7];

/// (2^r − 1) / r for |r| ≤ ½, from the constant up: relative error of 2^r 2⁻²⁷·⁵.
const EXP2: [f32; 6] = [0.693_147_24, 0.240_226_55, 0.055_502_724, 0.009_617_064, 0.001_341_827_6, 0.000_158_178_74];

/// (2 · atanh(√u) / √u − 2) / u for 0 ≤ u ≤ 1/9, from the constant up: relative error of atanh 2⁻²⁷·⁷.
const ATANH: [f32; 4] = [0.666_664_2, 0.400_214_37, 0.280_030_25, 0.280_067_8];

/// e^x within 2 ulp. Below −87.336 (where the result would leave the normal numbers) it is 0, above 88.7228 it is
/// infinite; NaN stays NaN.
#[track_caller]
pub fn exp(b: &Builder, x: Value) -> Value {
    let n = b.round_even(b.mul(x, number(b, std::f64::consts::LOG2_E, x)));
    // ln 2 in two parts, the first so short that n times it is exact.
    let r = b.sub(x, b.mul(n, number(b, 0.693_359_375, x)));
    let r = b.fma(n, number(b, 2.121_944_4e-4, x), r);
    let tail = b.fma(b.mul(r, r), polynomial(b, &EXP, r), r);
    let y = scale(b, b.add(tail, number(b, 1.0, x)), n);
    let y = b.select(b.cmp(Compare::Gt, x, number(b, 88.722_83, x)), number(b, f64::INFINITY, x), y);
    b.select(b.cmp(Compare::Lt, x, number(b, -87.336, x)), number(b, 0.0, x), y)
}

/// 2^x within 2 ulp. Below −126 it is 0, from 128 on it is infinite; NaN stays NaN.
#[track_caller]
pub fn exp2(b: &Builder, x: Value) -> Value {
    let y = exp2_in_range(b, x);
    let y = b.select(b.cmp(Compare::Ge, x, number(b, 128.0, x)), number(b, f64::INFINITY, x), y);
    b.select(b.cmp(Compare::Lt, x, number(b, -126.0, x)), number(b, 0.0, x), y)
}

/// 2^x within 2 ulp for x ≤ 0, cheaper than [`exp2`]: below −126 it is 2⁻¹²⁶, not 0.
#[track_caller]
pub fn exp2_nonpositive(b: &Builder, x: Value) -> Value {
    exp2_in_range(b, b.max(x, number(b, -126.0, x)))
}

/// 1 / (1 + e⁻ˣ) within 3 ulp; 0 below −88.7.
#[track_caller]
pub fn sigmoid(b: &Builder, x: Value) -> Value {
    let one = number(b, 1.0, x);
    b.div(one, b.add(one, exp(b, b.neg(x))))
}

/// x / (1 + e⁻ˣ), the SiLU (arXiv 1702.03118), within 3 ulp; −0 below −88.7. NaN at −∞.
#[track_caller]
pub fn silu(b: &Builder, x: Value) -> Value {
    b.div(x, b.add(number(b, 1.0, x), exp(b, b.neg(x))))
}

/// silu(gate) · up (arXiv 2002.05202), within 4 ulp.
#[track_caller]
pub fn swiglu(b: &Builder, gate: Value, up: Value) -> Value {
    b.mul(silu(b, gate), up)
}

/// ln(1 + eˣ) within 4 ulp, small results included; x itself from about 17 on, 0 below −87.336.
///
///     ln(1 + eˣ) = max(x, 0) + ln(1 + t),  t = e^−|x|
///     ln(1 + t)  = 2 · atanh(s),           s = t / (2 + t) ≤ ⅓
#[track_caller]
pub fn softplus(b: &Builder, x: Value) -> Value {
    let t = exp(b, b.neg(b.abs(x)));
    let s = b.div(t, b.add(number(b, 2.0, x), t));
    let u = b.mul(s, s);
    let ln = b.fma(b.mul(s, u), polynomial(b, &ATANH, u), b.add(s, s));
    b.add(b.max(x, number(b, 0.0, x)), ln)
}

/// 2^x for −126 ≤ x < 128.
fn exp2_in_range(b: &Builder, x: Value) -> Value {
    let n = b.round_even(x);
    let r = b.sub(x, n);
    scale(b, b.fma(r, polynomial(b, &EXP2, r), number(b, 1.0, x)), n)
}

/// y · 2ⁿ for a whole n, by adding it to y's exponent. For a NaN the conversion gives 2³¹ on every x86, of which the shift
/// leaves nothing: y, then NaN as well, stays what it is.
fn scale(b: &Builder, y: Value, n: Value) -> Value {
    b.bitcast(b.add(b.bitcast(y, Num::I32), b.shl(b.to_i32(n), 23)), Num::F32)
}

/// Σ coefficients[i] · xⁱ, by Horner's rule.
fn polynomial(b: &Builder, coefficients: &[f32], x: Value) -> Value {
    let mut terms = coefficients.iter().rev().map(|&term| number(b, term.into(), x));
    let highest = terms.next().expect("a polynomial has a coefficient");
    terms.fold(highest, |sum, term| b.fma(sum, x, term))
}

/// A constant of the type of `like`.
fn number(b: &Builder, value: f64, like: Value) -> Value {
    b.constant(value, like.ty())
}
