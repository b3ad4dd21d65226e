//! Loads and stores: parameters, global and shared memory, vectors of up to 16 bytes.

use crate::decode::{Call, Decoder};
use crate::exec::{Block, Env, Warp};
use crate::fault::{FaultKind, ParseError, Run, Trouble};
use crate::memory::global::Bad;
use crate::memory::shared::{Access as By, News};
use crate::memory::{Chunk, PARAMETER_WINDOW, SHARED_WINDOW, byte_bits};
use crate::parse::Operand;
use crate::parse::RegisterKind::{Double, Word};
use crate::program::Class;
use crate::registers::{Halves, LANES, Slot, lanes_of, mask_of};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
    Generic,
    Parameter,
}

impl Space {
    /// The space that an address is in, and the address there: generic addresses have windows for shared memory and parameters.
    #[inline]
    fn resolve(self, address: u64) -> (Space, u64) {
        match self {
            Space::Generic if address >= SHARED_WINDOW => (Space::Shared, address - SHARED_WINDOW),
            Space::Generic if address >= PARAMETER_WINDOW => (Space::Parameter, address - PARAMETER_WINDOW),
            other => (other, address),
        }
    }
}

/// A register and an offset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    slot: Slot,
    wide: bool,
    offset: i64,
}

/// One load or store.
#[derive(Debug)]
pub(crate) struct Access {
    pub store: bool,
    pub space: Space,
    /// Bytes per element.
    bytes: usize,
    signed: bool,
    wide: bool,
    slots: Box<[Slot]>,
    address: Address,
    /// May communicate with other blocks.
    pub strong: bool,
    /// Reads through the non-coherent path, which need not see stores of the running grid.
    non_coherent: bool,
}

impl Address {
    pub fn decode(d: &mut Decoder, operand: &Operand) -> Result<Address, ParseError> {
        let Operand::Address { base, offset, coordinates } = operand else {
            return d.fail(format!("{operand:?} is no address"));
        };
        if !coordinates.is_empty() {
            return d.fail("coordinates where an address was expected");
        }
        Address::of(d, base, *offset)
    }

    pub fn of(d: &mut Decoder, base: &str, offset: i64) -> Result<Address, ParseError> {
        let base = Operand::Word(base.to_owned());
        if matches!(d.kind(&base), Some(Word)) {
            return Ok(Address { slot: d.r(&base)?, wide: false, offset });
        }
        Ok(Address { slot: d.d(&base)?, wide: true, offset })
    }

    /// The addresses of the lanes in `mask`. Poison is a fault.
    #[inline]
    pub fn lanes(&self, warp: &Warp, mask: u32) -> Run<[u64; LANES]> {
        let mut out = [0; LANES];
        let poison = if self.wide {
            let base = warp.regs.d.get(self.slot);
            (0..LANES).for_each(|i| out[i] = base[i].wrapping_add(self.offset as u64));
            warp.regs.d.poison(self.slot)
        } else {
            let base = warp.regs.r.get(self.slot);
            (0..LANES).for_each(|i| out[i] = u64::from(base[i].wrapping_add(self.offset as u32)));
            warp.regs.r.poison(self.slot)
        };
        if poison & mask != 0 {
            let lane = (poison & mask).trailing_zeros() as usize;
            return Err(Trouble::lane(FaultKind::Poison, lane, "the address was computed from unwritten memory"));
        }
        Ok(out)
    }
}

/// Pattern of the addresses of a warp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    One(u64),
    /// All 32 lanes, contiguous from this address.
    Row(u64),
    Scattered,
}

impl Pattern {
    #[inline]
    fn of(addresses: &[u64; LANES], mask: u32, bytes: u64) -> Pattern {
        if mask == 0 {
            return Pattern::Scattered;
        }
        let first = addresses[mask.trailing_zeros() as usize];
        let last = addresses[31 - mask.leading_zeros() as usize];
        if first == last {
            let differ = mask_of(|i| addresses[i] != first) & mask;
            return if differ == 0 { Pattern::One(first) } else { Pattern::Scattered };
        }
        if mask != u32::MAX || last.wrapping_sub(first) != 31 * bytes {
            return Pattern::Scattered;
        }
        let mut differ = 0;
        for (i, address) in addresses.iter().enumerate() {
            differ |= address.wrapping_sub(first) ^ (i as u64 * bytes);
        }
        if differ == 0 { Pattern::Row(first) } else { Pattern::Scattered }
    }
}

