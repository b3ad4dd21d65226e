//! Comparisons, selections, predicate logic.

use half::{bf16, f16};

use super::table::{Decoded, Row, lanes, poison, put, rows, source, target};
use super::value::{Value, Word};
use crate::decode::{Call, Decoder};
use crate::parse::Operand;
use crate::parse::RegisterKind::Predicate;
use crate::program::Guard;
use crate::registers::{Halves, LANES, Lanes, Registers, Slot, map3, mask_of};

pub(super) const SELECTIONS: &[Row] = rows! {
    optional &[];
    "selp" [u16, i16, u32, i32, f32, u64, i64, f64] select::<T>;
    "slct.b32" [i32, f32] by_sign::<T>;
    "slct.u32" [i32, f32] by_sign::<T>;
    "slct.s32" [i32, f32] by_sign::<T>;
    "slct.f32" [i32, f32] by_sign::<T>;
};

/// Outcomes of a comparison.
const LESS: u8 = 1;
const EQUAL: u8 = 2;
const GREATER: u8 = 4;
/// An operand is NaN.
const UNORDERED: u8 = 8;

/// Comparisons, with the outcomes for which they are true.
pub(super) const SETP: &[Row] = rows! {
    optional &["and", "or", "xor", "ftz"];
    "setp.eq" [u16, i16, u32, i32, u64, i64, f16, bf16, f32, f64] set::<T>(EQUAL);
    "setp.ne" [u16, i16, u32, i32, u64, i64, f16, bf16, f32, f64] set::<T>(LESS | GREATER);
    "setp.lt" [u16, i16, u32, i32, u64, i64, f16, bf16, f32, f64] set::<T>(LESS);
    "setp.le" [u16, i16, u32, i32, u64, i64, f16, bf16, f32, f64] set::<T>(LESS | EQUAL);
    "setp.gt" [u16, i16, u32, i32, u64, i64, f16, bf16, f32, f64] set::<T>(GREATER);
    "setp.ge" [u16, i16, u32, i32, u64, i64, f16, bf16, f32, f64] set::<T>(GREATER | EQUAL);
    "setp.lo" [u16, u32, u64] set::<T>(LESS);
    "setp.ls" [u16, u32, u64] set::<T>(LESS | EQUAL);
    "setp.hi" [u16, u32, u64] set::<T>(GREATER);
    "setp.hs" [u16, u32, u64] set::<T>(GREATER | EQUAL);
    "setp.equ" [f16, bf16, f32, f64] set::<T>(EQUAL | UNORDERED);
    "setp.neu" [f16, bf16, f32, f64] set::<T>(LESS | GREATER | UNORDERED);
    "setp.ltu" [f16, bf16, f32, f64] set::<T>(LESS | UNORDERED);
    "setp.leu" [f16, bf16, f32, f64] set::<T>(LESS | EQUAL | UNORDERED);
    "setp.gtu" [f16, bf16, f32, f64] set::<T>(GREATER | UNORDERED);
    "setp.geu" [f16, bf16, f32, f64] set::<T>(GREATER | EQUAL | UNORDERED);
    "setp.num" [f16, bf16, f32, f64] set::<T>(LESS | EQUAL | GREATER);
    "setp.nan" [f16, bf16, f32, f64] set::<T>(UNORDERED);
};

/// Lanes of a predicate, and which of them are poisoned.
type Bits = (u32, u32);

/// A function of two predicates. Poison of one vanishes where the other decides.
type Logic = fn(Bits, Bits) -> Bits;

const LOGIC: [(&str, Logic); 3] = [
    ("and", |(a, pa), (b, pb)| (a & b, (pa | pb) & !(!a & !pa) & !(!b & !pb))),
    ("or", |(a, pa), (b, pb)| (a | b, (pa | pb) & !(a & !pa) & !(b & !pb))),
    ("xor", |(a, pa), (b, pb)| (a ^ b, pa | pb)),
];

impl Guard {
    /// The predicate's lanes after negation, and its poison.
    #[inline]
    pub fn lanes(self, regs: &Registers) -> Bits {
        let (bits, poison) = regs.predicate(self.slot);
        (if self.negated { !bits } else { bits }, poison)
    }
}

/// `setp.test.type p, a, b` or `setp.test.logic.type p|q, a, b, c`; `q` gets the opposite of the comparison.
fn set<T: Value + PartialOrd>(outcomes: u8) -> impl FnOnce(&mut Decoder, &Call) -> Decoded {
    move |d, call| {
        let combine = match LOGIC.iter().find(|(name, _)| call.has(name)) {
            Some((_, logic)) => Some((*logic, d.condition(d.at(call, 3)?)?)),
            None => None,
        };
        d.count(call, if combine.is_some() { 4..=4 } else { 3..=3 })?;
        let (p, q) = match &call.operands[0] {
            Operand::Pair(p, q) => (d.named_target(p, Predicate)?, Some(d.named_target(q, Predicate)?)),
            other => (d.target(other, Predicate)?, None),
        };
        let (a, b) = (source::<T>(d, &call.operands[1])?, source::<T>(d, &call.operands[2])?);
        let test = test::<T>(outcomes);
        Ok(Box::new(move |regs, mask| {
            let (bits, poison) = (test(regs, a, b), (poison::<T>(regs, a) | poison::<T>(regs, b)).any());
            let combined = |bits: u32| match combine {
                Some((logic, guard)) => logic((bits, poison), guard.lanes(regs)),
                None => (bits, poison),
            };
            let (set, opposite) = (combined(bits), combined(!bits));
            if let Some(q) = q {
                regs.set_predicate(q, opposite.0, opposite.1, mask);
            }
            regs.set_predicate(p, set.0, set.1, mask);
        }))
    }
}

