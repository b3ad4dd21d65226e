//! Moves, packing, and changes of address space.

use crate::decode::{Call, Decoder};
use crate::fault::ParseError;
use crate::memory::{PARAMETER_WINDOW, SHARED_WINDOW};
use crate::parse::Operand;
use crate::parse::RegisterKind::{Double, Predicate, Word};
use crate::registers::{Halves, Registers, Slot, map1};

#[derive(Debug)]
pub(crate) enum Move {
    Word {
        d: Slot,
        a: Slot,
    },
    Double {
        d: Slot,
        a: Slot,
    },
    Predicate {
        d: Slot,
        a: Slot,
    },
    /// 32 bits → 2 × 16.
    Split32 {
        d: Box<[Slot]>,
        a: Slot,
    },
    /// 64 bits → 2 × 32 or 4 × 16.
    Split64 {
        d: Box<[Slot]>,
        a: Slot,
    },
    Join32 {
        d: Slot,
        a: Box<[Slot]>,
    },
    Join64 {
        d: Slot,
        a: Box<[Slot]>,
    },
    /// Adds a window's base.
    Shift {
        d: Slot,
        a: Slot,
        by: u64,
    },
}

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Move, ParseError> {
    match call.parts[0] {
        "mov" => decode_mov(d, call),
        "cvta" => {
            d.count(call, 2..=2)?;
            let window = match call.parts[..] {
                [.., "global", _] => 0,
                [.., "shared" | "shared::cta" | "shared::cluster", _] => SHARED_WINDOW,
                [.., "param", _] => PARAMETER_WINDOW,
                _ => return d.unknown(),
            };
            let by = if call.has("to") { window.wrapping_neg() } else { window };
            if call.last() != "u64" {
                return d.unknown();
            }
            Ok(Move::Shift { d: d.target(&call.operands[0], Double)?, a: d.d(&call.operands[1])?, by })
        }
        "mapa" => {
            // Without clusters every address is in block 0.
            d.count(call, 3..=3)?;
            if call.last() == "u64" {
                return Ok(Move::Double { d: d.target(&call.operands[0], Double)?, a: d.d(&call.operands[1])? });
            }
            Ok(Move::Word { d: d.target(&call.operands[0], Word)?, a: d.r(&call.operands[1])? })
        }
        _ => {
            let a = d.double(0);
            Ok(Move::Double { d: d.target(d.at(call, 0)?, Double)?, a })
        }
    }
}

fn decode_mov(d: &mut Decoder, call: &Call) -> Result<Move, ParseError> {
    d.count(call, 2..=2)?;
    let (to, from) = (&call.operands[0], &call.operands[1]);
    let bits = call.last().trim_start_matches(|c: char| !c.is_ascii_digit());
    match (to, from, bits) {
        (_, _, "") if call.last() == "pred" => Ok(Move::Predicate { d: d.target(to, Predicate)?, a: d.p(from)? }),
        (Operand::Vector(_), _, "32") => Ok(Move::Split32 { d: d.word_targets(to)?, a: d.r(from)? }),
        (Operand::Vector(_), _, "64") => Ok(Move::Split64 { d: d.word_targets(to)?, a: d.d(from)? }),
        (_, Operand::Vector(_), "32") => Ok(Move::Join32 { d: d.target(to, Word)?, a: d.words(from)? }),
        (_, Operand::Vector(_), "64") => Ok(Move::Join64 { d: d.target(to, Double)?, a: d.words(from)? }),
        (_, _, "16" | "32") => Ok(Move::Word { d: d.target(to, Word)?, a: d.r(from)? }),
        (_, _, "64") => Ok(Move::Double { d: d.target(to, Double)?, a: d.d(from)? }),
        _ => d.unknown(),
    }
}

impl Move {
    pub fn run(&self, regs: &mut Registers, mask: u32) {
        match self {
            Move::Word { d, a } => {
                let value = *regs.r.get(*a);
                regs.r.put_halves(*d, &value, regs.r.halves(*a), mask);
            }
            Move::Double { d, a } => {
                let value = *regs.d.get(*a);
                regs.d.put(*d, &value, regs.d.poison(*a), mask);
            }
            Move::Predicate { d, a } => {
                let (bits, poison) = regs.predicate(*a);
                regs.set_predicate(*d, bits, poison, mask);
            }
            Move::Split32 { d, a } => {
                let (value, poison) = (*regs.r.get(*a), regs.r.halves(*a));
                for (i, slot) in d.iter().enumerate() {
                    let poison = if i == 0 { poison.low } else { poison.high };
                    regs.r.put(*slot, &map1(&value, |v| v >> (16 * i) & 0xffff), poison, mask);
                }
            }
            Move::Split64 { d, a } => {
                let (value, poison) = (*regs.d.get(*a), regs.d.poison(*a));
                let bits = 64 / d.len();
                for (i, slot) in d.iter().enumerate() {
                    let part = map1(&value, |v| (v >> (bits * i) & (u64::MAX >> (64 - bits))) as u32);
                    regs.r.put(*slot, &part, poison, mask);
                }
            }
            Move::Join32 { d, a } => {
                let (mut value, mut poison) = ([0; 32], Halves::default());
                for (i, slot) in a.iter().enumerate() {
                    let part = regs.r.get(*slot);
                    (0..32).for_each(|lane| value[lane] |= (part[lane] & 0xffff) << (16 * i));
                    let half = if i == 0 { &mut poison.low } else { &mut poison.high };
                    *half |= regs.r.poison(*slot);
                }
                regs.r.put_halves(*d, &value, poison, mask);
            }
            Move::Join64 { d, a } => {
                let (mut value, mut poison) = ([0; 32], 0);
                let bits = 64 / a.len();
                for (i, slot) in a.iter().enumerate() {
                    let part = regs.r.get(*slot);
                    (0..32).for_each(|lane| {
                        value[lane] |= (u64::from(part[lane]) & u64::MAX >> (64 - bits)) << (bits * i)
                    });
                    poison |= regs.r.poison(*slot);
                }
                regs.d.put(*d, &value, poison, mask);
            }
            Move::Shift { d, a, by } => {
                let value = map1(regs.d.get(*a), |v| v.wrapping_add(*by));
                regs.d.put(*d, &value, regs.d.poison(*a), mask);
            }
        }
    }
}
