//! Issue of copies, and waits for them.

use std::sync::Arc;

use super::{BoxAt, Copy, Far, What};
use crate::exec::job::{Job, Report, What as Work, check_box};
use crate::exec::{Block, Env, Warp};
use crate::fault::{FaultKind, Place, Run, Trouble};
use crate::isa::access::{at_lane, bad, misplaced};
use crate::isa::mbarrier::value;
use crate::memory::shared::Agent;
use crate::memory::{PARAMETER_WINDOW, SHARED_WINDOW};
use crate::registers::{LANES, lanes_of};
use crate::tensor_map::TensorMap;

impl Copy {
    pub fn run(&self, warp: &mut Warp, block: &mut Block, env: &Env, mask: u32) -> Run {
        match &self.0 {
            What::Piece { .. } => self.pieces(warp, block, env, mask),
            What::CommitPieces => {
                warp.copies.commit(block.time + 1);
                Ok(())
            }
            What::WaitPieces { n } => {
                let until = warp.copies.wait(*n);
                wait_pieces(warp, block, env, until)
            }
            What::WaitAllPieces => {
                warp.copies.commit(block.time + 1);
                let until = warp.copies.wait(0);
                wait_pieces(warp, block, env, until)
            }
            What::ArriveAfterPieces { barrier, counted } => {
                let addresses = barrier.lanes(warp, mask)?;
                let agent = block.shared.agent(Agent::Copies(warp.index))?;
                let mut barriers = Vec::new();
                for lane in lanes_of(mask) {
                    let at = block.shared.place(near(addresses[lane]), 8).map_err(misplaced(lane))?;
                    let known = block.known_mbarrier(at, warp).map_err(at_lane(lane))?;
                    if !counted {
                        known.owe_one().map_err(at_lane(lane))?;
                    }
                    barriers.push(at);
                }
                let stamp = warp.copies.mark(block.time + 1);
                warp.reports_copies = true;
                let job = job(warp, Work::Arrive(barriers), agent, stamp, mask.trailing_zeros());
                warp.advance();
                block.issue(env, job)
            }
            What::Load { to, from, barrier } => {
                let (to, barrier) = (to.lanes(warp, mask)?, barrier.lanes(warp, mask)?);
                for lane in lanes_of(mask) {
                    let (to, barrier) = (near(to[lane]), near(barrier[lane]));
                    load(warp, block, env, lane, (to, from, barrier)).map_err(at_lane(lane))?;
                }
                Ok(())
            }
            What::Store { to, from, add_floats } => {
                let from = from.lanes(warp, mask)?;
                for lane in lanes_of(mask) {
                    store(warp, block, env, lane, (near(from[lane]), to, *add_floats)).map_err(at_lane(lane))?;
                }
                Ok(())
            }
            What::CommitStores => {
                for lane in lanes_of(mask) {
                    warp.stores[lane].commit(block.time + 1);
                }
                Ok(())
            }
            What::WaitStores { n } => {
                let agent = block.shared.agent(Agent::BulkStores(warp.index))?;
                for lane in lanes_of(mask) {
                    let until = warp.stores[lane].wait(*n);
                    let thread = lane as u32;
                    block.force(env, |job| job.agent == agent && job.place.lane == thread && job.stamp <= until)?;
                    warp.knows.learn(agent, until);
                }
                Ok(())
            }
            What::Prefetch => Ok(()),
        }
    }

    fn pieces(&self, warp: &mut Warp, block: &mut Block, env: &Env, mask: u32) -> Run {
        let What::Piece { to, from, bytes, read } = &self.0 else { return Ok(()) };
        let (to, from) = (to.lanes(warp, mask)?, from.lanes(warp, mask)?);
        let mut pieces = Vec::with_capacity(LANES);
        for lane in lanes_of(mask) {
            let at = block.shared.place(near(to[lane]), *bytes).map_err(misplaced(lane))?;
            let n = match read {
                Some(slot) => value(warp, *slot, lane)? as usize,
                None => *bytes,
            };
            if n > *bytes {
                let what = format!("{n} bytes read for a copy of {bytes}");
                return Err(Trouble::lane(FaultKind::Operand, lane, what));
            }
            if !from[lane].is_multiple_of(*bytes as u64) {
                let what = format!("{bytes} bytes at {:#x}", from[lane]);
                return Err(Trouble::lane(FaultKind::Misaligned, lane, what));
            }
            pieces.push((at, from[lane], *bytes, n));
        }
        let agent = block.shared.agent(Agent::Copies(warp.index))?;
        let stamp = warp.copies.issue(block.time + 1);
        let job = job(warp, Work::Pieces(pieces), agent, stamp, mask.trailing_zeros());
        warp.advance();
        block.issue(env, job)
    }
}

fn wait_pieces(warp: &mut Warp, block: &mut Block, env: &Env, until: u32) -> Run {
    let agent = block.shared.agent(Agent::Copies(warp.index))?;
    block.force(env, |job| job.agent == agent && job.stamp <= until)?;
    // These are writes by the generic proxy: the async proxy still needs a fence.
    warp.knows.happened.raise(agent, until);
    Ok(())
}

/// A copy with the current clocks of its warp.
fn job(warp: &Warp, what: Work, agent: u8, stamp: u32, lane: u32) -> Job {
    let place = Place { warp: warp.index, lane, pc: warp.pc };
    Job { what, agent, stamp, knows: Arc::new(warp.knows.clone()), place }
}

fn near(address: u64) -> u64 {
    if address >= SHARED_WINDOW { address - SHARED_WINDOW } else { address }
}

