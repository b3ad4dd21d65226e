//! Instructions that the lanes of a warp execute together: shuffles, votes, reductions.

use super::table::{Decoded, Effect};
use crate::decode::{Call, Decoder};
use crate::fault::{FaultKind, Run, Trouble};
use crate::parse::Operand;
use crate::parse::RegisterKind::{Predicate, Word};
use crate::registers::{Halves, LANES, Registers, Slot, lanes_of};

/// One collective and the lanes that take part.
pub(crate) struct Collective {
    members: Option<Slot>,
    pub effect: Effect,
}

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Decoded<Collective> {
    let last = d.at(call, call.operands.len().saturating_sub(1))?;
    let members = match call.parts[..] {
        ["activemask", ..] => None,
        _ if call.has("sync") => Some(d.r(last)?),
        _ => return d.unknown(),
    };
    let effect = match call.parts[..] {
        ["activemask", "b32"] => active_mask(d, call),
        ["shfl", "sync", mode, "b32"] => shuffle(d, call, mode),
        ["vote", "sync", mode, "pred"] => vote(d, call, mode),
        ["vote", "sync", "ballot", "b32"] => ballot(d, call),
        ["redux", "sync", op, ty] => reduce(d, call, op, ty),
        ["match", "any", "sync", "b32"] => match_any(d, call),
        ["elect", "sync"] => elect(d, call),
        _ => d.unknown(),
    };
    Ok(Collective { members, effect: effect? })
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
}

/// All lanes, if any lane in the mask is poisoned: its value reaches every result.
fn spread(poison: u32, mask: u32) -> u32 {
    if poison & mask != 0 { u32::MAX } else { 0 }
}

/// The source lane of a shuffle, and whether it is in the segment: of the own lane, `b`, the segment mask and the bound.
type Source = fn(u32, u32, u32, u32) -> (u32, bool);

const SHUFFLES: [(&str, Source); 4] = [
    ("up", |own, b, _, bound| (own.wrapping_sub(b), own as i32 - b as i32 >= bound as i32)),
    ("down", |own, b, _, bound| (own + b, own + b <= bound)),
    ("bfly", |own, b, _, bound| (own ^ b, own ^ b <= bound)),
    ("idx", |own, b, segment, bound| {
        let source = own & segment | b & !segment & 31;
        (source, source <= bound)
    }),
];

/// `shfl.sync.mode.b32 d|p, a, b, c, members`
fn shuffle(d: &mut Decoder, call: &Call, mode: &str) -> Decoded {
    d.count(call, 5..=5)?;
    let Some((_, source)) = SHUFFLES.iter().find(|(name, _)| *name == mode) else { return d.unknown() };
    let (to, p) = match &call.operands[0] {
        Operand::Pair(to, p) => (d.named_target(to, Word)?, Some(d.named_target(p, Predicate)?)),
        other => (d.target(other, Word)?, None),
    };
    let (a, b, c) = (d.r(&call.operands[1])?, d.r(&call.operands[2])?, d.r(&call.operands[3])?);
    Ok(Box::new(move |regs, mask| {
        let (value, poison) = (regs.r.get(a), regs.r.halves(a));
        let (by, bounds) = (regs.r.get(b), regs.r.get(c));
        let (mut out, mut out_poison, mut valid) = ([0; LANES], Halves::default(), 0);
        for lane in lanes_of(mask) {
            let own = lane as u32;
            let (segment, clamp) = (bounds[lane] >> 8 & 31, bounds[lane] & 31);
            let (from, ok) = source(own, by[lane] & 31, segment, own & segment | clamp & !segment);
            let from = if ok { from as usize & 31 } else { lane };
            out[lane] = value[from];
            // An inactive lane has no value to give.
            let absent = u32::from(mask >> from & 1 == 0);
            out_poison.low |= (poison.low >> from & 1 | absent) << lane;
            out_poison.high |= (poison.high >> from & 1 | absent) << lane;
            valid |= u32::from(ok) << lane;
        }
        let by_poison = regs.r.poison(b) | regs.r.poison(c);
        regs.r.put_halves(to, &out, out_poison | Halves::both(by_poison), mask);
        if let Some(p) = p {
            regs.set_predicate(p, valid, by_poison, mask);
        }
    }))
}

