//! A warp: its registers, the groups of its lanes, and its wait.
//!
//! Lanes at the same instruction form a group. The group that is earliest in the text runs, and groups that meet merge. At an
//! instruction for several lanes a group parks until all of them have arrived.

use super::groups::Groups;
use super::{Block, Env};
use crate::fault::{FaultKind, Run, Trouble};
use crate::isa::Op;
use crate::isa::access::Space;
use crate::isa::control::Control;
use crate::isa::sync::Sync;
use crate::isa::wgmma::Tensor;
use crate::memory::order::Knowledge;
use crate::program::{LaneMask, Special};
use crate::registers::{LANES, Registers, map1};

/// Lanes outside the running group.
#[derive(Debug, Clone, Copy)]
struct Group {
    pc: u32,
    mask: u32,
    state: State,
    spin: Option<Spin>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// At an instruction that needs more lanes.
    Parked,
    /// After a failed mbarrier wait or a long turn, until the warp has executed this number of instructions.
    Resting(u64),
}

/// Instructions after which another group runs: the group may wait for it in a loop over memory.
const LONG_TURN: u64 = 2048;

/// Longest loop, in instructions, that is recognised as a wait for an mbarrier.
const LONGEST_SPIN: u32 = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Wait {
    #[default]
    None,
    /// A named barrier: its number, and its generation at arrival.
    Barrier(u32, u64),
    /// The other warps of the warpgroup, before a product.
    Warpgroup,
    /// Products up to a number.
    Products(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    /// Wait; see [`Wait`].
    Blocked,
    /// Let others run, then continue.
    Yield,
}

/// A loop that waits for an mbarrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spin {
    pub pc: u32,
    pub address: u64,
    /// Tests so far of a wait that does not suspend: a kernel may count them, so that each is progress.
    pub tests: u32,
}

/// State of a warp. The default has no registers.
#[derive(Debug, Default)]
pub(crate) struct Warp {
    pub index: u32,
    /// Its agent in the race checks.
    pub agent: u8,
    pub regs: Registers,
    pub alive: u32,
    pub pc: u32,
    pub mask: u32,
    others: Vec<Group>,
    pub wait: Wait,
    /// The wait of the running group.
    pub spin: Option<Spin>,
    /// Executed instructions, now and at the start of the running group's turn.
    executed: u64,
    turn_began: u64,
    /// Index of the last allocation used.
    pub hint: usize,
    pub knows: Knowledge,
    /// Groups of `cp.async`.
    pub copies: Groups,
    /// An mbarrier tracks its `cp.async`.
    pub reports_copies: bool,
    /// Groups of bulk stores of each lane.
    pub stores: Vec<Groups>,
    pub tensor: Tensor,
    /// The launch whose immediates and special registers are in their slots.
    prepared_for: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slice {
    pub executed: u64,
    /// There was progress other than iterations of a waiting loop.
    pub progress: bool,
}

impl Warp {
    /// The time of its accesses.
    #[inline]
    pub fn stamp(&self) -> u32 {
        self.knows.happened.get(self.agent)
    }

    /// Later accesses get a later time than those that other agents now know of.
    pub fn advance(&mut self) {
        let next = self.stamp() + 1;
        self.knows.happened.raise(self.agent, next);
    }

    pub fn reset(&mut self, index: u32, env: &Env, block: [u32; 3], time: u32) {
        let program = env.program;
        let left = env.n_threads() - 32 * index;
        self.alive = if left >= 32 { u32::MAX } else { (1 << left) - 1 };
        (self.index, self.agent) = (index, index as u8);
        (self.pc, self.mask) = (0, self.alive);
        (self.wait, self.spin, self.hint) = (Wait::None, None, 0);
        (self.executed, self.turn_began) = (0, 0);
        self.others.clear();
        self.knows.reset(time);
        self.knows.happened.raise(self.agent, time + 1);
        self.copies.reset();
        self.reports_copies = false;
        self.stores.resize_with(LANES, Groups::default);
        self.stores.iter_mut().for_each(Groups::reset);
        self.tensor.reset(if program.has_products { program.n[0] } else { 0 });
        self.prepare(env, block);
    }

