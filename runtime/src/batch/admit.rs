//! Waiting jobs join: from their own state, from the longest cached prefix, from a sibling, or from nothing.

use std::time::Instant;

use super::Batch;
use super::job::{Job, Kept, Running};
use crate::sequence::prefix::{LEAST_GAIN, n_common};
use crate::{Engine, RuntimeError, Sampler};

impl Batch {
    /// Step 1: join. A job that finds no room holds up those behind it, once they overtook it
    /// [`skip_ahead`](super::BatchOptions::skip_ahead) times.
    pub(super) fn join(&mut self, engine: &mut Engine, now: Instant) -> Result<(), RuntimeError> {
        let mut index = 0;
        while index < self.waiting.len() {
            if self.is_held(engine, index) {
                index += 1;
            } else if self.has_room(engine, &self.waiting[index], 0) || self.make_room(engine, index)? {
                self.waiting.range_mut(..index).for_each(|passed| passed.passed += 1);
                if let Some(job) = self.waiting.remove(index) {
                    self.begin(engine, job, now)?;
                }
            } else if self.waiting[index].passed >= self.options.skip_ahead || engine.free().0 == 0 {
                break;
            } else {
                index += 1;
            }
        }
        Ok(())
    }

    /// True if a job can join. Its first `shared` tokens are those of a sequence that it forks. If others run, that takes room
    /// for one more token each, to avoid immediate preemption.
    fn has_room(&self, engine: &Engine, job: &Job, shared: usize) -> bool {
        let (slots, pages) = engine.free();
        slots > 0 && self.wanted(job, shared, |_| true) <= pages
    }

    /// Number of pages that a job and the running jobs which `stay` need.
    fn wanted(&self, job: &Job, shared: usize, stay: impl Fn(&Running) -> bool) -> u64 {
        let staying = || self.running.iter().filter(|running| stay(running));
        let one = usize::from(staying().next().is_some());
        let limits = &self.limits;
        let owed = |running: &Running| limits.pages(running.job.tokens.len() + one) - limits.pages(running.fed);
        let copied = u64::from(shared > 0); // the last page, before one of the two writes it
        let own = limits.pages(job.tokens.len() + one) - limits.pages(shared) + copied;
        own + staying().map(owed).sum::<u64>()
    }