/// Modifiers that select a state space or the number of elements.
const SPACES: [&str; 6] = ["global", "shared", "shared::cta", "param", "v2", "v4"];
/// Accesses with these modifiers may communicate with other blocks.
const STRONG: [&str; 5] = ["volatile", "relaxed", "acquire", "release", "mmio"];
/// Other modifiers. The values that are loaded and stored do not depend on them.
const HINTS: [&str; 13] = ["nc", "gpu", "sys", "cta", "cluster", "weak", "ca", "cg", "cs", "cv", "lu", "wb", "wt"];

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Access, ParseError> {
    d.count(call, 2..=3)?;
    let store = call.parts[0] == "st";
    let ty = call.last();
    let known = |part: &str| {
        let listed = [&SPACES[..], &STRONG, &HINTS].iter().any(|list| list.contains(&part));
        listed || part.starts_with("L1::") || part.starts_with("L2::")
    };
    let bits: usize = ty.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
    if !call.parts[1..call.parts.len() - 1].iter().all(|part| known(part)) || !matches!(bits, 8 | 16 | 32 | 64) {
        return d.unknown();
    }
    let space = match call {
        _ if call.has("global") => Space::Global,
        _ if call.has("shared") || call.has("shared::cta") => Space::Shared,
        _ if call.has("param") => Space::Parameter,
        _ => Space::Generic,
    };
    let (address, data) = if store { (0, 1) } else { (1, 0) };
    let members = d.members(&call.operands[data]);
    let wide = bits == 64 || members.first().is_some_and(|member| d.kind(member) == Some(Double));
    let slot = |member| match (store, wide) {
        (true, true) => d.d(member),
        (true, false) => d.r(member),
        (false, true) => d.target(member, Double),
        (false, false) => d.target(member, Word),
    };
    let slots = members.into_iter().map(slot).collect::<Result<Box<[Slot]>, _>>()?;
    let vector = if call.has("v4") { 4 } else { 1 + usize::from(call.has("v2")) };
    if slots.len() != vector || vector * bits > 128 {
        return d.fail(format!("{} registers of {bits} bits", slots.len()));
    }
    let address = match &call.operands[address] {
        Operand::Address { base, offset, .. } if space == Space::Parameter && d.parameter(base).is_some() => {
            let slot = d.double(u64::from(d.parameter(base).unwrap_or(0)));
            Address { slot, wide: true, offset: *offset }
        }
        other => Address::decode(d, other)?,
    };
    let strong = STRONG.iter().any(|part| call.has(part)) && space != Space::Shared;
    let (signed, non_coherent) = (ty.starts_with('s'), call.has("nc"));
    Ok(Access { store, space, bytes: bits / 8, signed, wide, slots, address, strong, non_coherent })
}

/// The fault of a global access by a lane.
pub(crate) fn bad(lane: usize) -> impl FnOnce(Bad) -> Box<Trouble> {
    move |bad| Trouble::lane(bad.kind, lane, bad.what)
}

/// The fault of a shared access by a lane.
pub(crate) fn misplaced(lane: usize) -> impl FnOnce((FaultKind, String)) -> Box<Trouble> {
    move |(kind, what)| Trouble::lane(kind, lane, what)
}

/// Adds the lane to a fault.
pub(crate) fn at_lane(lane: usize) -> impl FnOnce(Box<Trouble>) -> Box<Trouble> {
    move |mut trouble| {
        trouble.lane = Some(lane as u32);
        trouble
    }
}

impl Access {
    pub fn class(&self) -> Class {
        match self.space {
            Space::Global | Space::Generic => Class::Global,
            Space::Shared => Class::Shared,
            Space::Parameter => Class::Move,
        }
    }

    pub fn run(&self, warp: &mut Warp, block: &mut Block, env: &Env, mask: u32) -> Run {
        let addresses = self.address.lanes(warp, mask)?;
        if self.store {
            self.store(warp, block, env, mask, &addresses)
        } else {
            self.load(warp, block, env, mask, &addresses)
        }
    }