    /// Poisons all registers, and sets immediates and special registers. No instruction writes the latter, and most have the same
    /// value in all blocks of a launch.
    fn prepare(&mut self, env: &Env, block: [u32; 3]) {
        let program = env.program;
        self.regs.reset(program.n[0], program.n[1], program.n[2]);
        let fresh = self.prepared_for != env.launch;
        self.prepared_for = env.launch;
        for (value, slot) in &program.words {
            if fresh {
                self.regs.r.fill(*slot, *value);
            }
            self.regs.r.cure(*slot);
        }
        for (value, slot) in &program.doubles {
            if fresh {
                self.regs.d.fill(*slot, *value);
            }
            self.regs.d.cure(*slot);
        }
        for (value, slot) in &program.predicates {
            self.regs.set_predicate(*slot, if *value { u32::MAX } else { 0 }, 0, u32::MAX);
        }
        for (special, slot) in &program.specials {
            if fresh || matches!(special, Special::Ctaid(_) | Special::SmId) {
                self.regs.r.put(*slot, &special.lanes(self.index, env, block), 0, u32::MAX);
            }
            self.regs.r.cure(*slot);
        }
    }

    pub fn thread(&self, lane: u32) -> u32 {
        32 * self.index + lane
    }

    /// Positions of the live lanes.
    pub fn places(&self) -> Vec<u32> {
        let mut places: Vec<u32> = self.others.iter().map(|group| group.pc).collect();
        if self.mask != 0 {
            places.push(self.pc);
        }
        places
    }

    /// Merges groups that met; the earliest ready one runs.
    fn reconverge(&mut self) {
        let (pc, mask) = (self.pc, &mut self.mask);
        self.others.retain(|group| {
            let meets = group.pc == pc;
            *mask |= if meets { group.mask } else { 0 };
            !meets
        });
        let ready = self.others.iter().enumerate().filter(|(_, group)| group.state == State::Ready);
        if let Some((index, first)) = ready.min_by_key(|(_, group)| group.pc)
            && first.pc < self.pc
        {
            let group = self.others.swap_remove(index);
            self.others.push(Group { state: State::Ready, ..self.running() });
            self.run(group);
        }
    }

    fn running(&self) -> Group {
        Group { pc: self.pc, mask: self.mask, state: State::Ready, spin: self.spin }
    }

    fn run(&mut self, group: Group) {
        (self.pc, self.mask, self.spin) = (group.pc, group.mask, group.spin);
        self.turn_began = self.executed;
    }

    /// Switches to another group; the running one, unless empty, gets `state`. False if no group can run.
    fn switch(&mut self, state: State) -> bool {
        // The earliest ready group, else the one that rests until the earliest time.
        let rank = |group: &Group| match group.state {
            State::Ready => Some((0, u64::from(group.pc))),
            State::Resting(until) => Some((1, until)),
            State::Parked => None,
        };
        let ranked = self.others.iter().enumerate().filter_map(|(index, group)| Some((rank(group)?, index)));
        let Some((_, index)) = ranked.min() else { return false };
        let group = self.others.swap_remove(index);
        if self.mask != 0 {
            self.others.push(Group { state, ..self.running() });
        }
        self.run(group);
        true
    }

    /// Randomly leaves lanes behind, for `split_lanes`: any lanes at an access to shared memory, and the active lanes of a
    /// predicated instruction.
    fn part(&mut self, block: &mut Block, env: &Env) {
        let Some(instruction) = env.program.code.get(self.pc as usize).filter(|_| self.others.is_empty()) else {
            return;
        };
        let guarded = instruction.guard.as_ref().map_or(u32::MAX, |guard| guard.lanes(&self.regs).0) & self.mask;
        let lanes = match &instruction.op {
            _ if guarded != self.mask => guarded,
            Op::Access(access) if access.space == Space::Shared => self.mask & block.rng.next() as u32,
            _ => return,
        };
        if lanes != 0 && lanes != self.mask && block.rng.one_in(4) {
            let state = State::Resting(self.executed + LONG_TURN);
            self.others.push(Group { mask: lanes, state, ..self.running() });
            self.mask &= !lanes;
        }
    }

