//! Integer arithmetic, logic and bit fields of 16, 32 and 64 bits.

use super::table::{Decoded, Row, one, rows, three, two, two_spread};
use crate::decode::{Call, Decoder};
use crate::parse::RegisterKind::Word;
use crate::registers::{Halves, map2, map3, mask_of};

pub(super) const ROWS: &[Row] = rows! {
    optional &[];
    "add" [u16, i16, u32, i32, u64, i64] two(|a: T, b: T| a.wrapping_add(b));
    "sub" [u16, i16, u32, i32, u64, i64] two(|a: T, b: T| a.wrapping_sub(b));
    "mul.lo" [u16, i16, u32, i32, u64, i64] two(|a: T, b: T| a.wrapping_mul(b));
    "mul.hi" [u16, i16, u32, i32, u64, i64] two(|a: T, b: T| a.high(b));
    "mul.wide" [u16, i16, u32, i32] two(|a: T, b: T| a.wide() * b.wide());
    "mad.lo" [u16, i16, u32, i32, u64, i64] three(|a: T, b: T, c: T| a.wrapping_mul(b).wrapping_add(c));
    "mad.hi" [u32, i32] three(|a: T, b: T, c: T| a.high(b).wrapping_add(c));
    "mad.wide" [u16, i16, u32, i32] three(|a: T, b: T, c| (a.wide() * b.wide()).wrapping_add(c));
    // The hardware gives all ones for a division by zero.
    "div" [u16, i16, u32, i32, u64, i64] two(|a: T, b: T| if b == 0 { !0 } else { a.wrapping_div(b) });
    "rem" [u16, i16, u32, i32, u64, i64] two(|a: T, b: T| if b == 0 { a } else { a.wrapping_rem(b) });
    "min" [u16, i16, u32, i32, u64, i64] two(|a: T, b: T| a.min(b));
    "max" [u16, i16, u32, i32, u64, i64] two(|a: T, b: T| a.max(b));
    "neg" [i16, i32, i64] one(|a: T| a.wrapping_neg());
    "abs" [i16, i32, i64] one(|a: T| a.wrapping_abs());
    "and" [u16, u64] two(|a: T, b: T| a & b);
    "or" [u16, u64] two(|a: T, b: T| a | b);
    "xor" [u16, u64] two(|a: T, b: T| a ^ b);
    "and" [u32] and;
    "or" [u32] bitwise(|a: T, b: T| a | b);
    "xor" [u32] bitwise(|a: T, b: T| a ^ b);
    "not" [u16, u32, u64] one(|a: T| !a);
    "clz" [u32, u64] one(|a: T| a.leading_zeros());
    "popc" [u32, u64] one(|a: T| a.count_ones());
    "brev" [u32, u64] one(|a: T| a.reverse_bits());
    "shl" [u16, u64] two(|a: T, n: u32| if n < T::BITS { a << n } else { 0 });
    "shr" [u16, u64] two(|a: T, n: u32| if n < T::BITS { a >> n } else { 0 });
    "shr" [i16, i64] two(|a: T, n: u32| a >> n.min(T::BITS - 1));
    "shl" [u32] shift(|a: T, n: u32| if n < T::BITS { a << n } else { 0 }, |held| Halves { low: 0, high: held.low });
    "shr" [u32] shift(|a: T, n: u32| if n < T::BITS { a >> n } else { 0 }, |held| Halves { low: held.high, high: 0 });
    "shr" [i32] shift(|a: T, n: u32| a >> n.min(31), |held| Halves::both(held.high));
    "shf.l.wrap" [u32] three(|a: T, b: T, n: u32| funnel(a, b, |both| both << (n & 31) >> 32));
    "shf.l.clamp" [u32] three(|a: T, b: T, n: u32| funnel(a, b, |both| both << n.min(32) >> 32));
    "shf.r.wrap" [u32] three(|a: T, b: T, n: u32| funnel(a, b, |both| both >> (n & 31)));
    "shf.r.clamp" [u32] three(|a: T, b: T, n: u32| funnel(a, b, |both| both >> n.min(32)));
    "bfe" [u32, i32, u64, i64] three(|a: T, at: u32, n: u32| field(a.into(), at, n, T::MIN != 0) as T);
    "bfi" [u32] insert;
    "lop3" [u32] lop3;
    "prmt" [u32] prmt;
    "dp4a.u32" [u32, i32] three(|a, b, c: u32| dot(a, b, [false, T::MIN != 0]).wrapping_add(c));
    "dp4a.s32" [u32, i32] three(|a, b, c: u32| dot(a, b, [true, T::MIN != 0]).wrapping_add(c));
};

/// Types with a product of twice their width.
trait Wide: Sized {
    type Wide;
    fn wide(self) -> Self::Wide;
    /// The upper half of the product.
    fn high(self, other: Self) -> Self;
}

macro_rules! wide {
    ($($narrow:ty => $wide:ty),*) => {$(
        impl Wide for $narrow {
            type Wide = $wide;

            #[inline]
            fn wide(self) -> $wide {
                self.into()
            }

            #[inline]
            fn high(self, other: $narrow) -> $narrow {
                (self.wide() * other.wide() >> <$narrow>::BITS) as $narrow
            }
        }
    )*};
}

wide!(u16 => u32, i16 => i32, u32 => u64, i32 => i64, u64 => u128, i64 => i128);

/// Bits of a result depend on the same bits of the operands.
fn bitwise(f: impl Fn(u32, u32) -> u32 + Send + Sync + 'static) -> impl FnOnce(&mut Decoder, &Call) -> Decoded {
    two_spread(f, |_, _, a, b| a | b)
}

