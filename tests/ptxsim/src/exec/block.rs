//! A block: shared memory, barriers, and warps in shuffled order.

use std::sync::Arc;

use super::Env;
use super::barrier::Barrier;
use super::groups::Groups;
use super::job::{Haste, Job};
use super::mbarrier::MBarrier;
use super::product::Warpgroup;
use super::warp::{Wait, Warp};
use crate::fault::{Fault, FaultKind, Run, Trouble};
use crate::memory::shared::Shared;
use crate::rng::Rng;
use crate::stats::Stats;
use crate::tensor_map::TensorMap;

/// Rounds without progress that are a deadlock.
const PATIENCE: u32 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Finished,
    Progress,
    Stalled,
}

/// State of a block. Reused between blocks.
#[derive(Debug)]
pub(crate) struct Block {
    pub index: [u32; 3],
    pub shared: Shared,
    pub barriers: Vec<Barrier>,
    pub warps: Vec<Warp>,
    /// Unused warps of larger blocks.
    spare: Vec<Warp>,
    pub stats: Stats,
    pub mbarriers: Vec<MBarrier>,
    /// Copies in flight.
    pub pending: Vec<Job>,
    pub haste: Haste,
    /// Decoded tensor maps by address.
    pub maps: Vec<(u64, Arc<TensorMap>)>,
    /// Addresses of tensor maps in global memory that the block has acquired by a fence.
    pub acquired: Vec<u64>,
    /// Products in flight of each warpgroup.
    pub tensor: Vec<Warpgroup>,
    pub rng: Rng,
    /// Times up to this one belong to earlier blocks.
    pub time: u32,
    launch: u64,
    executed: u64,
    idle: u32,
}

impl Block {
    pub fn new() -> Block {
        Block {
            index: [0; 3],
            shared: Shared::default(),
            barriers: Vec::new(),
            warps: Vec::new(),
            spare: Vec::new(),
            stats: Stats::default(),
            mbarriers: Vec::new(),
            pending: Vec::new(),
            haste: Haste::Sometime,
            maps: Vec::new(),
            acquired: Vec::new(),
            tensor: Vec::new(),
            rng: Rng::new(0, 0),
            time: 0,
            launch: 0,
            executed: 0,
            idle: 0,
        }
    }

    /// Starts block number `linear` of a launch.
    pub fn start(&mut self, env: &Env, linear: u32) {
        let [x, y, _] = env.grid;
        self.index = [linear % x, linear / x % y, linear / (x * y)];
        if self.launch != env.launch {
            // The maps may have changed between launches.
            self.maps.clear();
            self.launch = env.launch;
        }
        self.acquired.clear();
        let latest = self.warps.iter().flat_map(|warp| warp.knows.happened.as_slice()).max().copied();
        self.time = latest.unwrap_or(0).max(self.shared.latest()).max(self.time) + 1;
        if self.time > u32::MAX / 2 {
            (self.shared, self.time) = (Shared::default(), 0);
        }
        let n_warps = env.n_threads().div_ceil(32);
        self.shared.reset(crate::decode::SHARED_BASE as usize, env.shared_end, n_warps);
        self.barriers.resize_with(super::barrier::CLUSTER_BARRIER as usize + 1, Barrier::default);
        self.barriers.iter_mut().for_each(|barrier| barrier.reset(self.time));
        self.spare.extend(self.warps.drain((n_warps as usize).min(self.warps.len())..));
        while self.warps.len() < n_warps as usize {
            self.warps.push(self.spare.pop().unwrap_or_default());
        }
        for (warp, index) in self.warps.iter_mut().zip(0..) {
            warp.reset(index, env, self.index, self.time);
        }
        self.rng = Rng::new(env.seed, u64::from(linear));
        self.haste = [Haste::AtOnce, Haste::Sometime, Haste::Sometime, Haste::WhenForced][self.rng.below(4)];
        self.mbarriers.clear();
        self.pending.clear();
        self.tensor.clear();
        self.tensor.resize_with(n_warps.div_ceil(4) as usize, Warpgroup::default);
        self.executed = 0;
        self.idle = 0;
    }

