//! Comparisons, selections, predicate logic.

use half::{bf16, f16};

use crate::decode::{Call, Decoder};
use crate::fault::ParseError;
use crate::parse::Operand;
use crate::parse::RegisterKind::{Double, Predicate, Word};
use crate::program::Guard;
use crate::registers::{Halves, Registers, Slot, map1, map2, mask_of};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Neither is NaN.
    Num,
    /// One is NaN.
    Nan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U(u32),
    S(u32),
    F16,
    Bf16,
    F32,
    F64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

#[derive(Debug)]
pub(crate) enum Compare {
    Set {
        test: Comparison,
        d: Slot,
        /// Gets the opposite.
        q: Option<Slot>,
        ab: [Slot; 2],
        combine: Option<(Logic, Guard)>,
    },
    Logic {
        f: Logic,
        d: Slot,
        a: Guard,
        b: Guard,
    },
    Not {
        d: Slot,
        a: Guard,
    },
    Select32 {
        d: Slot,
        a: Slot,
        b: Slot,
        p: Guard,
    },
    Select64 {
        d: Slot,
        a: Slot,
        b: Slot,
        p: Guard,
    },
    /// a where c ≥ 0, else b.
    BySign {
        d: Slot,
        ab: [Slot; 2],
        c: Slot,
        float: bool,
    },
}

/// A test of one type; `unordered` is what NaN gives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comparison {
    test: Test,
    unordered: bool,
    kind: Kind,
}

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Compare, ParseError> {
    let ty = call.last();
    let bits: u32 = ty.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
    match call.parts[0] {
        "selp" => {
            d.count(call, 4..=4)?;
            let p = d.condition(&call.operands[3])?;
            if bits == 64 {
                let (a, b) = (d.d(&call.operands[1])?, d.d(&call.operands[2])?);
                return Ok(Compare::Select64 { d: d.target(&call.operands[0], Double)?, a, b, p });
            }
            let (a, b) = (d.r(&call.operands[1])?, d.r(&call.operands[2])?);
            Ok(Compare::Select32 { d: d.target(&call.operands[0], Word)?, a, b, p })
        }
        "slct" if call.parts[call.parts.len() - 2].ends_with("32") => {
            d.count(call, 4..=4)?;
            let (a, b, c) = (d.r(&call.operands[1])?, d.r(&call.operands[2])?, d.r(&call.operands[3])?);
            Ok(Compare::BySign { d: d.target(&call.operands[0], Word)?, ab: [a, b], c, float: ty == "f32" })
        }
        "setp" => decode_set(d, call, ty, bits),
        _ => d.unknown(),
    }
}