    fn load(&self, warp: &mut Warp, block: &mut Block, env: &Env, mask: u32, addresses: &[u64; LANES]) -> Run {
        let total = self.bytes * self.slots.len();
        if self.load_together(warp, block, env, mask, addresses) {
            return Ok(());
        }
        let mut words = [[0u32; LANES]; 4];
        let mut poison = [Halves::default(); 4];
        let half = byte_bits(self.bytes.div_ceil(2));
        let upper = if self.bytes > 1 { self.bytes / 2 } else { 0 };
        let mut keep = |lane: usize, chunk: &Chunk| {
            for (i, word) in words.iter_mut().enumerate() {
                word[lane] = chunk.words[i];
            }
            if chunk.written != byte_bits(total) {
                for (i, poison) in poison.iter_mut().enumerate().take(self.slots.len()) {
                    let written = chunk.written >> (i * self.bytes);
                    poison.low |= u32::from(written & half != half) << lane;
                    poison.high |= u32::from(written >> upper & half != half) << lane;
                }
            }
        };
        let by = By { agent: warp.agent, stamp: warp.stamp(), knows: &warp.knows };
        let news = if self.space == Space::Global { News::NONE } else { block.shared.news(&by) };
        for lane in lanes_of(mask) {
            let (space, address) = self.space.resolve(addresses[lane]);
            let chunk = match space {
                Space::Shared => {
                    let at = block.shared.place(address, total).map_err(misplaced(lane))?;
                    block.shared.note_read(&by, news, at, total).map_err(at_lane(lane))?;
                    block.shared.load(at, total)
                }
                Space::Parameter => env.parameter(address, total).map_err(misplaced(lane))?,
                Space::Global | Space::Generic => {
                    block.stats.global_loaded += total as u64;
                    if self.non_coherent && env.global.has_stored(&mut warp.hint, address, total) {
                        let what = format!(
                            "{total} bytes at {address:#x}, {}, which this grid has stored",
                            env.global.place(address)
                        );
                        return Err(Trouble::lane(FaultKind::NonCoherent, lane, what));
                    }
                    env.global.load(&mut warp.hint, address, total).map_err(bad(lane))?
                }
            };
            keep(lane, &chunk);
        }
        self.scatter(warp, mask, &words, &poison);
        Ok(())
    }

    /// Fast path: loads all lanes at once if their addresses are contiguous or equal. Returns false, without effects, if that is
    /// not possible or a byte needs attention.
    fn load_together(
        &self,
        warp: &mut Warp,
        block: &mut Block,
        env: &Env,
        mask: u32,
        addresses: &[u64; LANES],
    ) -> bool {
        let total = self.bytes * self.slots.len();
        if self.bytes < 4 && self.slots.len() > 1 {
            return false;
        }
        let pattern = Pattern::of(addresses, mask, total as u64);
        let (at, bytes) = match pattern {
            Pattern::One(at) => (at, total),
            Pattern::Row(at) if self.bytes >= 4 => (at, LANES * total),
            Pattern::Row(_) | Pattern::Scattered => return false,
        };
        if at & (total as u64 - 1) != 0 {
            return false;
        }
        let mut row = [0u32; 4 * LANES];
        let n_words = bytes.div_ceil(4);
        match self.space {
            Space::Global => {
                if self.non_coherent && env.global.has_stored(&mut warp.hint, at, bytes) {
                    return false;
                }
                if !env.global.load_row(&mut warp.hint, at, bytes, &mut row[..n_words]) {
                    return false;
                }
                block.stats.global_loaded += u64::from(mask.count_ones()) * total as u64;
            }
            Space::Shared => {
                let by = By { agent: warp.agent, stamp: warp.stamp(), knows: &warp.knows };
                if !block.shared.load_row(&by, at as usize, bytes, &mut row[..n_words]) {
                    return false;
                }
            }
            Space::Parameter | Space::Generic => return false,
        }
        let per_lane = total.div_ceil(4);
        let mut words = [[0u32; LANES]; 4];
        for (i, words) in words.iter_mut().enumerate().take(per_lane) {
            match pattern {
                Pattern::One(_) => *words = [row[i]; LANES],
                _ => (0..LANES).for_each(|lane| words[lane] = row[per_lane * lane + i]),
            }
        }
        self.scatter(warp, mask, &words, &[Halves::default(); 4]);
        true
    }

    /// Writes the words of each lane to the registers.
    fn scatter(&self, warp: &mut Warp, mask: u32, words: &[[u32; LANES]; 4], poison: &[Halves; 4]) {
        for (i, slot) in self.slots.iter().enumerate() {
            let at = i * self.bytes;
            let mut value = words[at / 4];
            if self.bytes < 4 {
                let shift = 8 * (at % 4);
                let up = 32 - 8 * self.bytes as u32;
                value.iter_mut().for_each(|v| {
                    *v = *v >> shift << up;
                    *v = if self.signed { ((*v as i32) >> up) as u32 } else { *v >> up };
                });
            }
            if !self.wide {
                // Elements below 32 bits fill the register.
                let poison = if self.bytes < 4 { Halves::both(poison[i].any()) } else { poison[i] };
                warp.regs.r.put_halves(*slot, &value, poison, mask);
                continue;
            }
            let mut both = [0u64; LANES];
            for lane in 0..LANES {
                let high = if self.bytes == 8 {
                    words[at / 4 + 1][lane]
                } else if self.signed {
                    ((value[lane] as i32) >> 31) as u32
                } else {
                    0
                };
                both[lane] = u64::from(value[lane]) | u64::from(high) << 32;
            }
            warp.regs.d.put(*slot, &both, poison[i].any(), mask);
        }
    }