    fn branch(&mut self, taken: u32, target: u32) {
        if taken == self.mask {
            self.pc = target;
        } else if taken == 0 {
            self.pc += 1;
        } else {
            self.others.push(Group { pc: target, mask: taken, ..self.running() });
            self.mask &= !taken;
            self.pc += 1;
        }
    }

    /// Lanes exit. Parked groups check again whether all live lanes have arrived.
    fn exit(&mut self, lanes: u32) {
        self.alive &= !lanes;
        self.mask &= !lanes;
        self.pc += 1;
        self.others.iter_mut().for_each(|group| group.state = State::Ready);
        if self.mask == 0 && !self.switch(State::Ready) {
            self.pc = u32::MAX;
        }
    }

    /// Runs up to `limit` instructions.
    pub fn slice(&mut self, block: &mut Block, env: &Env, limit: u64) -> Run<Slice> {
        let mut slice = Slice { executed: 0, progress: false };
        if !self.resume(block) {
            return Ok(slice);
        }
        self.wake();
        let mut since_spin = 0u32;
        while slice.executed < limit && self.alive != 0 {
            if !self.others.is_empty() {
                self.reconverge();
                if self.executed - self.turn_began > LONG_TURN {
                    self.switch(State::Resting(self.executed + LONG_TURN));
                    (self.turn_began, since_spin) = (self.executed, 0);
                }
            }
            if env.split_lanes {
                self.part(block, env);
            }
            let (spun, n_others) = (self.spin, self.others.len());
            let flow = self.step(block, env)?;
            slice.executed += 1;
            self.executed += 1;
            since_spin += 1;
            // After divergence, the group that is later in the text may run first.
            if env.split_lanes && self.others.len() > n_others && block.rng.one_in(2) {
                self.switch(State::Resting(self.executed + LONG_TURN));
            }
            if since_spin > LONGEST_SPIN {
                self.spin = None;
            }
            match flow {
                Flow::Next => slice.progress |= self.spin.is_none(),
                Flow::Blocked => {
                    slice.progress |= self.spin.is_none();
                    return Ok(slice);
                }
                Flow::Yield => {
                    slice.progress |= spun != self.spin;
                    since_spin = 0;
                    // Ready groups run now: the wait may be for them.
                    let others_ready = self.others.iter().any(|group| group.state == State::Ready);
                    self.switch(State::Resting(self.executed));
                    if !others_ready {
                        return Ok(slice);
                    }
                }
            }
        }
        Ok(slice)
    }

    fn wake(&mut self) {
        let executed = self.executed;
        for group in &mut self.others {
            if matches!(group.state, State::Resting(until) if until <= executed) {
                group.state = State::Ready;
            }
        }
    }

    /// The waits of all groups.
    pub fn spins(&self) -> impl Iterator<Item = Spin> {
        self.others.iter().filter_map(|group| group.spin).chain(self.spin)
    }

    /// Whether the warp can continue.
    fn resume(&mut self, block: &mut Block) -> bool {
        match self.wait {
            Wait::None => true,
            Wait::Barrier(id, generation) => {
                let barrier = &block.barriers[id as usize];
                if barrier.generation == generation {
                    return false;
                }
                self.knows.join(&barrier.released);
                self.wait = Wait::None;
                self.pc += 1;
                true
            }
            // `Block::settle` ends these.
            Wait::Warpgroup | Wait::Products(_) => false,
        }
    }