fn sixteen(what: &str, value: u64) -> Run {
    if !value.is_multiple_of(16) {
        return Err(Trouble::warp(
            FaultKind::Misaligned,
            format!("{what} is {value:#x}; a multiple of 16 is expected"),
        ));
    }
    Ok(())
}

/// The tensor map and the coordinates of a lane.
fn box_at(warp: &Warp, block: &mut Block, env: &Env, lane: usize, at: &BoxAt) -> Run<(Arc<TensorMap>, Vec<i32>)> {
    let address = at.map.lanes(warp, 1 << lane)?[lane];
    let map = block.tensor_map(env, address)?;
    if map.dims.len() != at.at.len() {
        let what = format!("{} coordinates into a tensor of {} dimensions", at.at.len(), map.dims.len());
        return Err(Trouble::warp(FaultKind::Operand, what));
    }
    let at = at.at.iter().map(|slot| value(warp, *slot, lane).map(|v| v as i32)).collect::<Run<Vec<_>>>()?;
    Ok((map, at))
}

fn load(warp: &mut Warp, block: &mut Block, env: &Env, lane: usize, (to, from, barrier): (u64, &Far, u64)) -> Run {
    let barrier = block.shared.place(barrier, 8).map_err(misplaced(lane))?;
    let known = block.known_mbarrier(barrier, warp)?;
    let (maker, made) = known.made_by;
    if !known.published && made > warp.knows.fenced.get(maker) {
        let what = format!(
            "mbarrier {barrier:#x} is used by the async proxy; neither fence.mbarrier_init nor fence.proxy.async \
             follows its initialisation"
        );
        return Err(Trouble::warp(FaultKind::MissingProxyFence, what));
    }
    let phase = known.phase;
    let agent = block.shared.agent(Agent::BulkLoads(barrier as u32))?;
    let stamp = block.known_mbarrier(barrier, warp)?.start_load(agent);
    let report = Report { barrier, phase };
    let what = match from {
        Far::Plain { address, bytes } => {
            let from = address.lanes(warp, 1 << lane)?[lane];
            let bytes = value(warp, *bytes, lane)?;
            sixteen("the destination", to)?;
            sixteen("the source", from)?;
            sixteen("the size", u64::from(bytes))?;
            block.shared.span(to as usize, bytes as usize).map_err(misplaced(lane))?;
            Work::Load { to: to as usize, from, bytes: bytes as usize, report }
        }
        Far::Tensor(at) => {
            let (map, at) = box_at(warp, block, env, lane, at)?;
            check_box(&map, to as usize)?;
            block.shared.span(to as usize, map.box_bytes()).map_err(misplaced(lane))?;
            Work::LoadBox { to: to as usize, map, at, report }
        }
    };
    let job = job(warp, what, agent, stamp, lane as u32);
    warp.advance();
    block.issue(env, job)
}

fn store(warp: &mut Warp, block: &mut Block, env: &Env, lane: usize, (from, to, add_floats): (u64, &Far, bool)) -> Run {
    let agent = block.shared.agent(Agent::BulkStores(warp.index))?;
    let what = match to {
        Far::Plain { address, bytes } => {
            let to = address.lanes(warp, 1 << lane)?[lane];
            let bytes = value(warp, *bytes, lane)?;
            sixteen("the destination", to)?;
            sixteen("the source", from)?;
            sixteen("the size", u64::from(bytes))?;
            let (from, bytes) = (from as usize, bytes as usize);
            if add_floats { Work::AddFloats { to, from, bytes } } else { Work::Store { to, from, bytes } }
        }
        Far::Tensor(at) => {
            let (map, at) = box_at(warp, block, env, lane, at)?;
            check_box(&map, from as usize)?;
            Work::StoreBox { map, at, from: from as usize }
        }
    };
    let stamp = warp.stores[lane].issue(block.time + 1);
    let job = job(warp, what, agent, stamp, lane as u32);
    warp.advance();
    block.issue(env, job)
}

impl Block {
    /// The tensor map at an address of global memory or the parameters. A launch does not order the tensormap proxy with earlier
    /// writes (PTX ISA, "Causality order"), so that a block must acquire a map in global memory.
    fn tensor_map(&mut self, env: &Env, address: u64) -> Run<Arc<TensorMap>> {
        if address < PARAMETER_WINDOW && !self.acquired.contains(&address) {
            let what = format!(
                "the tensor map at {address:#x} is in global memory; no fence.proxy.tensormap::generic.acquire of this \
                 block precedes"
            );
            return Err(Trouble::warp(FaultKind::MissingProxyFence, what));
        }
        if let Some((_, map)) = self.maps.iter().find(|(known, _)| *known == address) {
            return Ok(map.clone());
        }
        if !address.is_multiple_of(64) {
            let what = format!("a tensor map at {address:#x}; a multiple of 64 is expected");
            return Err(Trouble::warp(FaultKind::Misaligned, what));
        }
        let mut bytes = [0; 128];
        if address >= PARAMETER_WINDOW {
            for (i, part) in bytes.chunks_mut(16).enumerate() {
                let chunk = env.parameter(address - PARAMETER_WINDOW + 16 * i as u64, 16);
                part.copy_from_slice(&chunk.map_err(|(kind, what)| Trouble::warp(kind, what))?.bytes());
            }
        } else {
            env.global.read(address, &mut bytes, |_, _| {}).map_err(bad(0))?;
        }
        let map = TensorMap::decode(&bytes).map_err(|what| Trouble::warp(FaultKind::Operand, what))?;
        let map = Arc::new(map);
        self.maps.push((address, map.clone()));
        Ok(map)
    }
}
