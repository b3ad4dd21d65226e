//! `mbarrier` instructions.

use super::access::{Address, at_lane, misplaced};
use crate::decode::{Call, Decoder};
use crate::exec::mbarrier::MBarrier;
use crate::exec::warp::{Flow, Spin};
use crate::exec::{Block, Warp};
use crate::fault::{FaultKind, ParseError, Run, Trouble};
use crate::memory::SHARED_WINDOW;
use crate::memory::shared::{Access, News};
use crate::parse::Operand;
use crate::parse::RegisterKind::{Double, Predicate};
use crate::registers::{LANES, Slot, lanes_of};

#[derive(Debug)]
enum What {
    Init {
        count: Slot,
    },
    Invalidate,
    /// `state` receives the phase.
    Arrive {
        state: Option<Slot>,
        count: Slot,
        expect: Option<Slot>,
        relaxed: bool,
    },
    Expect {
        bytes: Slot,
    },
    Wait {
        d: Slot,
        phase: Phase,
        suspend: bool,
    },
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Parity(Slot),
    State(Slot),
}

#[derive(Debug)]
pub(crate) struct Mbarrier {
    what: What,
    address: Address,
}

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Mbarrier, ParseError> {
    let sub = call.parts.get(1).copied().unwrap_or("");
    let first = d.at(call, 0)?;
    let (what, address) = match sub {
        "init" => (What::Init { count: d.r(d.at(call, 1)?)? }, 0),
        "inval" => (What::Invalidate, 0),
        "expect_tx" => (What::Expect { bytes: d.r(d.at(call, 1)?)? }, 0),
        "arrive" if !call.has("noComplete") => {
            // The state is optional.
            let address = usize::from(!matches!(first, Operand::Address { .. }));
            let state = match first {
                Operand::Word(name) if name != "_" => Some(d.target(first, Double)?),
                _ => None,
            };
            let extra = match call.operands.get(address + 1) {
                Some(operand) => Some(d.r(operand)?),
                None => None,
            };
            let one = d.word(1);
            let (count, expect) = if call.has("expect_tx") { (one, extra) } else { (extra.unwrap_or(one), None) };
            if call.has("expect_tx") && expect.is_none() {
                return d.fail("the bytes to expect are missing");
            }
            (What::Arrive { state, count, expect, relaxed: call.has("relaxed") }, address)
        }
        "try_wait" | "test_wait" => {
            let phase = if call.has("parity") {
                Phase::Parity(d.r(d.at(call, 2)?)?)
            } else {
                Phase::State(d.d(d.at(call, 2)?)?)
            };
            (What::Wait { d: d.target(first, Predicate)?, phase, suspend: sub == "try_wait" }, 1)
        }
        _ => return d.unknown(),
    };
    Ok(Mbarrier { what, address: Address::decode(d, d.at(call, address)?)? })
}

impl Block {
    /// The mbarrier at an address.
    pub fn mbarrier(&mut self, address: usize) -> Run<&mut MBarrier> {
        let found = self.mbarriers.iter_mut().find(|barrier| barrier.address == address);
        found.ok_or_else(|| Trouble::warp(FaultKind::Barrier, format!("no mbarrier at shared {address:#x}")))
    }

    /// As [`Block::mbarrier`]. Its initialisation must be ordered before the access by the warp.
    pub fn known_mbarrier(&mut self, address: usize, warp: &Warp) -> Run<&mut MBarrier> {
        let barrier = self.mbarrier(address)?;
        let (agent, stamp) = barrier.made_by;
        if agent != warp.agent && stamp > warp.knows.happened.get(agent) {
            let what = format!("mbarrier {address:#x} is used while warp {agent} initialises it");
            return Err(Trouble::warp(FaultKind::Race, what));
        }
        Ok(barrier)
    }
}

impl Mbarrier {
    pub fn run(&self, warp: &mut Warp, block: &mut Block, mask: u32) -> Run<Flow> {
        let addresses = self.address.lanes(warp, mask)?;
        let place = |lane: usize| {
            let address = addresses[lane];
            if address >= SHARED_WINDOW { address - SHARED_WINDOW } else { address }
        };
        if let What::Wait { d, phase, suspend } = &self.what {
            return self.wait(warp, block, mask, (*d, *phase, *suspend), place);
        }
        for lane in lanes_of(mask) {
            let at = block.shared.place(place(lane), 8).map_err(misplaced(lane))?;
            self.one(warp, block, lane, at).map_err(at_lane(lane))?;
        }
        warp.advance();
        Ok(Flow::Next)
    }

