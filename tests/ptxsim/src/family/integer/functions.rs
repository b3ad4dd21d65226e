//! What integer instructions compute in one lane.

use super::{One, Shift, Two};
use crate::registers::{Halves, Lanes, mask_of};

pub(super) fn two32(f: Two) -> fn(u32, u32) -> u32 {
    match f {
        Two::Add => |a, b| a.wrapping_add(b),
        Two::Sub => |a, b| a.wrapping_sub(b),
        Two::Mul => |a, b| a.wrapping_mul(b),
        Two::MulHighU => |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32,
        Two::MulHighS => |a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32,
        // Division by zero gives all ones on the hardware.
        Two::DivU => |a, b| a.checked_div(b).unwrap_or(u32::MAX),
        Two::DivS => |a, b| if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 },
        Two::RemU => |a, b| a.checked_rem(b).unwrap_or(a),
        Two::RemS => |a, b| if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 },
        Two::MinU => |a, b| a.min(b),
        Two::MinS => |a, b| (a as i32).min(b as i32) as u32,
        Two::MaxU => |a, b| a.max(b),
        Two::MaxS => |a, b| (a as i32).max(b as i32) as u32,
        Two::And => |a, b| a & b,
        Two::Or => |a, b| a | b,
        Two::Xor => |a, b| a ^ b,
    }
}

pub(super) fn two64(f: Two) -> fn(u64, u64) -> u64 {
    match f {
        Two::Add => |a, b| a.wrapping_add(b),
        Two::Sub => |a, b| a.wrapping_sub(b),
        Two::Mul => |a, b| a.wrapping_mul(b),
        Two::MulHighU => |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64,
        Two::MulHighS => |a, b| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64,
        Two::DivU => |a, b| a.checked_div(b).unwrap_or(u64::MAX),
        Two::DivS => |a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 },
        Two::RemU => |a, b| a.checked_rem(b).unwrap_or(a),
        Two::RemS => |a, b| if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 },
        Two::MinU => |a, b| a.min(b),
        Two::MinS => |a, b| (a as i64).min(b as i64) as u64,
        Two::MaxU => |a, b| a.max(b),
        Two::MaxS => |a, b| (a as i64).max(b as i64) as u64,
        Two::And => |a, b| a & b,
        Two::Or => |a, b| a | b,
        Two::Xor => |a, b| a ^ b,
    }
}

pub(super) fn one64(f: One, bits: u32) -> impl Fn(u64) -> u64 {
    let mask = u64::MAX >> (64 - bits);
    move |a| match f {
        One::Neg => a.wrapping_neg() & mask,
        One::Abs => (((a << (64 - bits)) as i64 >> (64 - bits)).unsigned_abs()) & mask,
        One::Not => !a & mask,
        One::Clz => u64::from((a & mask).leading_zeros()) - u64::from(64 - bits),
        One::Popc => u64::from((a & mask).count_ones()),
        One::Brev => a.reverse_bits() >> (64 - bits),
    }
}

pub(super) fn sign16(a: u32) -> u32 {
    a as u16 as i16 as i32 as u32
}

pub(super) fn shift64(f: Shift, a: u64, n: u32) -> u64 {
    match f {
        Shift::Left => a.checked_shl(n).unwrap_or(0),
        Shift::RightU => a.checked_shr(n).unwrap_or(0),
        Shift::RightS => ((a as i64) >> n.min(63)) as u64,
    }
}

/// `n` bits of `a` from `at`; signed fields repeat their last bit.
pub(super) fn extract(a: u64, at: u32, n: u32, width: u32, signed: bool) -> u64 {
    let (at, n) = (at & 255, n & 255);
    if n == 0 {
        return 0;
    }
    let value = if signed { ((a << (64 - width)) as i64 >> (64 - width)) as i128 } else { i128::from(a) };
    let field = value >> at.min(100);
    if n >= width {
        return field as u64;
    }
    let kept = (field as u64) & (u64::MAX >> (64 - n));
    let sign_at = (at + n - 1).min(width - 1);
    if signed && a >> sign_at & 1 == 1 { kept | u64::MAX << n } else { kept }
}

pub(super) fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(a) | u64::from(b) << 32;
    let mut out = 0;
    for i in 0..4 {
        let pick = selector >> (4 * i) & 15;
        let byte = (bytes >> (8 * (pick & 7))) as u8;
        let byte = if pick & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
        out |= u32::from(byte) << (8 * i);
    }
    out
}

pub(super) fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let mut out = 0;
    for i in 0..8 {
        if table >> i & 1 == 1 {
            let pick = |value: u32, bit: u8| if i & bit == 0 { !value } else { value };
            out |= pick(a, 4) & pick(b, 2) & pick(c, 1);
        }
    }
    out
}

pub(super) fn dp4a(a: u32, b: u32, signed: [bool; 2]) -> i32 {
    let byte = |value: u32, i: usize, signed: bool| {
        let byte = value.to_le_bytes()[i];
        if signed { i32::from(byte as i8) } else { i32::from(byte) }
    };
    (0..4).map(|i| byte(a, i, signed[0]) * byte(b, i, signed[1])).fold(0, i32::wrapping_add)
}

/// A zero under `and` hides the other operand's poison; of the lanes `part` counts, a half.
pub(super) fn and_poison(a: &Lanes<u32>, b: &Lanes<u32>, pa: u32, pb: u32, part: u32) -> u32 {
    let zero = |lanes: &Lanes<u32>| mask_of(|i| lanes[i] & part == 0);
    (pa | pb) & !(zero(a) & !pa) & !(zero(b) & !pb)
}

/// The halves of what `prmt` picks, from the poisoned lanes of the halves of both operands.
pub(super) fn prmt_poison(selector: &Lanes<u32>, halves: [u32; 4]) -> Halves {
    let picked = |lane: usize, byte: usize| halves[(selector[lane] >> (4 * byte) & 7) as usize / 2] >> lane & 1 == 1;
    Halves {
        low: mask_of(|lane| picked(lane, 0) || picked(lane, 1)),
        high: mask_of(|lane| picked(lane, 2) || picked(lane, 3)),
    }
}