    /// Executes one instruction of the running group.
    #[inline]
    fn step(&mut self, block: &mut Block, env: &Env) -> Run<Flow> {
        let Some(instruction) = env.program.code.get(self.pc as usize) else {
            return Err(Trouble::warp(FaultKind::Operand, "the kernel ends without ret"));
        };
        let mut mask = self.mask;
        if let Some(guard) = instruction.guard {
            let (bits, poison) = guard.lanes(&self.regs);
            if poison & mask != 0 {
                let lane = (poison & mask).trailing_zeros() as usize;
                return Err(Trouble::lane(FaultKind::Poison, lane, "the predicate comes from unwritten memory"));
            }
            mask &= bits;
        }
        block.stats.count(instruction.class, mask);
        if mask == 0 {
            self.pc += 1;
            return Ok(Flow::Next);
        }
        if !instruction.touches.is_empty() {
            self.tensor.touch(&instruction.touches)?;
        }
        match &instruction.op {
            Op::Lanes(effect) => effect(&mut self.regs, mask),
            Op::Special(effect) => effect(&mut self.regs, mask, env.error),
            Op::Control(op) => return self.control(op, mask),
            Op::Access(op) => op.run(self, block, env, mask)?,
            Op::Atomic(op) => op.run(self, block, env, mask)?,
            Op::Collective(op) => {
                let members = op.members(&self.regs, mask)?;
                if !self.together(members, mask)? {
                    return Ok(Flow::Next);
                }
                (op.effect)(&mut self.regs, mask);
            }
            Op::Sync(op) => return self.sync(op, block, env, mask),
            Op::Mbarrier(op) => {
                let flow = op.run(self, block, mask)?;
                self.pc += 1;
                return Ok(flow);
            }
            Op::Copy(op) => op.run(self, block, env, mask)?,
            Op::Mma(_) | Op::Matrix(_) | Op::Wgmma(_) if !self.together(u32::MAX, mask)? => return Ok(Flow::Next),
            Op::Mma(op) => op.run(&mut self.regs),
            Op::Matrix(op) => op.run(self, block)?,
            Op::Wgmma(op) => return op.run(self, mask),
        }
        self.pc += 1;
        Ok(Flow::Next)
    }

    /// True if all live members have arrived. Otherwise the group parks and another one runs.
    pub fn together(&mut self, members: u32, mask: u32) -> Run<bool> {
        let missing = members & self.alive & !mask;
        if missing == 0 {
            return Ok(true);
        }
        if !self.switch(State::Parked) {
            let what = format!("lanes {mask:#010x} are here, lanes {missing:#010x} never come");
            return Err(Trouble::lane(FaultKind::Divergence, mask.trailing_zeros() as usize, what));
        }
        Ok(false)
    }

    fn control(&mut self, op: &Control, mask: u32) -> Run<Flow> {
        match op {
            Control::Branch { target } => self.branch(mask, *target),
            Control::Table { index, targets } => {
                let (lane, poison) = (mask.trailing_zeros() as usize, self.regs.r.poison(*index));
                if poison & mask != 0 {
                    return Err(Trouble::lane(FaultKind::Poison, lane, "the index comes from unwritten memory"));
                }
                let indices = *self.regs.r.get(*index);
                let first = indices[lane];
                let Some(target) = targets.get(first as usize) else {
                    let what = format!("index {first} into {} branch targets", targets.len());
                    return Err(Trouble::lane(FaultKind::OutOfBounds, lane, what));
                };
                // Lanes with other indices execute the branch later.
                let same = crate::registers::mask_of(|i| indices[i] == first) & mask;
                let stay = self.pc;
                if same != self.mask {
                    self.others.push(Group { pc: stay, mask: self.mask & !same, ..self.running() });
                    self.mask = same;
                }
                self.pc = *target;
            }
            Control::Exit => self.exit(mask),
            Control::Trap => {
                return Err(Trouble::lane(FaultKind::Trap, mask.trailing_zeros() as usize, "the kernel trapped"));
            }
            Control::Nop => self.pc += 1,
        }
        Ok(Flow::Next)
    }