type Test = Box<dyn Fn(&Registers, Slot, Slot) -> u32 + Send + Sync>;

/// The lanes of two registers with one of the outcomes.
fn test<T: Value + PartialOrd>(outcomes: u8) -> Test {
    fn over<T: Value>(f: impl Fn(T, T) -> bool + Send + Sync + 'static) -> Test {
        Box::new(move |regs, a, b| {
            let (x, y) = (lanes::<T>(regs, a), lanes::<T>(regs, b));
            mask_of(|i| f(T::of(x[i]), T::of(y[i])))
        })
    }
    const LESS_EQUAL: u8 = LESS | EQUAL;
    const GREATER_EQUAL: u8 = GREATER | EQUAL;
    const DIFFERENT: u8 = LESS | GREATER;
    match outcomes {
        LESS => over(|a: T, b: T| a < b),
        LESS_EQUAL => over(|a: T, b: T| a <= b),
        EQUAL => over(|a: T, b: T| a == b),
        GREATER => over(|a: T, b: T| a > b),
        GREATER_EQUAL => over(|a: T, b: T| a >= b),
        // Unlike `a != b`, false where one of them is NaN.
        #[allow(clippy::double_comparisons)]
        DIFFERENT => over(|a: T, b: T| a < b || a > b),
        UNORDERED => over(|a: T, b: T| a.partial_cmp(&b).is_none()),
        // All others are the complement of one of these.
        _ => {
            let inverse = test::<T>(!outcomes & (LESS | EQUAL | GREATER | UNORDERED));
            Box::new(move |regs, a, b| !inverse(regs, a, b))
        }
    }
}

/// `and.pred`, `or.pred`, `xor.pred`, `not.pred`
pub(super) fn logic(d: &mut Decoder, call: &Call) -> Decoded {
    let to = d.target(d.at(call, 0)?, Predicate)?;
    let a = d.condition(d.at(call, 1)?)?;
    let Some((_, logic)) = LOGIC.iter().find(|(name, _)| call.parts[0] == *name) else {
        return Ok(Box::new(move |regs, mask| {
            let (bits, poison) = a.lanes(regs);
            regs.set_predicate(to, !bits, poison, mask);
        }));
    };
    let b = d.condition(d.at(call, 2)?)?;
    Ok(Box::new(move |regs, mask| {
        let (bits, poison) = logic(a.lanes(regs), b.lanes(regs));
        regs.set_predicate(to, bits, poison, mask);
    }))
}

/// `selp d, a, b, p`: only what is selected counts as read.
fn select<T: Value>(d: &mut Decoder, call: &Call) -> Decoded {
    d.count(call, 4..=4)?;
    let to = target::<T>(d, &call.operands[0])?;
    let (a, b) = (source::<T>(d, &call.operands[1])?, source::<T>(d, &call.operands[2])?);
    let p = d.condition(&call.operands[3])?;
    Ok(Box::new(move |regs, mask| {
        let (take, unknown) = p.lanes(regs);
        let held = |slot| T::Word::file(regs).halves(slot);
        let chosen = held(a) & take | held(b) & !take;
        let out = choose::<T>(regs, a, b, take);
        put::<T>(regs, to, &out, chosen | Halves::both(unknown), mask);
    }))
}

/// `slct d, a, b, c`: `a` where `c` ≥ 0, else `b`.
fn by_sign<T: Value + PartialOrd + Default>(d: &mut Decoder, call: &Call) -> Decoded {
    d.count(call, 4..=4)?;
    let to = target::<u32>(d, &call.operands[0])?;
    let (a, b) = (source::<u32>(d, &call.operands[1])?, source::<u32>(d, &call.operands[2])?);
    let c = source::<T>(d, &call.operands[3])?;
    Ok(Box::new(move |regs, mask| {
        let signs = lanes::<T>(regs, c);
        let take = mask_of(|i| T::of(signs[i]) >= T::default());
        let chosen = poison::<u32>(regs, a) & take | poison::<u32>(regs, b) & !take;
        let out = choose::<u32>(regs, a, b, take);
        let unknown = poison::<T>(regs, c);
        put::<u32>(regs, to, &out, chosen | unknown, mask);
    }))
}

fn choose<T: Value>(regs: &Registers, a: Slot, b: Slot, take: u32) -> Lanes<T::Word> {
    let (x, y) = (lanes::<T>(regs, a), lanes::<T>(regs, b));
    let mut picks = [T::Word::default(); LANES];
    for (i, pick) in picks.iter_mut().enumerate() {
        *pick = if take >> i & 1 == 1 { !T::Word::default() } else { T::Word::default() };
    }
    map3(x, y, &picks, |x, y, pick| x & pick | y & !pick)
}
