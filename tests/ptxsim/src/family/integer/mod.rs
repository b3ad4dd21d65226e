//! Integers and bits of 16, 32 and 64 bits.

mod decode;
mod functions;

pub(super) use decode::decode;
use functions::{and_poison, dp4a, extract, lop3, one64, prmt, prmt_poison, shift64, sign16, two32, two64};

use crate::registers::{Halves, Registers, Slot, map1, map2, map3};

/// A function of two equal operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Two {
    Add,
    Sub,
    Mul,
    MulHighU,
    MulHighS,
    DivU,
    DivS,
    RemU,
    RemS,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
}

/// A shift; the amount has 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shift {
    Left,
    RightU,
    RightS,
}

/// A function of one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum One {
    Neg,
    Abs,
    Not,
    Clz,
    Popc,
    Brev,
}

#[derive(Debug)]
pub(crate) enum Integer {
    Two32 {
        f: Two,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Two64 {
        f: Two,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    /// 16 bits: `signed` says how operands are widened.
    Two16 {
        f: Two,
        signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Shift32 {
        f: Shift,
        d: Slot,
        a: Slot,
        n: Slot,
    },
    Shift64 {
        f: Shift,
        d: Slot,
        a: Slot,
        n: Slot,
    },
    Shift16 {
        f: Shift,
        d: Slot,
        a: Slot,
        n: Slot,
    },
    One32 {
        f: One,
        d: Slot,
        a: Slot,
    },
    One64 {
        f: One,
        d: Slot,
        a: Slot,
    },
    One16 {
        f: One,
        d: Slot,
        a: Slot,
    },
    /// Clz and popc of 64 bits give 32.
    Count64 {
        f: One,
        d: Slot,
        a: Slot,
    },
    /// 32 × 32 → 64, plus `c` where there is one.
    Wide {
        signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Option<Slot>,
    },
    /// 16 × 16 → 32, plus `c` where there is one.
    Wide16 {
        signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Option<Slot>,
    },
    MulAdd32 {
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    MulAdd64 {
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    MulAdd16 {
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    MulHighAdd {
        signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Bfe32 {
        signed: bool,
        d: Slot,
        a: Slot,
        at: Slot,
        n: Slot,
    },
    Bfe64 {
        signed: bool,
        d: Slot,
        a: Slot,
        at: Slot,
        n: Slot,
    },
    /// a, b, position, length
    Bfi32 {
        d: Slot,
        ab: [Slot; 2],
        at: Slot,
        n: Slot,
    },
    Prmt {
        d: Slot,
        a: Slot,
        b: Slot,
        selector: Slot,
    },
    Lop3 {
        d: Slot,
        abc: [Slot; 3],
        table: u8,
    },
    Shf {
        left: bool,
        clamp: bool,
        d: Slot,
        low: Slot,
        high: Slot,
        n: Slot,
    },
    Dp4a {
        a_signed: bool,
        b_signed: bool,
        d: Slot,
        abc: [Slot; 3],
    },
}

impl Integer {
    pub fn run(&self, regs: &mut Registers, mask: u32) {
        match *self {
            Integer::Two32 { f, d, a, b } => {
                let (x, y) = (regs.r.get(a), regs.r.get(b));
                let (pa, pb) = (regs.r.halves(a), regs.r.halves(b));
                let mut poison = pa | pb;
                if poison.any() & mask != 0 {
                    poison = match f {
                        Two::And => Halves {
                            low: and_poison(x, y, pa.low, pb.low, 0xffff),
                            high: and_poison(x, y, pa.high, pb.high, 0xffff_0000),
                        },
                        Two::Or | Two::Xor => poison,
                        _ => Halves::both(poison.any()),
                    };
                }
                // The commonest, spelt out so that they become vector instructions.
                let out = match f {
                    Two::Add => map2(x, y, |a, b| a.wrapping_add(b)),
                    Two::Sub => map2(x, y, |a, b| a.wrapping_sub(b)),
                    Two::And => map2(x, y, |a, b| a & b),
                    Two::Or => map2(x, y, |a, b| a | b),
                    Two::Xor => map2(x, y, |a, b| a ^ b),
                    Two::Mul => map2(x, y, |a, b| a.wrapping_mul(b)),
                    other => map2(x, y, two32(other)),
                };
                regs.r.put_halves(d, &out, poison, mask);
            }
            Integer::Two64 { f, d, a, b } => {
                let (x, y) = (regs.d.get(a), regs.d.get(b));
                let out = match f {
                    Two::Add => map2(x, y, |a, b| a.wrapping_add(b)),
                    Two::Or => map2(x, y, |a, b| a | b),
                    other => map2(x, y, two64(other)),
                };
                regs.d.put(d, &out, regs.d.poison(a) | regs.d.poison(b), mask);
            }
            Integer::Two16 { f, signed, d, a, b } => {
                let function = two32(f);
                let widen = |v: u32| if signed { sign16(v) } else { v & 0xffff };
                let high = matches!(f, Two::MulHighS | Two::MulHighU);
                let out = map2(regs.r.get(a), regs.r.get(b), |x, y| {
                    let (x, y) = (widen(x), widen(y));
                    if high { (x.wrapping_mul(y) >> 16) & 0xffff } else { function(x, y) & 0xffff }
                });
                regs.r.put(d, &out, regs.r.poison(a) | regs.r.poison(b), mask);
            }
            Integer::Shift32 { f, d, a, n } => {
                let (x, y) = (regs.r.get(a), regs.r.get(n));
                let out = match f {
                    Shift::Left => map2(x, y, |a, n| if n < 32 { a << n } else { 0 }),
                    Shift::RightU => map2(x, y, |a, n| if n < 32 { a >> n } else { 0 }),
                    Shift::RightS => map2(x, y, |a, n| ((a as i32) >> n.min(31)) as u32),
                };
                let (held, by) = (regs.r.halves(a), regs.r.poison(n));
                let poison = match f {
                    // By 16 one half goes where the other was.
                    _ if held.low == held.high || by != 0 || y.iter().any(|n| *n != 16) => {
                        Halves::both(held.any() | by)
                    }
                    Shift::Left => Halves { low: 0, high: held.low },
                    Shift::RightU => Halves { low: held.high, high: 0 },
                    Shift::RightS => Halves::both(held.high),
                };
                regs.r.put_halves(d, &out, poison, mask);
            }
            Integer::Shift64 { f, d, a, n } => {
                let out = map2(regs.d.get(a), regs.r.get(n), |a, n| shift64(f, a, n));
                regs.d.put(d, &out, regs.d.poison(a) | regs.r.poison(n), mask);
            }
            Integer::Shift16 { f, d, a, n } => {
                let out = map2(regs.r.get(a), regs.r.get(n), |a, n| {
                    let a = if f == Shift::RightS { sign16(a) as i32 as i64 as u64 } else { u64::from(a & 0xffff) };
                    (shift64(f, a, n) & 0xffff) as u32
                });
                regs.r.put(d, &out, regs.r.poison(a) | regs.r.poison(n), mask);
            }
            Integer::One32 { f, d, a } => {
                let function = one64(f, 32);
                let out = map1(regs.r.get(a), |a| function(u64::from(a)) as u32);
                regs.r.put(d, &out, regs.r.poison(a), mask);
            }
            Integer::One16 { f, d, a } => {
                let function = one64(f, 16);
                let out = map1(regs.r.get(a), |a| function(u64::from(a)) as u32);
                regs.r.put(d, &out, regs.r.poison(a), mask);
            }
            Integer::One64 { f, d, a } => {
                let out = map1(regs.d.get(a), one64(f, 64));
                regs.d.put(d, &out, regs.d.poison(a), mask);
            }
            Integer::Count64 { f, d, a } => {
                let function = one64(f, 64);
                let out = map1(regs.d.get(a), |a| function(a) as u32);
                regs.r.put(d, &out, regs.d.poison(a), mask);
            }
            Integer::Wide { signed, d, a, b, c } => {
                let (x, y) = (regs.r.get(a), regs.r.get(b));
                let mut out = if signed {
                    map2(x, y, |a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64)
                } else {
                    map2(x, y, |a, b| u64::from(a) * u64::from(b))
                };
                let mut poison = regs.r.poison(a) | regs.r.poison(b);
                if let Some(c) = c {
                    out = map2(&out, regs.d.get(c), |a, b| a.wrapping_add(b));
                    poison |= regs.d.poison(c);
                }
                regs.d.put(d, &out, poison, mask);
            }
            Integer::Wide16 { signed, d, a, b, c } => {
                let widen = |v: u32| if signed { sign16(v) } else { v & 0xffff };
                let mut out = map2(regs.r.get(a), regs.r.get(b), |x, y| widen(x).wrapping_mul(widen(y)));
                let mut poison = regs.r.poison(a) | regs.r.poison(b);
                if let Some(c) = c {
                    out = map2(&out, regs.r.get(c), |a, b| a.wrapping_add(b));
                    poison |= regs.r.poison(c);
                }
                regs.r.put(d, &out, poison, mask);
            }
            Integer::MulAdd64 { d, a, b, c } => {
                let out =
                    map3(regs.d.get(a), regs.d.get(b), regs.d.get(c), |a, b, c| a.wrapping_mul(b).wrapping_add(c));
                regs.d.put(d, &out, regs.d.poison(a) | regs.d.poison(b) | regs.d.poison(c), mask);
            }
            Integer::MulAdd32 { d, a, b, c } => {
                three(regs, d, [a, b, c], mask, |a, b, c| a.wrapping_mul(b).wrapping_add(c));
            }
            Integer::MulAdd16 { d, a, b, c } => {
                three(regs, d, [a, b, c], mask, |a, b, c| a.wrapping_mul(b).wrapping_add(c) & 0xffff);
            }
            Integer::MulHighAdd { signed, d, a, b, c } => {
                let high = two32(if signed { Two::MulHighS } else { Two::MulHighU });
                three(regs, d, [a, b, c], mask, |a, b, c| high(a, b).wrapping_add(c));
            }
            Integer::Bfe32 { signed, d, a, at, n } => {
                three(regs, d, [a, at, n], mask, |a, at, n| extract(u64::from(a), at, n, 32, signed) as u32);
            }
            Integer::Bfe64 { signed, d, a, at, n } => {
                let out = map3(regs.d.get(a), regs.r.get(at), regs.r.get(n), |a, at, n| extract(a, at, n, 64, signed));
                regs.d.put(d, &out, regs.d.poison(a) | regs.r.poison(at) | regs.r.poison(n), mask);
            }
            Integer::Bfi32 { d, ab: [a, b], at, n } => {
                let field = map2(regs.r.get(at), regs.r.get(n), |at, n| {
                    let (at, n) = (at & 255, n & 255);
                    let ones = if n >= 32 { u32::MAX } else { (1 << n) - 1 };
                    (ones.checked_shl(at).unwrap_or(0), at)
                });
                let out = map3(regs.r.get(a), regs.r.get(b), &field, |a, b, (field, at)| {
                    b & !field | a.checked_shl(at).unwrap_or(0) & field
                });
                let poison = [a, b, at, n].iter().fold(0, |all, slot| all | regs.r.poison(*slot));
                regs.r.put(d, &out, poison, mask);
            }
            Integer::Prmt { d, a, b, selector } => {
                let out = map3(regs.r.get(a), regs.r.get(b), regs.r.get(selector), prmt);
                let (pa, pb) = (regs.r.halves(a), regs.r.halves(b));
                let by = Halves::both(regs.r.poison(selector));
                let poison = match (pa | pb).any() & mask {
                    0 => Halves::default(),
                    _ => prmt_poison(regs.r.get(selector), [pa.low, pa.high, pb.low, pb.high]),
                };
                regs.r.put_halves(d, &out, poison | by, mask);
            }
            Integer::Lop3 { d, abc, table } => three(regs, d, abc, mask, |a, b, c| lop3(a, b, c, table)),
            Integer::Shf { left, clamp, d, low, high, n } => three(regs, d, [low, high, n], mask, |low, high, n| {
                let n = if clamp { n.min(32) } else { n & 31 };
                let both = u64::from(low) | u64::from(high) << 32;
                if left { (both << n >> 32) as u32 } else { (both >> n) as u32 }
            }),
            Integer::Dp4a { a_signed, b_signed, d, abc } => {
                three(regs, d, abc, mask, |a, b, c| (c as i32).wrapping_add(dp4a(a, b, [a_signed, b_signed])) as u32)
            }
        }
    }
}

fn three(regs: &mut Registers, d: Slot, [a, b, c]: [Slot; 3], mask: u32, f: impl Fn(u32, u32, u32) -> u32) {
    let out = map3(regs.r.get(a), regs.r.get(b), regs.r.get(c), f);
    regs.r.put(d, &out, regs.r.poison(a) | regs.r.poison(b) | regs.r.poison(c), mask);
}
