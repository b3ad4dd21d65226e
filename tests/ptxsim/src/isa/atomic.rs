//! `atom` and `red`, in global and shared memory.

use super::access::{Address, Space, at_lane, bad, misplaced};
use crate::decode::{Call, Decoder};
use crate::exec::{Block, Env, Warp};
use crate::fault::{FaultKind, ParseError, Run, Trouble};
use crate::memory::shared::Access as By;
use crate::memory::{Chunk, byte_bits};
use crate::parse::Operand;
use crate::parse::RegisterKind::{Double, Word};
use crate::registers::{Slot, lanes_of};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Add,
    AddFloat,
    And,
    Or,
    Xor,
    Exchange,
    CompareExchange,
    MinU,
    MaxU,
    MinS,
    MaxS,
    Increment,
    Decrement,
}

/// One atomic; `d` gets the old value.
#[derive(Debug)]
pub(crate) struct Atomic {
    f: Function,
    space: Space,
    wide: bool,
    d: Option<Slot>,
    address: Address,
    /// Operands of each element: the value, and what it is exchanged for.
    values: Box<[Slot]>,
    /// Of a vector of f32.
    n: usize,
}

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Atomic, ParseError> {
    let returns = call.parts[0] == "atom";
    let ty = call.last();
    let signed = ty.starts_with('s');
    let f = match call.parts.iter().find_map(|part| match *part {
        "add" if ty == "f32" => Some(Function::AddFloat),
        "add" if !ty.starts_with('f') && !ty.starts_with("bf") => Some(Function::Add),
        "and" => Some(Function::And),
        "or" => Some(Function::Or),
        "xor" => Some(Function::Xor),
        "exch" => Some(Function::Exchange),
        "cas" => Some(Function::CompareExchange),
        "min" => Some(if signed { Function::MinS } else { Function::MinU }),
        "max" => Some(if signed { Function::MaxS } else { Function::MaxU }),
        "inc" => Some(Function::Increment),
        "dec" => Some(Function::Decrement),
        _ => None,
    }) {
        Some(f) => f,
        None => return d.unknown(),
    };
    let space = if call.has("global") {
        Space::Global
    } else if call.has("shared") || call.has("shared::cta") {
        Space::Shared
    } else {
        return d.unknown();
    };
    let wide = ty.ends_with("64");
    if !wide && !ty.ends_with("32") {
        return d.unknown();
    }
    let mut operands = call.operands.iter();
    let mut next = |d: &Decoder| match operands.next() {
        Some(operand) => Ok(operand),
        None => d.fail("an operand is missing"),
    };
    let target = match returns {
        true => Some(d.target(next(d)?, if wide { Double } else { Word })?),
        false => None,
    };
    let address = Address::decode(d, next(d)?)?;
    let first = next(d)?;
    let n = if let Operand::Vector(items) = first { items.len() } else { 1 };
    let mut values = Vec::new();
    for member in d.members(first) {
        values.push(if wide { d.d(member)? } else { d.r(member)? });
    }
    if f == Function::CompareExchange {
        let operand = next(d)?;
        values.push(if wide { d.d(operand)? } else { d.r(operand)? });
    }
    if n > 1 && (returns || f != Function::AddFloat || space != Space::Global) {
        return d.unknown();
    }
    Ok(Atomic { f, space, wide, d: target, address, values: values.into(), n })
}

impl Function {
    fn apply(self, wide: bool, old: u64, value: u64, other: u64) -> u64 {
        let signed = |v: u64| if wide { v as i64 } else { i64::from(v as u32 as i32) };
        match self {
            Function::Add => old.wrapping_add(value),
            Function::AddFloat => u64::from((f32::from_bits(old as u32) + f32::from_bits(value as u32)).to_bits()),
            Function::And => old & value,
            Function::Or => old | value,
            Function::Xor => old ^ value,
            Function::Exchange => value,
            Function::CompareExchange if old == value => other,
            Function::CompareExchange => old,
            Function::MinU => old.min(value),
            Function::MaxU => old.max(value),
            Function::MinS => signed(old).min(signed(value)) as u64,
            Function::MaxS => signed(old).max(signed(value)) as u64,
            Function::Increment => {
                if old >= value {
                    0
                } else {
                    old + 1
                }
            }
            Function::Decrement => {
                if old == 0 || old > value {
                    value
                } else {
                    old - 1
                }
            }
        }
    }
}

impl Atomic {
    pub fn is_global(&self) -> bool {
        self.space == Space::Global
    }

    pub fn run(&self, warp: &mut Warp, block: &mut Block, env: &Env, mask: u32) -> Run {
        let addresses = self.address.lanes(warp, mask)?;
        let bytes = if self.wide { 8 } else { 4 };
        let (mut old32, mut old64, mut poison) = ([0; 32], [0; 32], 0);
        for lane in lanes_of(mask) {
            for i in 0..self.n {
                let value = self.value(warp, lane, self.values[i])?;
                let other = self.value(warp, lane, self.values[self.values.len() - 1])?;
                let address = addresses[lane] + (bytes * i) as u64;
                let f = |old| self.f.apply(self.wide, old, value, other);
                let (old, written) = if self.space == Space::Global {
                    env.global.update(&mut warp.hint, address, bytes, f).map_err(bad(lane))?
                } else {
                    shared(warp, block, lane, address, bytes, f)?
                };
                if !written && self.f != Function::Exchange {
                    let what = format!("an atomic on unwritten memory, {}", env.global.place(address));
                    return Err(Trouble::lane(FaultKind::Poison, lane, what));
                }
                poison |= u32::from(!written) << lane;
                old32[lane] = old as u32;
                old64[lane] = old;
            }
        }
        if let Some(d) = self.d {
            if self.wide {
                warp.regs.d.put(d, &old64, poison, mask);
            } else {
                warp.regs.r.put(d, &old32, poison, mask);
            }
        }
        Ok(())
    }

    fn value(&self, warp: &Warp, lane: usize, slot: Slot) -> Run<u64> {
        let (value, poison) = if self.wide {
            (warp.regs.d.get(slot)[lane], warp.regs.d.poison(slot))
        } else {
            (u64::from(warp.regs.r.get(slot)[lane]), warp.regs.r.poison(slot))
        };
        if poison >> lane & 1 == 1 {
            return Err(Trouble::lane(FaultKind::Poison, lane, "an atomic's operand comes from unwritten memory"));
        }
        Ok(value)
    }
}

/// Atomics do not race with each other; they are checked against earlier stores, and leave no stamp.
fn shared(
    warp: &Warp,
    block: &mut Block,
    lane: usize,
    address: u64,
    bytes: usize,
    f: impl Fn(u64) -> u64,
) -> Run<(u64, bool)> {
    let by = By { agent: warp.agent, stamp: warp.stamp(), knows: &warp.knows };
    let at = block.shared.place(address, bytes).map_err(misplaced(lane))?;
    block.shared.check_writer(&by, at, bytes, "updated").map_err(at_lane(lane))?;
    let chunk = block.shared.load(at, bytes);
    let old = u64::from(chunk.words[0]) | u64::from(chunk.words[1]) << 32;
    let new = f(old);
    let stored = Chunk { words: [new as u32, (new >> 32) as u32, 0, 0], written: byte_bits(bytes) };
    block.shared.store(at, bytes, &stored);
    Ok((old, chunk.written == byte_bits(bytes)))
}