    fn one(&self, warp: &mut Warp, block: &mut Block, lane: usize, at: usize) -> Run {
        match &self.what {
            What::Init { count } => {
                let count = value(warp, *count, lane)?;
                if block.mbarrier(at).is_ok() {
                    let what = format!("mbarrier {at:#x} is initialised twice");
                    return Err(Trouble::warp(FaultKind::Barrier, what));
                }
                let by = Access { agent: warp.agent, stamp: warp.stamp(), knows: &warp.knows };
                let news = block.shared.news(&by);
                block.shared.note_write(&by, news, at, 8)?;
                let barrier = MBarrier::new(at, count, (warp.agent, warp.stamp()), block.time)?;
                block.mbarriers.push(barrier);
                block.shared.set_mbarriers(block.mbarriers.iter().map(|barrier| barrier.address));
            }
            What::Invalidate => {
                block.known_mbarrier(at, warp)?;
                block.mbarriers.retain(|barrier| barrier.address != at);
                block.shared.set_mbarriers(block.mbarriers.iter().map(|barrier| barrier.address));
                let by = Access { agent: warp.agent, stamp: warp.stamp(), knows: &warp.knows };
                block.shared.note_write(&by, News::NONE, at, 8)?;
            }
            What::Expect { bytes } => {
                let bytes = value(warp, *bytes, lane)?;
                block.known_mbarrier(at, warp)?.expect(bytes)?;
            }
            What::Arrive { state, count, expect, relaxed } => {
                let count = value(warp, *count, lane)?;
                let bytes = expect.map(|slot| value(warp, slot, lane)).transpose()?;
                let barrier = block.known_mbarrier(at, warp)?;
                if let Some(bytes) = bytes {
                    barrier.expect(bytes)?;
                }
                let phase = barrier.phase;
                barrier.arrive(count, if *relaxed { None } else { Some(&warp.knows) })?;
                if let Some(state) = state {
                    warp.regs.d.put(*state, &[u64::from(phase); LANES], 0, 1 << lane);
                }
            }
            What::Wait { .. } => {}
        }
        Ok(())
    }

    fn wait(
        &self,
        warp: &mut Warp,
        block: &mut Block,
        mask: u32,
        (d, phase, suspend): (Slot, Phase, bool),
        place: impl Fn(usize) -> u64,
    ) -> Run<Flow> {
        let mut passed = 0;
        let mut last = 0;
        for lane in lanes_of(mask) {
            let at = block.shared.place(place(lane), 8).map_err(misplaced(lane))?;
            if lane > 0 && last == at && passed >> (lane - 1) & 1 == 1 {
                // The previous lane passed the same barrier. Only the parity can differ.
                if self.same_phase(warp, phase, lane) {
                    passed |= 1 << lane;
                    continue;
                }
            }
            last = at;
            let barrier = block.known_mbarrier(at, warp).map_err(at_lane(lane))?;
            let over = match phase {
                Phase::Parity(slot) => barrier.passed(value(warp, slot, lane)?),
                Phase::State(slot) => u64::from(barrier.phase) != warp.regs.d.get(slot)[lane],
            };
            if over {
                passed |= 1 << lane;
                warp.knows.join(&barrier.released);
            }
        }
        warp.regs.set_predicate(d, passed, 0, mask);
        if passed == mask {
            warp.spin = None;
            return Ok(Flow::Next);
        }
        let waits_at = (mask & !passed).trailing_zeros() as usize;
        let (pc, address) = (warp.pc, place(waits_at));
        // The first failed test is not treated as a wait, a repeated one is.
        let before = warp.spin.filter(|spin| (spin.pc, spin.address) == (pc, address));
        let again = before.is_some();
        let tests = before.filter(|_| !suspend).map_or(0, |spin| spin.tests.wrapping_add(1));
        warp.spin = Some(Spin { pc, address, tests });
        Ok(if suspend || again { Flow::Yield } else { Flow::Next })
    }

    fn same_phase(&self, warp: &Warp, phase: Phase, lane: usize) -> bool {
        match phase {
            Phase::Parity(slot) => {
                let values = warp.regs.r.get(slot);
                values[lane] == values[lane - 1] && warp.regs.r.poison(slot) >> lane & 1 == 0
            }
            Phase::State(slot) => {
                let values = warp.regs.d.get(slot);
                values[lane] == values[lane - 1]
            }
        }
    }
}

/// The operand of a lane, which must not be poisoned.
pub(super) fn value(warp: &Warp, slot: Slot, lane: usize) -> Run<u32> {
    if warp.regs.r.poison(slot) >> lane & 1 == 1 {
        return Err(Trouble::lane(FaultKind::Poison, lane, "an operand comes from unwritten memory"));
    }
    Ok(warp.regs.r.get(slot)[lane])
}