/// A zero hides the poison of the other operand.
fn and(d: &mut Decoder, call: &Call) -> Decoded {
    let decode = two_spread(
        |a: u32, b: u32| a & b,
        |x, y, a, b| {
            if (a | b).any() == 0 {
                return Halves::default();
            }
            let hidden = |poison: [u32; 2], part: u32| {
                let zeros = [mask_of(|i| x[i] & part == 0), mask_of(|i| y[i] & part == 0)];
                (poison[0] | poison[1]) & !(zeros[0] & !poison[0]) & !(zeros[1] & !poison[1])
            };
            Halves { low: hidden([a.low, b.low], 0xffff), high: hidden([a.high, b.high], 0xffff_0000) }
        },
    );
    decode(d, call)
}

/// A shift of 32 bits. By 16, one half goes where the other was, and `moved` is its poison.
fn shift<T: super::value::Value<Word = u32>>(
    f: impl Fn(T, u32) -> T + Send + Sync + 'static,
    moved: fn(Halves) -> Halves,
) -> impl FnOnce(&mut Decoder, &Call) -> Decoded {
    two_spread(f, move |_, n, held, by| {
        if held.low == held.high || by.any() != 0 || n.iter().any(|n| *n != 16) {
            return Halves::both(held.any() | by.any());
        }
        moved(held)
    })
}

fn funnel(low: u32, high: u32, shift: impl Fn(u64) -> u64) -> u32 {
    shift(u64::from(low) | u64::from(high) << 32) as u32
}

/// `n` bits of `a` from `at`; a signed field is extended by its last bit.
fn field(a: i128, at: u32, n: u32, signed: bool) -> i128 {
    let (at, unused) = ((at & 255).min(127), 128 - (n & 255).min(64));
    if unused == 128 {
        return 0;
    }
    let field = a >> at << unused;
    if signed { field >> unused } else { (field as u128 >> unused) as i128 }
}

/// `bfi d, a, b, at, n`: the low `n` bits of `a` replace those of `b` from `at`.
fn insert(d: &mut Decoder, call: &Call) -> Decoded {
    d.count(call, 5..=5)?;
    let to = d.target(&call.operands[0], Word)?;
    let (a, b) = (d.r(&call.operands[1])?, d.r(&call.operands[2])?);
    let (at, n) = (d.r(&call.operands[3])?, d.r(&call.operands[4])?);
    Ok(Box::new(move |regs, mask| {
        let places = map2(regs.r.get(at), regs.r.get(n), |at, n| {
            let ones = 1u32.checked_shl(n & 255).map_or(u32::MAX, |end| end - 1);
            (ones.checked_shl(at & 255).unwrap_or(0), at & 255)
        });
        let out = map3(regs.r.get(a), regs.r.get(b), &places, |a, b, (place, at)| {
            b & !place | a.checked_shl(at).unwrap_or(0) & place
        });
        let poison = [a, b, at, n].iter().fold(0, |all, slot| all | regs.r.poison(*slot));
        regs.r.put(to, &out, poison, mask);
    }))
}

/// `lop3 d, a, b, c, table`: any function of three bits.
fn lop3(d: &mut Decoder, call: &Call) -> Decoded {
    let table = d.immediate(d.at(call, 4)?)?;
    let function = three(move |a: u32, b: u32, c: u32| {
        let pick = |value: u32, i: u32, bit: u32| if i & bit == 0 { !value } else { value };
        let minterms = (0..8).filter(|i| table >> i & 1 == 1);
        minterms.fold(0, |out, i| out | pick(a, i, 4) & pick(b, i, 2) & pick(c, i, 1))
    });
    function(d, &Call { parts: call.parts.clone(), operands: &call.operands[..4] })
}

/// `prmt d, a, b, selector`: any four bytes of eight.
fn prmt(d: &mut Decoder, call: &Call) -> Decoded {
    d.count(call, 4..=4)?;
    let to = d.target(&call.operands[0], Word)?;
    let (a, b, selector) = (d.r(&call.operands[1])?, d.r(&call.operands[2])?, d.r(&call.operands[3])?);
    Ok(Box::new(move |regs, mask| {
        let picks = regs.r.get(selector);
        let out = map3(regs.r.get(a), regs.r.get(b), picks, permute);
        let (pa, pb) = (regs.r.halves(a), regs.r.halves(b));
        let mut poison = Halves::both(regs.r.poison(selector));
        if (pa | pb).any() & mask != 0 {
            let halves = [pa.low, pa.high, pb.low, pb.high];
            let picked = |i: usize, byte: usize| halves[(picks[i] >> (4 * byte) & 7) as usize / 2] >> i & 1 == 1;
            let low = mask_of(|i| picked(i, 0) || picked(i, 1));
            poison = poison | Halves { low, high: mask_of(|i| picked(i, 2) || picked(i, 3)) };
        }
        regs.r.put_halves(to, &out, poison, mask);
    }))
}

fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(a) | u64::from(b) << 32;
    let mut out = 0;
    for i in 0..4 {
        let pick = selector >> (4 * i) & 15;
        let byte = (bytes >> (8 * (pick & 7))) as u8;
        // Bit 3 of a selector spreads the sign of the byte.
        let byte = if pick & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
        out |= u32::from(byte) << (8 * i);
    }
    out
}

/// The scalar product of four bytes.
fn dot(a: u32, b: u32, signed: [bool; 2]) -> u32 {
    let byte = |value: u32, i: usize, signed: bool| {
        let byte = value.to_le_bytes()[i];
        if signed { i32::from(byte as i8) } else { i32::from(byte) }
    };
    (0..4).map(|i| byte(a, i, signed[0]) * byte(b, i, signed[1])).fold(0, i32::wrapping_add) as u32
}
