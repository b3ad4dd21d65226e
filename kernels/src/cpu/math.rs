//! Elementary f32 functions, lane by lane, as polynomials. They call no library, and a lane's bits do not depend on the
//! other lanes.
//!
//! Errors are in units in the last place (ulp) of the result, against the exact value, and hold with and without FMA. The
//! polynomials are minimax in relative error. Coefficients are rounded to f32 one at a time, lowest first, and the
//! remaining ones are refitted each time.

use crate::cpu::builder::{Num, Operand, Value};

/// (e^r − 1 − r) / r² for |r| ≤ ln 2 / 2, constant term first: relative error of e^r 2⁻²⁷·⁸.
const EXP: [f32; 5] = [0.5, 0.166_664_88, 0.041_665_55, 0.008_372_29, 0.001_403_606_7];

/// (2^r − 1) / r for |r| ≤ ½, constant term first: relative error of 2^r 2⁻²⁷·⁵.
const EXP2: [f32; 6] = [0.693_147_24, 0.240_226_55, 0.055_502_724, 0.009_617_064, 0.001_341_827_6, 0.000_158_178_74];

/// (2 · atanh(√u) / √u − 2) / u for 0 ≤ u ≤ 1/9, constant term first: relative error of atanh 2⁻²⁷·⁷.
const ATANH: [f32; 4] = [0.666_664_2, 0.400_214_37, 0.280_030_25, 0.280_067_8];

/// e^x within 2 ulp. 0 below −87.336 (where the result would be subnormal), infinity above 88.7228; NaN stays NaN.
#[track_caller]
pub fn exp(x: Value) -> Value {
    let n = (x * std::f64::consts::LOG2_E).round_ties_even();
    // ln 2 in two parts; the first is short enough that n times it is exact.
    let r = n.mul_add(2.121_944_4e-4, x - n * 0.693_359_375);
    let tail = (r * r).mul_add(polynomial(&EXP, r), r);
    let y = scale(tail + 1.0, n);
    let y = x.gt(88.722_83).select(f32::INFINITY, y);
    x.lt(-87.336).select(0.0, y)
}

/// 2^x within 2 ulp. 0 below −126, infinity from 128 on; NaN stays NaN.
#[track_caller]
pub fn exp2(x: Value) -> Value {
    let y = exp2_in_range(x);
    let y = x.ge(128.0).select(f32::INFINITY, y);
    x.lt(-126.0).select(0.0, y)
}

/// 2^x within 2 ulp for x ≤ 0, cheaper than [`exp2`]: 2⁻¹²⁶ instead of 0 below −126; NaN stays NaN.
#[track_caller]
pub fn exp2_nonpositive(x: Value) -> Value {
    // A maximum with a NaN is its second operand.
    exp2_in_range((-126.0).value(x.ty()).max(x))
}

/// 1 / (1 + e⁻ˣ) within 3 ulp; 0 below −88.7.
#[track_caller]
pub fn sigmoid(x: Value) -> Value {
    1.0 / (1.0 + exp(-x))
}

/// x / (1 + e⁻ˣ), the SiLU (arXiv 1702.03118), within 3 ulp; −0 below −88.7. NaN at −∞.
#[track_caller]
pub fn silu(x: Value) -> Value {
    x / (1.0 + exp(-x))
}

/// silu(gate) · up (arXiv 2002.05202), within 4 ulp.
#[track_caller]
pub fn swiglu(gate: Value, up: Value) -> Value {
    silu(gate) * up
}

/// ln(1 + eˣ) within 4 ulp, including small results; equals x from about 17 on, 0 below −87.336.
///
/// ```text
/// ln(1 + eˣ) = max(x, 0) + ln(1 + t),  t = e^−|x|
/// ln(1 + t)  = 2 · atanh(s),           s = t / (2 + t) ≤ ⅓
/// ```
#[track_caller]
pub fn softplus(x: Value) -> Value {
    let t = exp(-x.abs());
    let s = t / (2.0 + t);
    let u = s * s;
    let ln = (s * u).mul_add(polynomial(&ATANH, u), s + s);
    x.max(0.0) + ln
}

/// 2^x for −126 ≤ x < 128.
fn exp2_in_range(x: Value) -> Value {
    let n = x.round_ties_even();
    let r = x - n;
    scale(r.mul_add(polynomial(&EXP2, r), 1.0), n)
}

/// y · 2ⁿ for an integer n, by adding n to y's exponent. A NaN converts to 2³¹ on every x86 and is shifted to 0, so y,
/// which is NaN too, is unchanged.
fn scale(y: Value, n: Value) -> Value {
    (y.bitcast(Num::I32) + (n.to_i32() << 23)).bitcast(Num::F32)
}

/// Σ coefficients[i] · xⁱ, by Horner's method.
fn polynomial(coefficients: &[f32], x: Value) -> Value {
    let (&highest, lower) = coefficients.split_last().expect("a polynomial has a coefficient");
    lower.iter().rev().fold(highest.value(x.ty()), |sum, &term| sum.mul_add(x, term))
}
