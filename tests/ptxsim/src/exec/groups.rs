//! Groups of asynchronous copies: issue, commit, wait.

/// The `cp.async` groups of a warp, or the bulk store groups of a lane. Each group has a time; times increase.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Time of copies issued now; 0 before the first.
    now: u32,
    /// Committed groups without a wait.
    committed: Vec<u32>,
    /// Groups up to this time were waited for.
    waited: u32,
    /// Time of the last copy.
    last: Option<u32>,
}

impl Groups {
    pub fn reset(&mut self) {
        self.committed.clear();
        (self.now, self.waited, self.last) = (0, 0, None);
    }

    /// The time of a copy issued now. `first` is the first time of the block.
    pub fn issue(&mut self, first: u32) -> u32 {
        self.now = self.now.max(first);
        self.last = Some(self.now);
        self.now
    }

    pub fn commit(&mut self, first: u32) {
        self.now = self.now.max(first);
        self.committed.push(self.now);
        self.now += 1;
    }

    /// `wait_group n`: returns the time up to which copies must complete.
    pub fn wait(&mut self, n: usize) -> u32 {
        let done = self.committed.len().saturating_sub(n);
        if let Some(last) = self.committed.drain(..done).next_back() {
            self.waited = last;
        }
        self.waited
    }

    /// Returns the time of all copies so far. Later copies get later times.
    pub fn mark(&mut self, first: u32) -> u32 {
        self.now = self.now.max(first);
        self.now += 1;
        self.now - 1
    }

    /// The last copy has no wait.
    pub fn unfinished(&self) -> bool {
        self.last.is_some_and(|last| last > self.waited)
    }
}
