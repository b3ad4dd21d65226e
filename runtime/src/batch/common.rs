//! What a waiting prompt has in common with others. Every step asks that of every waiting job, so each pair of prompts is compared
//! once.

use std::collections::BTreeMap;

use super::request::RequestId;

/// Lengths of common beginnings of a prompt.
#[derive(Debug, Default)]
pub(super) struct Common {
    /// With the prompts of running jobs.
    running: BTreeMap<(RequestId, usize), usize>,
    /// With the prefix cache, and the version of the cache.
    cached: Option<(u64, usize)>,
}

impl Common {
    /// The length in common with a running job; `compare` finds it.
    pub(super) fn with(&mut self, job: (RequestId, usize), compare: impl FnOnce() -> usize) -> usize {
        *self.running.entry(job).or_insert_with(compare)
    }

    /// The length in common with this version of the cache; `find` finds it.
    pub(super) fn cached(&mut self, version: u64, find: impl FnOnce() -> usize) -> usize {
        match self.cached {
            Some((known, length)) if known == version => length,
            _ => self.cached.insert((version, find())).1,
        }
    }

    /// Forgets jobs that have ended.
    pub(super) fn forget(&mut self, has_ended: impl Fn((RequestId, usize)) -> bool) {
        self.running.retain(|&job, _| !has_ended(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_compared_once() {
        let mut common = Common::default();
        let job = |id| (RequestId(id), 0);
        assert_eq!([common.with(job(1), || 7), common.with(job(2), || 8)], [7, 8]);
        assert_eq!(common.with(job(1), || unreachable!("compared again")), 7);
        common.forget(|key| key == job(1));
        assert_eq!(common.with(job(2), || unreachable!("compared again")), 8);
        assert_eq!(common.with(job(1), || 9), 9, "it was forgotten");
        assert_eq!(common.cached(1, || 3), 3);
        assert_eq!(common.cached(1, || unreachable!("looked up again")), 3);
        assert_eq!(common.cached(2, || 4), 4);
    }
}
