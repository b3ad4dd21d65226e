//! Happens-before by vector clocks over the agents of a block.
//!
//! An agent is a warp, the unfinished `cp.async` of a warp, its bulk stores, the `wgmma` of a warpgroup, or the copies that
//! report to an mbarrier. Barriers, mbarriers and waits transfer clocks.
//!
//! Each agent has two clocks: accesses that happened before, and those of them that a proxy fence has made visible to the async
//! proxy.

/// Most agents per block.
pub(crate) const MAX_AGENTS: usize = 128;

/// For each agent, the time up to which its accesses happened before. The default is empty and must not be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock(Vec<u32>);

impl Clock {
    fn reset(&mut self, time: u32) {
        self.0.clear();
        self.0.resize(MAX_AGENTS, time);
    }

    #[inline]
    pub fn get(&self, agent: u8) -> u32 {
        self.0[agent as usize]
    }

    #[inline]
    pub fn raise(&mut self, agent: u8, time: u32) {
        let held = &mut self.0[agent as usize];
        *held = (*held).max(time);
    }

    fn join(&mut self, other: &Clock) {
        for (held, other) in self.0.iter_mut().zip(other.0.iter()) {
            *held = (*held).max(*other);
        }
    }

    fn meet(&mut self, other: &Clock) {
        for (held, other) in self.0.iter_mut().zip(other.0.iter()) {
            *held = (*held).min(*other);
        }
    }

    pub fn as_slice(&self) -> &[u32] {
        &self.0[..]
    }
}

/// The two clocks of an agent, a barrier or a copy in flight.
#[derive(Debug, Clone, Default)]
pub(crate) struct Knowledge {
    pub happened: Clock,
    pub fenced: Clock,
}

impl Knowledge {
    /// Everything up to a time happened before.
    pub fn new(time: u32) -> Knowledge {
        let mut knows = Knowledge::default();
        knows.reset(time);
        knows
    }

    /// As [`Knowledge::new`], in place.
    pub fn reset(&mut self, time: u32) {
        self.happened.reset(time);
        self.fenced.reset(time);
    }

    /// Copies the clocks without an allocation.
    pub fn become_as(&mut self, other: &Knowledge) {
        self.happened.0.clone_from(&other.happened.0);
        self.fenced.0.clone_from(&other.fenced.0);
    }

    pub fn join(&mut self, other: &Knowledge) {
        self.happened.join(&other.happened);
        self.fenced.join(&other.fenced);
    }

    /// The common part of the clocks.
    pub fn meet(&mut self, other: &Knowledge) {
        self.happened.meet(&other.happened);
        self.fenced.meet(&other.fenced);
    }

    /// `fence.proxy.async`
    pub fn fence(&mut self) {
        self.fenced.join(&self.happened);
    }

    /// An access by the async proxy itself, which needs no fence.
    pub fn learn(&mut self, agent: u8, time: u32) {
        self.happened.raise(agent, time);
        self.fenced.raise(agent, time);
    }
}