    /// Runs a slice of every warp, in shuffled order.
    pub fn round(&mut self, env: &Env) -> Result<Round, Fault> {
        let mut order: Vec<usize> = (0..self.warps.len()).filter(|w| self.warps[*w].alive != 0).collect();
        if order.is_empty() {
            return self.finish(env).map(|()| Round::Finished);
        }
        self.rng.shuffle(&mut order);
        let mut progress = false;
        for w in order {
            let limit = if self.rng.one_in(8) { 1 + self.rng.below(12) } else { 64 + self.rng.below(448) } as u64;
            let mut warp = std::mem::take(&mut self.warps[w]);
            let slice = warp.slice(self, env, limit);
            let slice = slice.map_err(|trouble| self.fault(env, &warp, *trouble));
            self.warps[w] = warp;
            let slice = slice?;
            self.executed += slice.executed;
            progress |= slice.progress;
            progress |= self.settle(env, w).map_err(|trouble| self.fault(env, &self.warps[w], *trouble))?;
        }
        progress |= self.advance(env, progress).map_err(|trouble| self.fault(env, &self.warps[0], *trouble))?;
        if self.executed > env.budget {
            let what = format!("more than {} instructions of warps", env.budget);
            return Err(self.fault(env, &self.warps[0], *Trouble::warp(FaultKind::Budget, what)));
        }
        self.idle = if progress { 0 } else { self.idle + 1 };
        Ok(if self.idle > PATIENCE { Round::Stalled } else { Round::Progress })
    }

    /// Completes asynchronous work, randomly or if there is no other progress.
    fn advance(&mut self, env: &Env, progress: bool) -> Run<bool> {
        let chance = self.haste == Haste::Sometime && self.rng.one_in(2);
        if progress && !chance {
            return Ok(false);
        }
        let copied = self.run_any_job(env)?;
        let multiplied = self.run_any_product(env)?;
        Ok(copied || multiplied)
    }

    /// Checks that no asynchronous work is left.
    fn finish(&mut self, env: &Env) -> Result<(), Fault> {
        let left = |what: &str| *Trouble::warp(FaultKind::Unfinished, format!("the block ends before {what}"));
        for warp in &self.warps {
            if warp.stores.iter().any(Groups::unfinished) {
                return Err(self.fault(env, warp, left("a bulk store that nobody waits for")));
            }
            if warp.copies.unfinished() && !warp.reports_copies {
                return Err(self.fault(env, warp, left("a cp.async that nobody waits for")));
            }
            if !warp.tensor.in_flight.is_empty() {
                return Err(self.fault(env, warp, left("a wgmma that nobody waits for")));
            }
        }
        if let Some(job) = self.pending.first() {
            let trouble = Trouble { place: Some(job.place), ..left("this copy, for which nobody waits") };
            return Err(self.fault(env, &self.warps[0], trouble));
        }
        Ok(())
    }

    pub fn run(&mut self, env: &Env) -> Result<(), Fault> {
        loop {
            match self.round(env)? {
                Round::Finished => return Ok(()),
                Round::Progress => {}
                Round::Stalled => return Err(self.deadlock(env)),
            }
        }
    }

    fn fault(&self, env: &Env, warp: &Warp, trouble: Trouble) -> Fault {
        let lane = trouble.lane.unwrap_or(warp.mask.trailing_zeros() & 31);
        let (thread, pc) = match trouble.place {
            Some(place) => (32 * place.warp + place.lane, place.pc),
            None => (warp.thread(lane), warp.pc),
        };
        let instruction = env.program.code.get(pc as usize);
        Fault {
            kind: trouble.kind,
            kernel: env.program.name.clone(),
            block: self.index,
            thread: Some(thread),
            line: instruction.map_or(0, |instruction| instruction.line),
            instruction: instruction.map_or(String::new(), |instruction| instruction.text.clone()),
            origin: instruction.and_then(|instruction| env.program.source(instruction)),
            what: trouble.what,
        }
    }

    /// The deadlock fault, with the position of every live warp.
    pub fn deadlock(&self, env: &Env) -> Fault {
        let mut what = String::from("no warp can go on:");
        let live: Vec<&Warp> = self.warps.iter().filter(|warp| warp.alive != 0).collect();
        for warp in &live {
            for pc in warp.places() {
                let Some(instruction) = env.program.code.get(pc as usize) else { continue };
                let text: String = instruction.text.chars().take(60).collect();
                what.push_str(&format!(" warp {} at line {} `{text}`;", warp.index, instruction.line));
            }
            for spin in warp.spins() {
                let barrier = self.mbarriers.iter().find(|barrier| barrier.address as u64 == spin.address);
                what.push_str(&barrier.map_or(String::new(), |barrier| format!(" {};", barrier.describe())));
            }
            if let Wait::Barrier(id, _) = warp.wait {
                let (arrived, expected) = self.barriers[id as usize].progress();
                what.push_str(&format!(" {arrived} of {expected} threads at barrier {id};"));
            }
        }
        let first = live.first().copied().unwrap_or(&self.warps[0]);
        self.fault(env, first, *Trouble::warp(FaultKind::Deadlock, what))
    }
}
