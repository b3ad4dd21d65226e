//! `atom` and `red`, in global and shared memory.

use super::access::{Address, Space, at_lane, bad, misplaced};
use super::table::{Row, rows, source, target};
use super::value::{Value, Word};
use crate::decode::{Call, Decoder};
use crate::exec::{Block, Env, Warp};
use crate::fault::{FaultKind, ParseError, Run, Trouble};
use crate::memory::shared::Access as By;
use crate::memory::{Chunk, byte_bits};
use crate::parse::Operand;
use crate::registers::{Slot, lanes_of};

/// The new value of a word, from the old one and one or two operands.
type Update = Box<dyn Fn(u64, u64, u64) -> u64 + Send + Sync>;

pub(crate) struct Atomic {
    update: Update,
    space: Space,
    wide: bool,
    /// Receives the old value.
    d: Option<Slot>,
    address: Address,
    /// Operands of each element; for `cas`, the expected and the new value.
    values: Box<[Slot]>,
    /// Elements of a vector of f32.
    n: usize,
    /// `exch` may replace unwritten memory.
    exchange: bool,
}

/// Rows are found under `atom`, for `red` too.
pub(super) const ROWS: &[Row<Atomic>] = rows! {
    optional &["global", "shared", "shared::cta", "relaxed", "acquire", "release", "acq_rel", "cta", "cluster", "gpu", "sys", "v2", "v4"];
    "atom.add" [u32, i32, u64, i64] atomic(|old: T, value, _| old.wrapping_add(value));
    "atom.add" [f32] atomic(|old: T, value, _| old + value);
    "atom.and" [u32, u64] atomic(|old: T, value, _| old & value);
    "atom.or" [u32, u64] atomic(|old: T, value, _| old | value);
    "atom.xor" [u32, u64] atomic(|old: T, value, _| old ^ value);
    "atom.exch" [u32, u64] atomic(|_: T, value, _| value);
    "atom.cas" [u32, u64] atomic(|old: T, expected, new| if old == expected { new } else { old });
    "atom.min" [u32, i32, u64, i64] atomic(|old: T, value, _| old.min(value));
    "atom.max" [u32, i32, u64, i64] atomic(|old: T, value, _| old.max(value));
    "atom.inc" [u32] atomic(|old: T, most, _| if old >= most { 0 } else { old + 1 });
    "atom.dec" [u32] atomic(|old: T, most, _| if old == 0 || old > most { most } else { old - 1 });
};

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Atomic, ParseError> {
    let mut named = Call { parts: call.parts.clone(), operands: call.operands };
    named.parts[0] = "atom";
    match Row::find(ROWS, &named) {
        Some(row) => (row.decode)(d, call),
        None => d.unknown(),
    }
}

/// `atom d, [address], value` or `red [address], value`, with a second value for `cas`.
fn atomic<T: Value>(
    f: impl Fn(T, T, T) -> T + Send + Sync + 'static,
) -> impl FnOnce(&mut Decoder, &Call) -> Result<Atomic, ParseError> {
    move |d, call| {
        let returns = call.parts[0] == "atom";
        let (space, first) = match call {
            _ if call.has("global") => (Space::Global, usize::from(returns)),
            _ if call.has("shared") || call.has("shared::cta") => (Space::Shared, usize::from(returns)),
            _ => return d.unknown(),
        };
        let to = if returns { Some(target::<T>(d, d.at(call, 0)?)?) } else { None };
        let address = Address::decode(d, d.at(call, first)?)?;
        let value = d.at(call, first + 1)?;
        let mut values = Vec::new();
        for member in d.members(value) {
            values.push(source::<T>(d, member)?);
        }
        let n = values.len();
        if matches!(value, Operand::Vector(_)) && (returns || call.last() != "f32" || space != Space::Global) {
            return d.unknown();
        }
        if call.has("cas") {
            values.push(source::<T>(d, d.at(call, first + 2)?)?);
        }
        let word = |value: u64| T::of(T::Word::narrow(value));
        Ok(Atomic {
            update: Box::new(move |old, value, other| f(word(old), word(value), word(other)).word().widen()),
            space,
            wide: size_of::<T::Word>() == 8,
            d: to,
            address,
            values: values.into(),
            n,
            exchange: call.has("exch"),
        })
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
                let f = |old| (self.update)(old, value, other);
                let (old, written) = if self.space == Space::Global {
                    env.global.update(&mut warp.hint, address, bytes, f).map_err(bad(lane))?
                } else {
                    shared(warp, block, lane, address, bytes, f)?
                };
                if !written && !self.exchange {
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

/// Atomics do not race with each other. They are checked against earlier stores, and are not recorded as accesses.
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