    /// Preempts running jobs of lower priority, the lowest and last first, until a waiting job has room. Returns false,
    /// mostly without preempting any, if that is not enough.
    fn make_room(&mut self, engine: &mut Engine, index: usize) -> Result<bool, RuntimeError> {
        let priority = self.waiting[index].priority;
        let lower = |running: &Running| running.job.priority > priority;
        let (slots, pages) = engine.free();
        let victims = || self.running.iter().filter(|running| lower(running));
        let returned: u64 = victims().map(|running| self.limits.pages(running.fed)).sum();
        let wanted = self.wanted(&self.waiting[index], 0, |running| !lower(running));
        if victims().next().is_none() || slots + victims().count() as u64 == 0 || wanted > pages + returned {
            return Ok(false);
        }
        while let Some(last) = self.last_in_rank().filter(|&last| lower(&self.running[last])) {
            self.preempt(engine, last)?; // enters the queue behind `index`
            if self.has_room(engine, &self.waiting[index], 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// True if a running job reads a prefix of a waiting job's prompt that no snapshot covers yet: the waiting job then starts
    /// from the snapshot that the running one takes there.
    fn is_held(&mut self, engine: &Engine, index: usize) -> bool {
        let Batch { cache: Some(cache), running, waiting, .. } = self else { return false };
        let job = &mut waiting[index];
        if job.state.is_some() || job.tokens.len() > job.n_prompt || job.prompt_logprobs.is_some() {
            return false;
        }
        let (head, known) = (&job.tokens[..job.n_prompt - 1], &mut job.common);
        let (salt, priority) = (job.cache_salt, job.priority);
        let given = job.given.as_ref().map_or(0, |given| given.tokens().len());
        known.forget(|key| running.iter().all(|other| other.job.key() != key));
        let mut reads = |other: &Running| {
            let common = known.with(other.job.key(), || n_common(head, other.job.head()));
            let may_share = other.job.cache_salt == salt && other.job.priority <= priority;
            (may_share && common > other.fed).then_some(common)
        };
        let reader = running.iter_mut().filter_map(|other| Some((reads(other)?, other))).max_by_key(|found| found.0);
        let Some((common, reader)) = reader else { return false };
        let cached = known.cached(cache.version(), || cache.peek(salt, head).map_or(0, |found| found.tokens().len()));
        if common < cached.max(given) + LEAST_GAIN || engine.snapshot_bytes(common as u64) > cache.budget_bytes() {
            return false;
        }
        let place = reader.borders.partition_point(|&at| at > common);
        if reader.borders.get(place) != Some(&common) {
            reader.borders.insert(place, common);
        }
        true
    }

    /// Gives a job a sequence.
    fn begin(&mut self, engine: &mut Engine, mut job: Job, now: Instant) -> Result<(), RuntimeError> {
        let own = job.state.take();
        let is_first = job.times.joined.is_none();
        // What may come from a snapshot: not the last token, nor one whose row of logits is still to be reported.
        let known = job.prompt_logprobs.map_or(job.tokens.len(), |_| job.reported.max(1)) - 1;
        let state = match &own {
            Some(own) => {
                self.swapped.remove(own);
                Some(own.clone())
            }
            None => {
                let given = job.given.as_ref().filter(|given| given.tokens().len() <= known);
                let cached =
                    self.cache.as_mut().and_then(|cache| cache.longest_of(job.cache_salt, &job.tokens[..known]));
                // Of two that are equally long, the cached one shares its memory with others.
                given.cloned().into_iter().chain(cached).max_by_key(|state| state.tokens().len())
            }
        };
        let fed = state.as_ref().map_or(0, |state| state.tokens().len());
        if is_first {
            (job.times.joined, job.cached) = (Some(now), fed);
        }
        let sequence = match &state {
            Some(state) => engine.restore(state)?,
            None => engine.add_sequence()?,
        };
        if matches!(job.kept, Kept::Wanted) && fed + 1 == job.n_prompt {
            job.kept = Kept::Taken(match state {
                Some(state) => state.with_next(&[]).with_note(""),
                None => engine.snapshot(sequence)?,
            });
        }
        self.prepare_sampler(&mut job)?;
        let borders = self.borders(engine, &job, fed);
        if let Some(cache) = self.cache.as_mut().filter(|_| is_first && own.is_none()) {
            cache.count(job.cache_salt, fed, &job.tokens[..job.n_prompt]);
        }
        self.running.push(Running { borders, ..Running::new(job, sequence, fed) });
        Ok(())
    }

    /// Creates the sampler of a job that joins for the first time.
    fn prepare_sampler(&mut self, job: &mut Job) -> Result<(), RuntimeError> {
        if job.sampler.is_none() {
            let options = std::mem::take(&mut job.options);
            let mut sampler = match self.samplers.pop() {
                Some(sampler) => sampler.with_options(options, self.limits.vocab)?,
                None => Sampler::new(options, self.limits.vocab)?,
            };
            sampler.observe(&job.tokens);
            job.sampler = Some(sampler);
        }
        Ok(())
    }

    /// Lengths at which to take snapshots of a job's prompt after its first `fed` tokens, the next one at the end.
    fn borders(&self, engine: &Engine, job: &Job, fed: usize) -> Vec<usize> {
        let Some(cache) = self.cache.as_ref().filter(|_| fed < job.n_prompt) else { return Vec::new() };
        let head = job.head();
        let others = self.running.iter().map(|running| &running.job).chain(&self.waiting);
        let others = others.filter(|other| other.cache_salt == job.cache_salt);
        let common = others.map(|other| n_common(head, &other.tokens[..other.n_prompt])).filter(|&n| n < head.len());
        let common = common.max().unwrap_or(0).max(cache.common(job.cache_salt, head));
        let mut borders = cache.borders(fed, job.n_prompt, common);
        borders.extend(job.snapshot_at.iter().filter(|&&at| at > fed));
        borders.retain(|&at| engine.snapshot_bytes(at as u64) <= cache.budget_bytes());
        borders.sort_unstable_by(|a, b| b.cmp(a));
        borders.dedup();
        borders
    }

    /// Forks the sequences of jobs that have read all but the last token of their prompt, one for each sibling. Siblings that
    /// find no room wait with a snapshot.
    pub(super) fn branch(&mut self, engine: &mut Engine, now: Instant) -> Result<(), RuntimeError> {
        for index in 0..self.running.len() {
            let (fed, sequence) = (self.running[index].fed, self.running[index].sequence);
            let is_due = fed + 1 == self.running[index].job.n_prompt;
            let mut siblings = match is_due {
                true => std::mem::take(&mut self.running[index].job.siblings).into_iter(),
                false => continue,
            };
            while let Some(sibling) = siblings.as_slice().first()
                && self.has_room(engine, sibling, fed)
                && let Some(mut sibling) = siblings.next()
            {
                (sibling.times.joined, sibling.cached) = (Some(now), fed);
                self.prepare_sampler(&mut sibling)?;
                let fork = engine.fork(sequence)?;
                self.running.push(Running::new(sibling, fork, fed));
            }
            if siblings.as_slice().is_empty() {
                continue;
            }
            let state = self.swap_out(engine, sequence, self.running[index].job.cache_salt)?;
            for mut sibling in siblings {
                state.iter().for_each(|state| self.swapped.add(state));
                sibling.state.clone_from(&state);
                self.enqueue(sibling);
            }
        }
        Ok(())
    }
}
