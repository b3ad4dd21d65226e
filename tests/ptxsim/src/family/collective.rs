//! What the lanes of a warp do together: shuffles, votes, reductions.

use crate::decode::{Call, Decoder};
use crate::fault::{FaultKind, ParseError, Run, Trouble};
use crate::parse::Operand;
use crate::parse::RegisterKind::{Predicate, Word};
use crate::program::Guard;
use crate::registers::{Halves, LANES, Registers, Slot, lanes_of};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reduce {
    Add,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
}

#[derive(Debug)]
enum What {
    Shuffle {
        f: Shuffle,
        d: Slot,
        p: Option<Slot>,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Vote {
        f: Vote,
        d: Slot,
        p: Guard,
    },
    Reduce {
        f: Reduce,
        d: Slot,
        a: Slot,
    },
    /// Lanes with the same value.
    Match {
        d: Slot,
        a: Slot,
    },
    /// One lane's predicate is true; `d` gets its number.
    Elect {
        d: Slot,
        p: Slot,
    },
    ActiveMask {
        d: Slot,
    },
}

/// One collective and the lanes it is for.
#[derive(Debug)]
pub(crate) struct Collective {
    what: What,
    members: Option<Slot>,
}

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Collective, ParseError> {
    let operand = |d: &Decoder, index: usize| d.at(call, index).cloned();
    if call.parts[0] == "activemask" {
        let what = What::ActiveMask { d: d.target(&operand(d, 0)?, Word)? };
        return Ok(Collective { what, members: None });
    }
    let synced = call.has("sync");
    let last = call.operands.last().cloned();
    let Some(last) = last.filter(|_| synced) else { return d.unknown() };
    let members = Some(d.r(&last)?);
    let what = match (call.parts[0], call.last()) {
        ("shfl", "b32") => {
            d.count(call, 5..=5)?;
            let f = match call.parts[2] {
                "up" => Shuffle::Up,
                "down" => Shuffle::Down,
                "bfly" => Shuffle::Butterfly,
                "idx" => Shuffle::Index,
                _ => return d.unknown(),
            };
            let (target, p) = match &call.operands[0] {
                Operand::Pair(target, p) => {
                    (Operand::Word(target.clone()), Some(d.target(&Operand::Word(p.clone()), Predicate)?))
                }
                other => (other.clone(), None),
            };
            let (a, b, c) = (d.r(&call.operands[1])?, d.r(&call.operands[2])?, d.r(&call.operands[3])?);
            What::Shuffle { f, d: d.target(&target, Word)?, p, a, b, c }
        }
        ("vote", ty) => {
            let f = match call.parts[2] {
                "all" => Vote::All,
                "any" => Vote::Any,
                "uni" => Vote::Uniform,
                "ballot" => Vote::Ballot,
                _ => return d.unknown(),
            };
            let target = d.target(&operand(d, 0)?, if ty == "pred" { Predicate } else { Word })?;
            What::Vote { f, d: target, p: d.condition(&operand(d, 1)?)? }
        }
        ("redux", ty) => {
            let signed = ty == "s32";
            let f = match call.parts[2] {
                "add" => Reduce::Add,
                "min" if signed => Reduce::MinS,
                "min" => Reduce::MinU,
                "max" if signed => Reduce::MaxS,
                "max" => Reduce::MaxU,
                "and" => Reduce::And,
                "or" => Reduce::Or,
                "xor" => Reduce::Xor,
                _ => return d.unknown(),
            };
            What::Reduce { f, d: d.target(&operand(d, 0)?, Word)?, a: d.r(&operand(d, 1)?)? }
        }
        ("match", "b32") if call.has("any") => {
            What::Match { d: d.target(&operand(d, 0)?, Word)?, a: d.r(&operand(d, 1)?)? }
        }
        ("elect", _) => {
            let Operand::Pair(target, p) = operand(d, 0)? else { return d.fail("expected `d|p`") };
            What::Elect { d: d.target(&Operand::Word(target), Word)?, p: d.target(&Operand::Word(p), Predicate)? }
        }
        _ => return d.unknown(),
    };
    Ok(Collective { what, members })
}

impl Collective {
    /// The lanes that must be here.
    pub fn members(&self, regs: &Registers, mask: u32) -> Run<u32> {
        let Some(slot) = self.members else { return Ok(0) };
        let lane = mask.trailing_zeros() as usize;
        if regs.r.poison(slot) & mask != 0 {
            return Err(Trouble::lane(FaultKind::Poison, lane, "the member mask comes from unwritten memory"));
        }
        let members = regs.r.get(slot)[lane];
        if mask & !members != 0 {
            let what = format!("lanes {mask:#010x} execute it, members are {members:#010x}");
            return Err(Trouble::lane(FaultKind::Divergence, lane, what));
        }
        Ok(members)
    }

