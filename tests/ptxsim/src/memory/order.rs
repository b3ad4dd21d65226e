//! Who knows what of whom: vector clocks over the agents of a block.
//!
//! An agent is a warp, or something that works for one: the unfinished `cp.async` of a warp, its bulk stores, the `wgmma` of a
//! warpgroup, the copies that report to one mbarrier. Barriers, mbarriers and waits pass knowledge on.
//!
//! Each keeps two clocks: what happened before it at all, and what of that a proxy fence lies behind, so that the async proxy
//! may rely on it.

/// Most agents of a block.
pub(crate) const MAX_AGENTS: usize = 128;

/// For each agent, the time up to which its deeds are known. Without agents, of which nothing may be asked, it takes no memory.
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

/// The two clocks of an agent, a barrier, a copy on its way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Knowledge {
    pub happened: Clock,
    pub fenced: Clock,
}

impl Knowledge {
    /// Knows everything up to a time.
    pub fn new(time: u32) -> Knowledge {
        let mut knows = Knowledge::default();
        knows.reset(time);
        knows
    }

    /// Knows everything up to a time, and no more.
    pub fn reset(&mut self, time: u32) {
        self.happened.reset(time);
        self.fenced.reset(time);
    }

    /// Knows what the other knows.
    pub fn become_as(&mut self, other: &Knowledge) {
        self.happened.0.clone_from(&other.happened.0);
        self.fenced.0.clone_from(&other.fenced.0);
    }

    pub fn join(&mut self, other: &Knowledge) {
        self.happened.join(&other.happened);
        self.fenced.join(&other.fenced);
    }

    /// Knows only what the other knows too.
    pub fn meet(&mut self, other: &Knowledge) {
        self.happened.meet(&other.happened);
        self.fenced.meet(&other.fenced);
    }

    /// `fence.proxy.async`
    pub fn fence(&mut self) {
        self.fenced.join(&self.happened);
    }

    /// A deed of the async proxy itself, which needs no fence.
    pub fn learn(&mut self, agent: u8, time: u32) {
        self.happened.raise(agent, time);
        self.fenced.raise(agent, time);
    }
}