/// `vote.sync.mode.pred p, q, members`
fn vote(d: &mut Decoder, call: &Call, mode: &str) -> Decoded {
    let truth: fn(u32, u32) -> bool = match mode {
        "all" => |set, mask| set == mask,
        "any" => |set, _| set != 0,
        "uni" => |set, mask| set == mask || set == 0,
        _ => return d.unknown(),
    };
    let (to, p) = (d.target(d.at(call, 0)?, Predicate)?, d.condition(d.at(call, 1)?)?);
    Ok(Box::new(move |regs, mask| {
        let (bits, poison) = p.lanes(regs);
        let bits = if truth(bits & mask, mask) { u32::MAX } else { 0 };
        regs.set_predicate(to, bits, spread(poison, mask), mask);
    }))
}

fn ballot(d: &mut Decoder, call: &Call) -> Decoded {
    let (to, p) = (d.target(d.at(call, 0)?, Word)?, d.condition(d.at(call, 1)?)?);
    Ok(Box::new(move |regs, mask| {
        let (bits, poison) = p.lanes(regs);
        regs.r.put(to, &[bits & mask; LANES], spread(poison, mask), mask);
    }))
}

/// `redux.sync.op.type d, a, members`
fn reduce(d: &mut Decoder, call: &Call, op: &str, ty: &str) -> Decoded {
    let f: fn(u32, u32) -> u32 = match (op, ty) {
        ("add", _) => u32::wrapping_add,
        ("min", "s32") => |a, b| (a as i32).min(b as i32) as u32,
        ("max", "s32") => |a, b| (a as i32).max(b as i32) as u32,
        ("min", _) => u32::min,
        ("max", _) => u32::max,
        ("and", _) => |a, b| a & b,
        ("or", _) => |a, b| a | b,
        ("xor", _) => |a, b| a ^ b,
        _ => return d.unknown(),
    };
    let (to, a) = (d.target(d.at(call, 0)?, Word)?, d.r(d.at(call, 1)?)?);
    Ok(Box::new(move |regs, mask| {
        let value = regs.r.get(a);
        let out = lanes_of(mask).map(|lane| value[lane]).reduce(f).unwrap_or(0);
        regs.r.put(to, &[out; LANES], spread(regs.r.poison(a), mask), mask);
    }))
}

/// `match.any.sync.b32 d, a, members`: the lanes with the same value.
fn match_any(d: &mut Decoder, call: &Call) -> Decoded {
    let (to, a) = (d.target(d.at(call, 0)?, Word)?, d.r(d.at(call, 1)?)?);
    Ok(Box::new(move |regs, mask| {
        let value = regs.r.get(a);
        let mut out = [0; LANES];
        for lane in lanes_of(mask) {
            out[lane] = lanes_of(mask).filter(|i| value[*i] == value[lane]).map(|i| 1 << i).sum();
        }
        regs.r.put(to, &out, spread(regs.r.poison(a), mask), mask);
    }))
}

/// `elect.sync d|p, members`: `p` is true in the lowest lane, `d` is its number.
fn elect(d: &mut Decoder, call: &Call) -> Decoded {
    let Operand::Pair(to, p) = d.at(call, 0)? else { return d.fail("expected `d|p`") };
    let (to, p) = (d.named_target(to, Word)?, d.named_target(p, Predicate)?);
    Ok(Box::new(move |regs, mask| {
        let lane = mask.trailing_zeros();
        regs.r.put(to, &[lane; LANES], 0, mask);
        regs.set_predicate(p, 1 << lane, 0, mask);
    }))
}

fn active_mask(d: &mut Decoder, call: &Call) -> Decoded {
    let to = d.target(d.at(call, 0)?, Word)?;
    Ok(Box::new(move |regs, mask| regs.r.put(to, &[mask; LANES], 0, mask)))
}
