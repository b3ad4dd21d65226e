//! Conversions: `cvt.to.from`. The last part of the opcode, the source type, is the type of a row.

use half::{bf16, f16};

use super::float::{Mode, Scalar};
use super::number::{E4m3, E5m2};
use super::table::{Decoded, Row, one, rows, two_spread};
use super::value::{Pair, Value};
use crate::decode::{Call, Decoder};
use crate::registers::Halves;

// A row's cast is from each of its types, one of which is the target.
#[allow(clippy::unnecessary_cast)]
pub(super) const ROWS: &[Row] = rows! {
    optional &[];
    // Integers are truncated to, or extended from, their low bits.
    "cvt.u8" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| a as u8);
    "cvt.s8" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| a as i8);
    "cvt.u16" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| a as u16);
    "cvt.s16" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| a as i16);
    "cvt.u32" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| a as u32);
    "cvt.s32" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| a as i32);
    "cvt.u64" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| a as u64);
    "cvt.s64" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| a as i64);
    "cvt.sat.u8" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| i128::from(a).clamp(0, 0xff) as u8);
    "cvt.sat.s8" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| i128::from(a).clamp(-0x80, 0x7f) as i8);
    "cvt.sat.u16" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| i128::from(a).clamp(0, 0xffff) as u16);
    "cvt.sat.s16" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| i128::from(a).clamp(-0x8000, 0x7fff) as i16);
    "cvt.sat.u32" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| i128::from(a).clamp(0, u32::MAX.into()) as u32);
    "cvt.sat.s32" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| i128::from(a).clamp(i32::MIN.into(), i32::MAX.into()) as i32);
    "cvt.rn.f32" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| a as f32);
    "cvt.rn.f64" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| a as f64);
    "cvt.rn.f16" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| f16::from_f64(a as f64));
    "cvt.rn.bf16" [u8, i8, u16, i16, u32, i32, u64, i64] one(|a: T| bf16::from_f64(a as f64));
    // Exact, and the most frequent one.
    "cvt.f32" [bf16] one(|a: T| f32::from_bits(u32::from(a.to_bits()) << 16));
    // From floating point, with rounding to whole numbers.
    optional &["rn", "rni", "rzi", "rmi", "rpi", "ftz", "sat", "relu", "satfinite"];
    "cvt.u8" [f16, bf16, f32, f64] whole::<T, _>(|x| x as u8);
    "cvt.s8" [f16, bf16, f32, f64] whole::<T, _>(|x| x as i8);
    "cvt.u16" [f16, bf16, f32, f64] whole::<T, _>(|x| x as u16);
    "cvt.s16" [f16, bf16, f32, f64] whole::<T, _>(|x| x as i16);
    "cvt.u32" [f16, bf16, f32, f64] whole::<T, _>(|x| x as u32);
    "cvt.s32" [f16, bf16, f32, f64] whole::<T, _>(|x| x as i32);
    "cvt.u64" [f16, bf16, f32, f64] whole::<T, _>(|x| x as u64);
    "cvt.s64" [f16, bf16, f32, f64] whole::<T, _>(|x| x as i64);
    "cvt.f16" [f16, bf16, f32, f64] float::<T, f16>;
    "cvt.bf16" [f16, bf16, f32, f64] float::<T, bf16>;
    "cvt.f32" [f16, bf16, f32, f64] float::<T, f32>;
    "cvt.f64" [f16, bf16, f32, f64] float::<T, f64>;
    "cvt.f16x2" [f32] pack::<f16>;
    "cvt.bf16x2" [f32] pack::<bf16>;
    "cvt.e4m3x2" [f32] pack::<E4m3>;
    "cvt.e5m2x2" [f32] pack::<E5m2>;
    "cvt.f16x2" [Pair<E4m3>] unpack::<E4m3>;
    "cvt.f16x2" [Pair<E5m2>] unpack::<E5m2>;
};

/// The function that `.rni`, `.rzi`, `.rmi` or `.rpi` names.
fn rounding(call: &Call) -> Option<fn(f64) -> f64> {
    if call.has("rni") {
        return Some(f64::round_ties_even);
    }
    if call.has("rzi") {
        return Some(f64::trunc);
    }
    if call.has("rmi") {
        return Some(f64::floor);
    }
    call.has("rpi").then_some(f64::ceil)
}

/// To an integer, clamped to its range; NaN becomes 0.
fn whole<A: Scalar, R: Value>(to: fn(f64) -> R) -> impl FnOnce(&mut Decoder, &Call) -> Decoded {
    move |d, call| {
        let Some(round) = rounding(call) else { return d.unknown() };
        let mode = Mode::of(call);
        one(move |a: A| to(round(a.wide(mode).into())))(d, call)
    }
}

fn float<A: Scalar, R: Scalar>(d: &mut Decoder, call: &Call) -> Decoded {
    let (mode, round) = (Mode::of(call), rounding(call));
    match round {
        Some(round) => one(move |a: A| R::from_f64(round(a.wide(mode).into()), mode))(d, call),
        None => one(move |a: A| R::from_f64(a.wide(mode).into(), mode))(d, call),
    }
}

/// Two f32 to a pair; the first goes to the upper half.
fn pack<R: Scalar>(d: &mut Decoder, call: &Call) -> Decoded
where
    Pair<R>: Value,
{
    let spread = |_: &_, _: &_, high: Halves, low: Halves| match size_of::<R>() {
        2 => Halves { low: low.any(), high: high.any() },
        _ => Halves::both(low.any() | high.any()),
    };
    match Mode::of(call) {
        Mode::PLAIN => two_spread(|high, low| Pair(R::nearest(low), R::nearest(high)), spread)(d, call),
        mode => {
            let convert = move |a: f32| R::from_f64(a.wide(mode).into(), mode);
            two_spread(move |high, low| Pair(convert(low), convert(high)), spread)(d, call)
        }
    }
}

/// A pair of 8-bit numbers to a pair of f16.
fn unpack<A: Scalar>(d: &mut Decoder, call: &Call) -> Decoded
where
    Pair<A>: Value,
{
    let mode = Mode::of(call);
    let convert = move |a: A| <f16 as Scalar>::from_f64(a.wide(mode).into(), mode);
    one(move |Pair(low, high): Pair<A>| Pair(convert(low), convert(high)))(d, call)
}
