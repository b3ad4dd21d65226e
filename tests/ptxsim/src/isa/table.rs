//! Tables of lane-wise instructions: a row is a name, the types it exists for, and the function of one lane.

use super::value::{Value, Word};
use crate::decode::{Call, Decoder};
use crate::fault::ParseError;
use crate::parse::Operand;
use crate::registers::{Halves, Lanes, Registers, Slot, map1, map2, map3};

/// What an instruction does to the lanes in a mask. Slots and immediates are captured when it is decoded.
pub(crate) type Effect = Box<dyn Fn(&mut Registers, u32) + Send + Sync>;
pub(super) type Decoded<E = Effect> = Result<E, ParseError>;

/// One instruction for one type.
pub(crate) struct Row<E = Effect> {
    /// The mnemonic and the modifiers that select this row: `mul.wide`.
    pub name: &'static str,
    /// PTX names of the type, the last part of the opcode.
    pub types: &'static [&'static str],
    /// Modifiers that may be present as well.
    pub optional: &'static [&'static str],
    pub decode: fn(&mut Decoder, &Call) -> Decoded<E>,
}

impl<E> Row<E> {
    /// The row that an opcode names.
    pub fn find<'r>(rows: &'r [Row<E>], call: &Call) -> Option<&'r Row<E>> {
        rows.iter().find(|row| row.matches(call))
    }

    fn matches(&self, call: &Call) -> bool {
        let [mnemonic, modifiers @ .., ty] = &call.parts[..] else { return false };
        let mut name = self.name.split('.');
        if name.next() != Some(*mnemonic) || !self.types.contains(ty) {
            return false;
        }
        let required = || name.clone();
        required().all(|part| modifiers.contains(&part))
            && modifiers.iter().all(|part| self.optional.contains(part) || required().any(|name| name == *part))
    }
}

/// Rows `"name" [types] decode;`. In the expression, `T` is the type of the row: `two(|a: T, b: T| a.min(b))`.
macro_rules! rows {
    ($(optional $optional:expr; $($name:literal [$($t:ty),+] $decode:expr;)*)+) => {
        &[$($($({
            #[allow(dead_code)]
            type T = $t;
            crate::isa::table::Row {
                name: $name,
                types: <$t as crate::isa::value::Value>::NAMES,
                optional: $optional,
                decode: |d, call| $decode(d, call),
            }
        },)+)*)+]
    };
}
pub(crate) use rows;

#[inline]
pub(super) fn lanes<T: Value>(regs: &Registers, slot: Slot) -> &Lanes<T::Word> {
    T::Word::file(regs).get(slot)
}

/// Poison that a source contributes to a result.
#[inline]
pub(super) fn poison<T: Value>(regs: &Registers, slot: Slot) -> Halves {
    T::poison(T::Word::file(regs).halves(slot))
}

#[inline]
pub(super) fn put<T: Value>(regs: &mut Registers, slot: Slot, out: &Lanes<T::Word>, poison: Halves, mask: u32) {
    T::Word::file_mut(regs).put_halves(slot, out, poison, mask);
}

pub(super) fn source<T: Value>(d: &mut Decoder, operand: &Operand) -> Result<Slot, ParseError> {
    T::Word::source(d, operand)
}

pub(super) fn target<T: Value>(d: &mut Decoder, operand: &Operand) -> Result<Slot, ParseError> {
    d.target(operand, T::Word::KIND)
}

/// `d = f(a)`
pub(super) fn one<A: Value, R: Value>(
    f: impl Fn(A) -> R + Send + Sync + 'static,
) -> impl FnOnce(&mut Decoder, &Call) -> Decoded {
    |d, call| {
        d.count(call, 2..=2)?;
        let (to, a) = (target::<R>(d, &call.operands[0])?, source::<A>(d, &call.operands[1])?);
        Ok(Box::new(move |regs, mask| {
            let out = map1(lanes::<A>(regs, a), |a| f(A::of(a)).word());
            put::<R>(regs, to, &out, poison::<A>(regs, a), mask);
        }))
    }
}

/// `d = f(a, b)`
pub(super) fn two<A: Value, B: Value, R: Value>(
    f: impl Fn(A, B) -> R + Send + Sync + 'static,
) -> impl FnOnce(&mut Decoder, &Call) -> Decoded {
    two_spread(f, |_, _, a, b| A::poison(a) | B::poison(b))
}

/// As [`two`], with its own rule for poison: a function of the operands and of their poison.
pub(super) fn two_spread<A: Value, B: Value, R: Value>(
    f: impl Fn(A, B) -> R + Send + Sync + 'static,
    spread: impl Fn(&Lanes<A::Word>, &Lanes<B::Word>, Halves, Halves) -> Halves + Send + Sync + 'static,
) -> impl FnOnce(&mut Decoder, &Call) -> Decoded {
    |d, call| {
        d.count(call, 3..=3)?;
        let to = target::<R>(d, &call.operands[0])?;
        let (a, b) = (source::<A>(d, &call.operands[1])?, source::<B>(d, &call.operands[2])?);
        Ok(Box::new(move |regs, mask| {
            let (x, y) = (lanes::<A>(regs, a), lanes::<B>(regs, b));
            let out = map2(x, y, |a, b| f(A::of(a), B::of(b)).word());
            let poison = spread(x, y, A::Word::file(regs).halves(a), B::Word::file(regs).halves(b));
            put::<R>(regs, to, &out, poison, mask);
        }))
    }
}

/// `d = f(a, b, c)`
pub(super) fn three<A: Value, B: Value, C: Value, R: Value>(
    f: impl Fn(A, B, C) -> R + Send + Sync + 'static,
) -> impl FnOnce(&mut Decoder, &Call) -> Decoded {
    |d, call| {
        d.count(call, 4..=4)?;
        let to = target::<R>(d, &call.operands[0])?;
        let (a, b) = (source::<A>(d, &call.operands[1])?, source::<B>(d, &call.operands[2])?);
        let c = source::<C>(d, &call.operands[3])?;
        Ok(Box::new(move |regs, mask| {
            let (x, y, z) = (lanes::<A>(regs, a), lanes::<B>(regs, b), lanes::<C>(regs, c));
            let out = map3(x, y, z, |a, b, c| f(A::of(a), B::of(b), C::of(c)).word());
            let poison = poison::<A>(regs, a) | poison::<B>(regs, b) | poison::<C>(regs, c);
            put::<R>(regs, to, &out, poison, mask);
        }))
    }
}
