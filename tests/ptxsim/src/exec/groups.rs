//! Groups of asynchronous copies: issued, committed, waited for.

/// The groups of a warp's `cp.async`, or of a lane's bulk stores. Each has a time of its own, later ones greater.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// The time of copies that are issued now; zero before the first.
    now: u32,
    /// Committed and not waited for.
    committed: Vec<u32>,
    /// Times up to this are waited for.
    waited: u32,
    /// The time of the last copy.
    last: Option<u32>,
}

impl Groups {
    /// Nothing issued, nothing to wait for.
    pub fn reset(&mut self) {
        self.committed.clear();
        (self.now, self.waited, self.last) = (0, 0, None);
    }

    /// The time for a copy that starts now; `first` is the time before which nothing was.
    pub fn issue(&mut self, first: u32) -> u32 {
        self.now = self.now.max(first);
        self.last = Some(self.now);
        self.now
    }

    /// Ends the open group.
    pub fn commit(&mut self, first: u32) {
        self.now = self.now.max(first);
        self.committed.push(self.now);
        self.now += 1;
    }

    /// What `wait_group n` waits for: everything up to a time.
    pub fn wait(&mut self, n: usize) -> u32 {
        let done = self.committed.len().saturating_sub(n);
        if let Some(last) = self.committed.drain(..done).next_back() {
            self.waited = last;
        }
        self.waited
    }

    /// A time after which later copies count as later; gives the time of all before.
    pub fn mark(&mut self, first: u32) -> u32 {
        self.now = self.now.max(first);
        self.now += 1;
        self.now - 1
    }

    /// The last copy was not waited for.
    pub fn unfinished(&self) -> bool {
        self.last.is_some_and(|last| last > self.waited)
    }
}