    fn sync(&mut self, op: &Sync, block: &mut Block, env: &Env, mask: u32) -> Run<Flow> {
        match op {
            Sync::Barrier { id, threads, wait } => {
                if !self.together(self.alive, mask)? {
                    return Ok(Flow::Next);
                }
                let id = self.uniform(*id, mask)?;
                let expected = match threads {
                    Some(slot) => self.uniform(*slot, mask)?,
                    None => env.n_threads().next_multiple_of(32),
                };
                let Some(barrier) = block.barriers.get_mut(id as usize) else {
                    return Err(Trouble::warp(FaultKind::Operand, format!("barrier {id}; there are 16")));
                };
                if expected == 0 || expected % 32 != 0 {
                    let what = format!("a barrier for {expected} threads; a multiple of 32 is expected");
                    return Err(Trouble::warp(FaultKind::Operand, what));
                }
                let generation = barrier.generation;
                barrier.arrive(&self.knows, expected)?;
                self.advance();
                if *wait {
                    self.wait = Wait::Barrier(id, generation);
                    if self.resume(block) {
                        return Ok(Flow::Next);
                    }
                    return Ok(Flow::Blocked);
                }
            }
            Sync::Warp { members } => {
                let members = self.uniform(*members, mask)?;
                if !self.together(members, mask)? {
                    return Ok(Flow::Next);
                }
            }
            Sync::ProxyFence => {
                self.knows.fence();
                self.advance();
            }
            Sync::InitFence => {
                for barrier in block.mbarriers.iter_mut().filter(|barrier| barrier.made_by.0 == self.agent) {
                    barrier.published = true;
                }
            }
            Sync::AcquireMap { map } => {
                let addresses = map.lanes(self, mask)?;
                block.acquired.extend(crate::registers::lanes_of(mask).map(|lane| addresses[lane]));
            }
            Sync::Nothing => {}
            Sync::MaxRegisters => {
                if !self.together(u32::MAX, mask)? {
                    return Ok(Flow::Next);
                }
            }
        }
        self.pc += 1;
        Ok(Flow::Next)
    }

    /// A 32-bit operand that must be the same in all lanes.
    pub fn uniform(&self, slot: u32, mask: u32) -> Run<u32> {
        let (values, lane) = (self.regs.r.get(slot), mask.trailing_zeros() as usize);
        if self.regs.r.poison(slot) & mask != 0 {
            return Err(Trouble::lane(FaultKind::Poison, lane, "an operand comes from unwritten memory"));
        }
        if crate::registers::mask_of(|i| values[i] != values[lane]) & mask != 0 {
            return Err(Trouble::lane(FaultKind::Operand, lane, "an operand differs between the lanes of a warp"));
        }
        Ok(values[lane])
    }
}

impl Special {
    fn lanes(self, warp: u32, env: &Env, block: [u32; 3]) -> [u32; LANES] {
        let mut lane = [0; LANES];
        lane.iter_mut().zip(0..).for_each(|(lane, i)| *lane = i);
        let [nx, ny, _] = env.threads;
        match self {
            Special::Tid(axis) => map1(&lane, |i| {
                let thread = 32 * warp + i;
                [thread % nx, thread / nx % ny, thread / (nx * ny)][axis]
            }),
            Special::Ntid(axis) => [env.threads[axis]; LANES],
            Special::Ctaid(axis) => [block[axis]; LANES],
            Special::Nctaid(axis) => [env.grid[axis]; LANES],
            Special::Lane => lane,
            Special::Warp => [warp; LANES],
            Special::LaneMask(which) => map1(&lane, |i| {
                let own = 1u32 << i;
                match which {
                    LaneMask::Eq => own,
                    LaneMask::Lt => own - 1,
                    LaneMask::Le => own | (own - 1),
                    LaneMask::Gt => !(own | (own - 1)),
                    LaneMask::Ge => !(own - 1),
                }
            }),
            Special::Zero => [0; LANES],
            Special::One => [1; LANES],
            Special::WarpSize => [32; LANES],
            Special::SmId => [(block[0] + env.grid[0] * (block[1] + env.grid[1] * block[2])) % env.n_sms; LANES],
            Special::NSm => [env.n_sms; LANES],
        }
    }
}