fn decode_set(d: &mut Decoder, call: &Call, ty: &str, bits: u32) -> Result<Compare, ParseError> {
    let kind = match ty {
        "f16" => Kind::F16,
        "bf16" => Kind::Bf16,
        "f32" => Kind::F32,
        "f64" => Kind::F64,
        _ if ty.starts_with('s') => Kind::S(bits),
        _ if ty.starts_with(['u', 'b']) && bits > 0 => Kind::U(bits),
        _ => return d.unknown(),
    };
    let (test, unordered) = match call.parts[1] {
        "eq" => (Test::Eq, false),
        "ne" => (Test::Ne, false),
        "lt" | "lo" => (Test::Lt, false),
        "le" | "ls" => (Test::Le, false),
        "gt" | "hi" => (Test::Gt, false),
        "ge" | "hs" => (Test::Ge, false),
        "equ" => (Test::Eq, true),
        "neu" => (Test::Ne, true),
        "ltu" => (Test::Lt, true),
        "leu" => (Test::Le, true),
        "gtu" => (Test::Gt, true),
        "geu" => (Test::Ge, true),
        "num" => (Test::Num, false),
        "nan" => (Test::Nan, true),
        _ => return d.unknown(),
    };
    let logic = [("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)];
    let combine = match logic.iter().find(|(name, _)| call.parts[2] == *name) {
        Some((_, logic)) => Some((*logic, d.condition(d.at(call, 3)?)?)),
        None => None,
    };
    d.count(call, if combine.is_some() { 4..=4 } else { 3..=3 })?;
    let (target, q) = match &call.operands[0] {
        Operand::Pair(p, q) => {
            (d.target(&Operand::Word(p.clone()), Predicate)?, Some(d.target(&Operand::Word(q.clone()), Predicate)?))
        }
        other => (d.target(other, Predicate)?, None),
    };
    let ab = if bits == 64 {
        [d.d(&call.operands[1])?, d.d(&call.operands[2])?]
    } else {
        [d.r(&call.operands[1])?, d.r(&call.operands[2])?]
    };
    Ok(Compare::Set { test: Comparison { test, unordered, kind }, d: target, q, ab, combine })
}

pub(super) fn decode_logic(d: &mut Decoder, call: &Call) -> Result<Compare, ParseError> {
    let target = d.target(d.at(call, 0)?, Predicate)?;
    let a = d.condition(d.at(call, 1)?)?;
    let f = match call.parts[0] {
        "and" => Logic::And,
        "or" => Logic::Or,
        "xor" => Logic::Xor,
        _ => return Ok(Compare::Not { d: target, a }),
    };
    Ok(Compare::Logic { f, d: target, a, b: d.condition(d.at(call, 2)?)? })
}

fn ordered<T: PartialOrd>(test: Test, a: T, b: T) -> bool {
    match test {
        Test::Eq => a == b,
        Test::Ne => a != b,
        Test::Lt => a < b,
        Test::Le => a <= b,
        Test::Gt => a > b,
        Test::Ge => a >= b,
        Test::Num => true,
        Test::Nan => false,
    }
}

impl Comparison {
    fn float(self, a: f64, b: f64) -> bool {
        if a.is_nan() || b.is_nan() { self.unordered } else { ordered(self.test, a, b) }
    }

    fn lanes(self, regs: &Registers, [a, b]: [Slot; 2]) -> (u32, u32) {
        let test = self.test;
        let poison = match self.kind {
            Kind::U(64) | Kind::S(64) | Kind::F64 => regs.d.poison(a) | regs.d.poison(b),
            _ => regs.r.poison(a) | regs.r.poison(b),
        };
        let bits = match self.kind {
            Kind::U(64) => wide(regs, a, b, |a, b| ordered(test, a, b)),
            Kind::S(64) => wide(regs, a, b, |a, b| ordered(test, a as i64, b as i64)),
            Kind::F64 => wide(regs, a, b, |a, b| self.float(f64::from_bits(a), f64::from_bits(b))),
            Kind::U(32) => match test {
                Test::Eq => words(regs, a, b, |a, b| a == b),
                Test::Ne => words(regs, a, b, |a, b| a != b),
                test => words(regs, a, b, |a, b| ordered(test, a, b)),
            },
            Kind::S(32) => match test {
                Test::Lt => words(regs, a, b, |a, b| (a as i32) < b as i32),
                test => words(regs, a, b, |a, b| ordered(test, a as i32, b as i32)),
            },
            Kind::U(_) => words(regs, a, b, |a, b| ordered(test, a as u16, b as u16)),
            Kind::S(_) => words(regs, a, b, |a, b| ordered(test, a as i16, b as i16)),
            Kind::F32 => {
                words(regs, a, b, |a, b| self.float(f64::from(f32::from_bits(a)), f64::from(f32::from_bits(b))))
            }
            Kind::F16 => words(regs, a, b, |a, b| {
                self.float(f16::from_bits(a as u16).to_f64(), f16::from_bits(b as u16).to_f64())
            }),
            Kind::Bf16 => words(regs, a, b, |a, b| {
                self.float(bf16::from_bits(a as u16).to_f64(), bf16::from_bits(b as u16).to_f64())
            }),
        };
        (bits, poison)
    }
}

fn words(regs: &Registers, a: Slot, b: Slot, f: impl Fn(u32, u32) -> bool) -> u32 {
    let (a, b) = (regs.r.get(a), regs.r.get(b));
    mask_of(|i| f(a[i], b[i]))
}

fn wide(regs: &Registers, a: Slot, b: Slot, f: impl Fn(u64, u64) -> bool) -> u32 {
    let (a, b) = (regs.d.get(a), regs.d.get(b));
    mask_of(|i| f(a[i], b[i]))
}

impl Guard {
    /// The predicate's lanes after negation, and its poison.
    #[inline]
    pub fn lanes(self, regs: &Registers) -> (u32, u32) {
        let (bits, poison) = regs.predicate(self.slot);
        (if self.negated { !bits } else { bits }, poison)
    }
}

impl Logic {
    /// Poison of one operand vanishes where the other decides.
    fn apply(self, (a, pa): (u32, u32), (b, pb): (u32, u32)) -> (u32, u32) {
        match self {
            Logic::And => (a & b, (pa | pb) & !(!a & !pa) & !(!b & !pb)),
            Logic::Or => (a | b, (pa | pb) & !(a & !pa) & !(b & !pb)),
            Logic::Xor => (a ^ b, pa | pb),
        }
    }
}

impl Compare {
    pub fn run(&self, regs: &mut Registers, mask: u32) {
        match *self {
            Compare::Set { test, d, q, ab, combine } => {
                let (bits, poison) = test.lanes(regs, ab);
                let (set, set_poison) = match combine {
                    Some((logic, guard)) => logic.apply((bits, poison), guard.lanes(regs)),
                    None => (bits, poison),
                };
                if let Some(q) = q {
                    let (bits, poison) = match combine {
                        Some((logic, guard)) => logic.apply((!bits, poison), guard.lanes(regs)),
                        None => (!bits, poison),
                    };
                    regs.set_predicate(q, bits, poison, mask);
                }
                regs.set_predicate(d, set, set_poison, mask);
            }
            Compare::Logic { f, d, a, b } => {
                let (bits, poison) = f.apply(a.lanes(regs), b.lanes(regs));
                regs.set_predicate(d, bits, poison, mask);
            }
            Compare::Not { d, a } => {
                let (bits, poison) = a.lanes(regs);
                regs.set_predicate(d, !bits, poison, mask);
            }
            Compare::Select32 { d, a, b, p } => {
                let (take, poison) = p.lanes(regs);
                let chosen = regs.r.halves(a) & take | regs.r.halves(b) & !take;
                let pick = lanes_of_mask(take);
                let both = map2(regs.r.get(a), regs.r.get(b), |a, b| (a, b));
                let out = map2(&both, &pick, |(a, b), pick| a & pick | b & !pick);
                regs.r.put_halves(d, &out, chosen | Halves::both(poison), mask);
            }
            Compare::Select64 { d, a, b, p } => {
                let (take, poison) = p.lanes(regs);
                let chosen = take & regs.d.poison(a) | !take & regs.d.poison(b);
                let (x, y) = (regs.d.get(a), regs.d.get(b));
                let mut out = [0; 32];
                (0..32).for_each(|i| out[i] = if take >> i & 1 == 1 { x[i] } else { y[i] });
                regs.d.put(d, &out, chosen | poison, mask);
            }
            Compare::BySign { d, ab: [a, b], c, float } => {
                let take = map1(regs.r.get(c), |c| if float { f32::from_bits(c) >= 0.0 } else { c as i32 >= 0 });
                let (x, y) = (regs.r.get(a), regs.r.get(b));
                let mut out = [0; 32];
                (0..32).for_each(|i| out[i] = if take[i] { x[i] } else { y[i] });
                let take = mask_of(|i| take[i]);
                let chosen = take & regs.r.poison(a) | !take & regs.r.poison(b);
                regs.r.put(d, &out, chosen | regs.r.poison(c), mask);
            }
        }
    }
}

/// All ones in the lanes of a mask.
fn lanes_of_mask(mask: u32) -> [u32; 32] {
    let mut out = [0; 32];
    (0..32).for_each(|i| out[i] = 0u32.wrapping_sub(mask >> i & 1));
    out
}