    pub fn run(&self, regs: &mut Registers, mask: u32) {
        match self.what {
            What::Shuffle { f, d, p, a, b, c } => {
                let (value, poison) = (*regs.r.get(a), regs.r.halves(a));
                let (by, bounds) = (regs.r.get(b), regs.r.get(c));
                let (mut out, mut out_poison, mut valid) = ([0; LANES], Halves::default(), 0);
                for lane in lanes_of(mask) {
                    let (own, b, c) = (lane as u32, by[lane] & 31, bounds[lane]);
                    let (segment, clamp) = (c >> 8 & 31, c & 31);
                    let top = own & segment | clamp & !segment;
                    let (source, ok) = match f {
                        Shuffle::Up => (own.wrapping_sub(b), own as i32 - b as i32 >= top as i32),
                        Shuffle::Down => (own + b, own + b <= top),
                        Shuffle::Butterfly => (own ^ b, own ^ b <= top),
                        Shuffle::Index => {
                            let source = own & segment | b & !segment & 31;
                            (source, source <= top)
                        }
                    };
                    let source = if ok { source as usize & 31 } else { lane };
                    out[lane] = value[source];
                    // A lane that is not here has no value to give.
                    let absent = u32::from(mask >> source & 1 == 0);
                    out_poison.low |= (poison.low >> source & 1 | absent) << lane;
                    out_poison.high |= (poison.high >> source & 1 | absent) << lane;
                    valid |= u32::from(ok) << lane;
                }
                let by_poison = regs.r.poison(b) | regs.r.poison(c);
                regs.r.put_halves(d, &out, out_poison | Halves::both(by_poison), mask);
                if let Some(p) = p {
                    regs.set_predicate(p, valid, by_poison, mask);
                }
            }
            What::Vote { f, d, p } => {
                let (bits, poison) = p.lanes(regs);
                let (set, any_poison) = (bits & mask, if poison & mask != 0 { u32::MAX } else { 0 });
                let truth = match f {
                    Vote::All => set == mask,
                    Vote::Any => set != 0,
                    Vote::Uniform => set == mask || set == 0,
                    Vote::Ballot => {
                        regs.r.put(d, &[set; LANES], any_poison, mask);
                        return;
                    }
                };
                regs.set_predicate(d, if truth { u32::MAX } else { 0 }, any_poison, mask);
            }
            What::Reduce { f, d, a } => {
                let value = regs.r.get(a);
                let fold = |f: fn(u32, u32) -> u32| lanes_of(mask).map(|lane| value[lane]).reduce(f).unwrap_or(0);
                let out = match f {
                    Reduce::Add => fold(u32::wrapping_add),
                    Reduce::MinU => fold(u32::min),
                    Reduce::MaxU => fold(u32::max),
                    Reduce::MinS => fold(|a, b| (a as i32).min(b as i32) as u32),
                    Reduce::MaxS => fold(|a, b| (a as i32).max(b as i32) as u32),
                    Reduce::And => fold(|a, b| a & b),
                    Reduce::Or => fold(|a, b| a | b),
                    Reduce::Xor => fold(|a, b| a ^ b),
                };
                let poison = if regs.r.poison(a) & mask != 0 { u32::MAX } else { 0 };
                regs.r.put(d, &[out; LANES], poison, mask);
            }
            What::Match { d, a } => {
                let value = *regs.r.get(a);
                let mut out = [0; LANES];
                for lane in lanes_of(mask) {
                    out[lane] = lanes_of(mask).filter(|i| value[*i] == value[lane]).map(|i| 1 << i).sum();
                }
                let poison = if regs.r.poison(a) & mask != 0 { u32::MAX } else { 0 };
                regs.r.put(d, &out, poison, mask);
            }
            What::Elect { d, p } => {
                let lane = mask.trailing_zeros();
                regs.r.put(d, &[lane; LANES], 0, mask);
                regs.set_predicate(p, 1 << lane, 0, mask);
            }
            What::ActiveMask { d } => regs.r.put(d, &[mask; LANES], 0, mask),
        }
    }
}