    /// The bytes stored by one lane.
    fn gather(&self, warp: &Warp, lane: usize) -> Chunk {
        let mut chunk = Chunk::default();
        for (i, slot) in self.slots.iter().enumerate() {
            let at = i * self.bytes;
            let (value, poison) = if self.wide {
                (warp.regs.d.get(*slot)[lane], Halves::both(warp.regs.d.poison(*slot)))
            } else {
                (u64::from(warp.regs.r.get(*slot)[lane]), warp.regs.r.halves(*slot))
            };
            match self.bytes {
                8 => {
                    chunk.words[at / 4] = value as u32;
                    chunk.words[at / 4 + 1] = (value >> 32) as u32;
                }
                4 => chunk.words[at / 4] = value as u32,
                n => chunk.words[at / 4] |= (value as u32 & (u32::MAX >> (32 - 8 * n))) << (8 * (at % 4)),
            }
            if self.bytes < 4 {
                chunk.written |= if poison.low >> lane & 1 == 0 { byte_bits(self.bytes) << at } else { 0 };
                continue;
            }
            let half = byte_bits(self.bytes / 2);
            chunk.written |= if poison.low >> lane & 1 == 0 { half << at } else { 0 };
            chunk.written |= if poison.high >> lane & 1 == 0 { half << (at + self.bytes / 2) } else { 0 };
        }
        chunk
    }

    /// Fast path for stores of contiguous words without poison, as [`Access::load_together`].
    fn store_together(
        &self,
        warp: &mut Warp,
        block: &mut Block,
        env: &Env,
        mask: u32,
        addresses: &[u64; LANES],
    ) -> bool {
        let per_lane = self.slots.len();
        if self.bytes != 4 || self.wide || self.slots.iter().any(|slot| warp.regs.r.poison(*slot) & mask != 0) {
            return false;
        }
        let Pattern::Row(at) = Pattern::of(addresses, mask, 4 * per_lane as u64) else { return false };
        if at & (4 * per_lane as u64 - 1) != 0 {
            return false;
        }
        let mut row = [0u32; 4 * LANES];
        for (i, slot) in self.slots.iter().enumerate() {
            let words = warp.regs.r.get(*slot);
            (0..LANES).for_each(|lane| row[per_lane * lane + i] = words[lane]);
        }
        let row = &row[..per_lane * LANES];
        match self.space {
            Space::Global => {
                let stored = env.global.store_row(&mut warp.hint, at, row);
                block.stats.global_stored += if stored { 4 * row.len() as u64 } else { 0 };
                stored
            }
            Space::Shared => {
                let by = By { agent: warp.agent, stamp: warp.stamp(), knows: &warp.knows };
                block.shared.store_row(&by, at as usize, row)
            }
            Space::Parameter | Space::Generic => false,
        }
    }

    fn store(&self, warp: &mut Warp, block: &mut Block, env: &Env, mask: u32, addresses: &[u64; LANES]) -> Run {
        let total = self.bytes * self.slots.len();
        if self.store_together(warp, block, env, mask, addresses) {
            return Ok(());
        }
        let by = By { agent: warp.agent, stamp: warp.stamp(), knows: &warp.knows };
        let news = if self.space == Space::Global { News::NONE } else { block.shared.news(&by) };
        let mut hint = warp.hint;
        for lane in lanes_of(mask) {
            let chunk = self.gather(warp, lane);
            let (space, address) = self.space.resolve(addresses[lane]);
            match space {
                Space::Shared => {
                    let at = block.shared.place(address, total).map_err(misplaced(lane))?;
                    block.shared.note_write(&by, news, at, total).map_err(at_lane(lane))?;
                    block.shared.store(at, total, &chunk);
                }
                Space::Parameter => {
                    return Err(Trouble::lane(FaultKind::OutOfBounds, lane, "a store to the parameters"));
                }
                Space::Global | Space::Generic => {
                    env.global.store(&mut hint, address, total, &chunk).map_err(bad(lane))?;
                    block.stats.global_stored += total as u64;
                }
            }
        }
        warp.hint = hint;
        Ok(())
    }
}
