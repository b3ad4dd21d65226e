//! Copies of states in host memory: preempted jobs, and snapshots for the cache.

use super::Batch;
use super::job::Kept;
use crate::{Engine, PrefixCache, RuntimeError, SequenceId, Snapshot};

impl Batch {
    /// The running job that gives way first: of those with the lowest priority, the one that joined last.
    pub(super) fn last_in_rank(&self) -> Option<usize> {
        (0..self.running.len()).max_by_key(|&index| (self.running[index].job.priority, index))
    }

    /// Takes a running job's sequence away. The job waits with its state, or is read again if there is no room for that.
    pub(super) fn preempt(&mut self, engine: &mut Engine, index: usize) -> Result<(), RuntimeError> {
        let mut preempted = self.running.remove(index);
        preempted.job.preemptions += 1;
        self.n_preemptions += 1;
        if preempted.fed > 0 {
            preempted.job.state = self.swap_out(engine, preempted.sequence, preempted.job.cache_salt)?;
            preempted.job.state.iter().for_each(|state| self.swapped.add(state));
        }
        engine.remove_sequence(preempted.sequence)?;
        self.enqueue(preempted.job);
        Ok(())
    }

    /// A copy of the state of a sequence for a job that waits; None if the store has no room for it.
    pub(super) fn swap_out(
        &self,
        engine: &Engine,
        sequence: SequenceId,
        salt: u64,
    ) -> Result<Option<Snapshot>, RuntimeError> {
        let bytes = engine.snapshot_bytes(engine.len(sequence)?);
        if self.swapped.bytes() + bytes > self.options.swap_bytes {
            return Ok(None);
        }
        copy(engine, sequence, self.cache.as_ref().map(|cache| (cache, salt))).map(Some)
    }

    /// Takes the snapshots that became due with the last step, for the cache and for requests that keep their state.
    pub(super) fn take_snapshots(&mut self, engine: &Engine) -> Result<(), RuntimeError> {
        let Batch { cache, running, .. } = self;
        for running in running.iter_mut().filter(|running| running.share > 0) {
            while let Some(at) = running.borders.pop_if(|at| *at <= running.fed) {
                if let Some(cache) = cache.as_mut().filter(|_| at == running.fed) {
                    keep(engine, running.sequence, (cache, running.job.cache_salt))?;
                }
            }
            if matches!(running.job.kept, Kept::Wanted) && running.fed + 1 == running.job.n_prompt {
                running.job.kept = Kept::Taken(copy(
                    engine,
                    running.sequence,
                    cache.as_ref().map(|cache| (cache, running.job.cache_salt)),
                )?);
            }
        }
        Ok(())
    }

    /// Removes jobs that have ended, with their sequences. The states of answers go into the cache.
    pub(super) fn leave(&mut self, engine: &mut Engine) -> Result<(), RuntimeError> {
        while let Some(index) = self.running.iter().position(|running| running.ended) {
            let ended = self.running.remove(index);
            if let Some(cache) = &mut self.cache
                && self.options.cache_answers
                && ended.answered
                && ended.fed > ended.job.n_prompt
                && engine.snapshot_bytes(ended.fed as u64) <= cache.budget_bytes()
            {
                keep(engine, ended.sequence, (cache, ended.job.cache_salt))?;
            }
            engine.remove_sequence(ended.sequence)?;
            self.retire(ended.job);
        }
        Ok(())
    }
}

/// Puts a snapshot of a sequence into the cache, unless it has one.
fn keep(engine: &Engine, sequence: SequenceId, (cache, salt): (&mut PrefixCache, u64)) -> Result<(), RuntimeError> {
    let tokens = engine.tokens(sequence)?;
    if cache.peek(salt, tokens).is_none_or(|known| known.tokens().len() < tokens.len()) {
        let snapshot = copy(engine, sequence, Some((cache, salt)))?;
        cache.insert_of(salt, snapshot);
    }
    Ok(())
}

/// A snapshot of a sequence that shares what it can with a cached one.
fn copy(engine: &Engine, sequence: SequenceId, cache: Option<(&PrefixCache, u64)>) -> Result<Snapshot, RuntimeError> {
    let tokens = engine.tokens(sequence)?;
    match cache.and_then(|(cache, salt)| cache.peek(salt, tokens)) {
        Some(known) if known.tokens().len() == tokens.len() => Ok(known.clone()),
        Some(known) => engine.snapshot_after(sequence, known),
        None => engine.snapshot(sequence),
    }
}
