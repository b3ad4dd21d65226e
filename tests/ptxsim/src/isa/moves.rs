//! Moves, packing, and changes of address space.

use super::table::{Decoded, one};
use super::value::Word;
use crate::decode::{Call, Decoder};
use crate::memory::{PARAMETER_WINDOW, SHARED_WINDOW};
use crate::parse::Operand;
use crate::parse::RegisterKind::{Double, Predicate, Word as Single};
use crate::registers::{Halves, map1};

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Decoded {
    match call.parts[..] {
        ["mov", ..] => mov(d, call),
        ["cvta", .., "u64"] => address(d, call),
        // Without clusters every address is in block 0.
        ["mapa", .., "u64"] => copy::<u64>(d, call),
        ["mapa", ..] => copy::<u32>(d, call),
        ["createpolicy", ..] => {
            let to = d.target(d.at(call, 0)?, Double)?;
            Ok(Box::new(move |regs, mask| regs.d.put(to, &[0; 32], 0, mask)))
        }
        _ => d.unknown(),
    }
}

fn mov(d: &mut Decoder, call: &Call) -> Decoded {
    d.count(call, 2..=2)?;
    let bits = call.last().trim_start_matches(|c: char| !c.is_ascii_digit());
    match (&call.operands[0], &call.operands[1], bits) {
        (to, from, "") if call.last() == "pred" => {
            let (to, a) = (d.target(to, Predicate)?, d.p(from)?);
            Ok(Box::new(move |regs, mask| {
                let (bits, poison) = regs.predicate(a);
                regs.set_predicate(to, bits, poison, mask);
            }))
        }
        (Operand::Vector(to), from, "32") if to.len() == 2 => split32(d, &call.operands[0], from),
        (Operand::Vector(to), from, "64") if matches!(to.len(), 2 | 4) => split64(d, &call.operands[0], from),
        (to, Operand::Vector(from), "32") if from.len() == 2 => join32(d, to, &call.operands[1]),
        (to, Operand::Vector(from), "64") if matches!(from.len(), 2 | 4) => join64(d, to, &call.operands[1]),
        (_, _, "16" | "32") => copy::<u32>(d, call),
        (_, _, "64") => copy::<u64>(d, call),
        _ => d.unknown(),
    }
}

fn copy<W: Word>(d: &mut Decoder, call: &Call) -> Decoded {
    let (to, a) = (d.target(d.at(call, 0)?, W::KIND)?, W::source(d, d.at(call, 1)?)?);
    Ok(Box::new(move |regs, mask| {
        let (value, poison) = (*W::file(regs).get(a), W::file(regs).halves(a));
        W::file_mut(regs).put_halves(to, &value, poison, mask);
    }))
}

/// `mov.b32 {x, y}, a`
fn split32(d: &mut Decoder, to: &Operand, from: &Operand) -> Decoded {
    let (to, a) = (d.word_targets(to)?, d.r(from)?);
    Ok(Box::new(move |regs, mask| {
        let (value, poison) = (*regs.r.get(a), regs.r.halves(a));
        regs.r.put(to[0], &map1(&value, |v| v & 0xffff), poison.low, mask);
        regs.r.put(to[1], &map1(&value, |v| v >> 16), poison.high, mask);
    }))
}

/// `mov.b64 {x, y}, a`, and with four targets of 16 bits.
fn split64(d: &mut Decoder, to: &Operand, from: &Operand) -> Decoded {
    let (to, a) = (d.word_targets(to)?, d.d(from)?);
    Ok(Box::new(move |regs, mask| {
        let (value, poison, bits) = (*regs.d.get(a), regs.d.poison(a), 64 / to.len());
        for (i, slot) in to.iter().enumerate() {
            let part = map1(&value, |v| (v >> (bits * i) & (u64::MAX >> (64 - bits))) as u32);
            regs.r.put(*slot, &part, poison, mask);
        }
    }))
}

/// `mov.b32 d, {x, y}`
fn join32(d: &mut Decoder, to: &Operand, from: &Operand) -> Decoded {
    let (to, a) = (d.target(to, Single)?, d.words(from)?);
    Ok(Box::new(move |regs, mask| {
        let (low, high) = (regs.r.get(a[0]), regs.r.get(a[1]));
        let value = std::array::from_fn(|i| low[i] & 0xffff | high[i] << 16);
        let poison = Halves { low: regs.r.poison(a[0]), high: regs.r.poison(a[1]) };
        regs.r.put_halves(to, &value, poison, mask);
    }))
}

/// `mov.b64 d, {x, y}`, and with four sources of 16 bits.
fn join64(d: &mut Decoder, to: &Operand, from: &Operand) -> Decoded {
    let (to, a) = (d.target(to, Double)?, d.words(from)?);
    Ok(Box::new(move |regs, mask| {
        let (mut value, mut poison, bits) = ([0; 32], 0, 64 / a.len());
        for (i, slot) in a.iter().enumerate() {
            let part = regs.r.get(*slot);
            (0..32).for_each(|lane| value[lane] |= (u64::from(part[lane]) & u64::MAX >> (64 - bits)) << (bits * i));
            poison |= regs.r.poison(*slot);
        }
        regs.d.put(to, &value, poison, mask);
    }))
}

/// `cvta`: adds or subtracts the base of a window.
fn address(d: &mut Decoder, call: &Call) -> Decoded {
    let window = match call.parts[..] {
        [.., "global", _] => 0,
        [.., "shared" | "shared::cta" | "shared::cluster", _] => SHARED_WINDOW,
        [.., "param", _] => PARAMETER_WINDOW,
        _ => return d.unknown(),
    };
    let by = if call.has("to") { window.wrapping_neg() } else { window };
    one(move |a: u64| a.wrapping_add(by))(d, call)
}
