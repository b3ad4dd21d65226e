//! A prefix cache: a new sequence starts from the longest cached prefix of its prompt.
//!
//! Conv and SSM state are only available where they were saved. The cache saves a snapshot
//!
//! - at every multiple of [`PrefixCache::interval`] tokens,
//! - at a junction: where a prompt parts from an earlier one, so that the third prompt with a shared beginning reads none of
//!   it, wherever it ends,
//! - before the last token, for the same prompt again (its last token must run to produce logits) and for its continuations.
//!
//! Snapshots of one prompt share KV pages; each page counts once. When the budget is exceeded, the least recently used
//! snapshot is evicted. The tokens of recent prompts are kept after that, for junctions.
//!
//! Prompts with a *salt* find the snapshots with the same salt only: clients that must not learn from the time of an answer whether
//! another one has sent the same beginning.
//!
//! Logits are bit-identical to those of a prefill of the whole prompt.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::held::Held;
use super::session::Admitted;
use crate::{Cancel, Engine, Feed, Logits, Outputs, RuntimeError, SequenceId, Snapshot};

/// A junction must lie this many tokens behind the snapshot that a prompt starts from to be worth one, unless that snapshot
/// is at a multiple of the interval, an arbitrary place. Chat templates begin all prompts with a few same tokens.
pub(crate) const LEAST_GAIN: usize = 16;

/// Most recent prompts whose tokens are kept, and most tokens of them (4 MiB).
const RECENT: (usize, usize) = (64, 1 << 20);

/// Statistics of a [`PrefixCache`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCounters {
    /// Number of prompts.
    pub prompts: u64,
    /// Number of prompts with a cached prefix.
    pub hits: u64,
    /// Number of prompt tokens taken from the cache.
    pub tokens_saved: u64,
    /// Number of prompt tokens that ran through the model.
    pub tokens_read: u64,
    /// Number of evicted snapshots.
    pub evictions: u64,
    /// Number of snapshots in the cache.
    pub snapshots: u64,
    /// Host memory of the snapshots in the cache, in bytes.
    pub bytes: u64,
}

/// Snapshots of prompt prefixes within a budget of host memory.
///
/// ```
/// # #[path = "../../tests/fixture/mod.rs"] mod fixture;
/// # use jamba_runtime::{Engine, OpenOptions, PrefixCache};
/// # let folder = tempfile::tempdir()?;
/// # let plan = fixture::Toy::new().write(folder.path(), "jamba.plan");
/// let mut engine = Engine::open(&plan, OpenOptions::default())?;
/// let mut cache = PrefixCache::new(1 << 20);
/// let (first, _) = engine.prefill_cached(&mut cache, &[1, 20, 30, 40], None, None)?;
/// let (second, logits) = engine.prefill_cached(&mut cache, &[1, 20, 30, 50, 60], None, None)?;
/// assert_eq!((logits.len(), cache.counters().hits, cache.counters().tokens_saved), (1, 1, 3));
/// # let _ = (first, second);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PrefixCache {
    budget_bytes: u64,
    interval: usize,
    /// Plan digest and target of the snapshots.
    origin: Option<(blake3::Hash, Arc<str>)>,
    /// Sorted by salted tokens.
    entries: BTreeMap<Arc<[u32]>, Entry>,
    /// Keys of `entries` by last use.
    by_use: BTreeMap<u64, Arc<[u32]>>,
    n_uses: u64,
    held: Held,
    /// Recent prompts, salted, the last one at the end.
    recent: VecDeque<Box<[u32]>>,
    n_recent_tokens: usize,
    counters: PrefixCounters,
    /// None if nobody follows the cache.
    journal: Option<Vec<PrefixChange>>,
}

#[derive(Debug)]
struct Entry {
    snapshot: Snapshot,
    used: u64,
}

/// Most changes that a cache keeps until they are taken.
const MOST_CHANGES: usize = 1 << 16;

/// What happened to a prefix in a [`PrefixCache`], for routers that send a request where its beginning is cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixChange {
    /// The prefix of these tokens is cached from now on.
    Stored(Arc<[u32]>),
    /// It is cached no more.
    Removed(Arc<[u32]>),
    /// Changes were dropped, since nobody took them: whoever follows them begins with an empty cache.
    Lost,
}

impl PrefixCache {
    /// Default of [`PrefixCache::interval`], in tokens.
    pub const INTERVAL: usize = 512;

    /// A cache of at most `budget_bytes` bytes of host memory.
    pub fn new(budget_bytes: u64) -> PrefixCache {
        PrefixCache {
            budget_bytes,
            interval: PrefixCache::INTERVAL,
            origin: None,
            entries: BTreeMap::new(),
            by_use: BTreeMap::new(),
            n_uses: 0,
            held: Held::default(),
            recent: VecDeque::new(),
            n_recent_tokens: 0,
            counters: PrefixCounters::default(),
            journal: None,
        }
    }

    /// Keeps changes for [`PrefixCache::take_changes`].
    pub fn with_journal(self) -> PrefixCache {
        PrefixCache { journal: Some(Vec::new()), ..self }
    }

    /// The changes since the last call, in order; none without [`PrefixCache::with_journal`]. Prefixes of requests with a
    /// [`cache_salt`](crate::Request::cache_salt) are not told.
    pub fn take_changes(&mut self) -> Vec<PrefixChange> {
        self.journal.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Keeps a change of an entry without a salt.
    fn tell(&mut self, key: &Arc<[u32]>, change: fn(Arc<[u32]>) -> PrefixChange) {
        let Some(journal) = self.journal.as_mut().filter(|_| key.first().is_none_or(|word| word >> 31 == 0)) else {
            return;
        };
        if journal.len() >= MOST_CHANGES {
            journal.clear();
            journal.push(PrefixChange::Lost);
        }
        journal.push(change(Arc::clone(key)));
    }

    /// Sets the interval between snapshots of one prompt, in tokens. With 0, only the ends of prompts are cached.
    pub fn with_interval(self, tokens: usize) -> PrefixCache {
        PrefixCache { interval: tokens, ..self }
    }

    /// Interval between snapshots of one prompt, in tokens; [`PrefixCache::INTERVAL`] by default.
    pub fn interval(&self) -> usize {
        self.interval
    }

    /// Statistics since the cache was created.
    pub fn counters(&self) -> PrefixCounters {
        PrefixCounters { bytes: self.held.bytes(), ..self.counters }
    }

    /// The most host memory of the snapshots, in bytes.
    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// The snapshot with the longest prefix of `tokens`; marks it as used.
    pub fn longest(&mut self, tokens: &[u32]) -> Option<Snapshot> {
        self.longest_of(0, tokens)
    }

    /// Like [`PrefixCache::longest`], among the snapshots with this salt; 0 is none.
    pub(crate) fn longest_of(&mut self, salt: u64, tokens: &[u32]) -> Option<Snapshot> {
        let found = self.find(&salted(salt, tokens))?;
        self.n_uses += 1;
        let entry = self.entries.get_mut(&found)?;
        self.by_use.remove(&entry.used);
        entry.used = self.n_uses;
        let snapshot = entry.snapshot.clone();
        self.by_use.insert(self.n_uses, found);
        Some(snapshot)
    }

    /// The longest key that is a prefix of `tokens`. All keys between it and `tokens` start with it, so the last key that is
    /// not greater than `tokens` bounds the length of the common prefix.
    fn find(&self, tokens: &[u32]) -> Option<Arc<[u32]>> {
        let mut tokens = tokens;
        loop {
            let up_to = (Bound::Unbounded, Bound::Included(tokens));
            let (key, _) = self.entries.range::<[u32], _>(up_to).next_back()?;
            let common = n_common(key, tokens);
            if common == key.len() {
                return Some(Arc::clone(key));
            }
            tokens = &tokens[..common];
        }
    }

    /// Another number after every insertion: as long as it is the same, [`PrefixCache::peek`] finds the same.
    pub(crate) fn version(&self) -> u64 {
        self.n_uses
    }

    /// Like [`PrefixCache::longest_of`], without marking it as used.
    pub(crate) fn peek(&self, salt: u64, tokens: &[u32]) -> Option<&Snapshot> {
        self.entries.get(&self.find(&salted(salt, tokens))?).map(|entry| &entry.snapshot)
    }

    /// Length of the longest common prefix of `tokens` with a key or a recent prompt, with the same salt.
    pub(crate) fn common(&self, salt: u64, tokens: &[u32]) -> usize {
        let key = salted(salt, tokens);
        self.common_with(&key).saturating_sub(key.len() - tokens.len())
    }

    fn common_with(&self, tokens: &[u32]) -> usize {
        let before = self.entries.range::<[u32], _>((Bound::Unbounded, Bound::Included(tokens))).next_back();
        let after = self.entries.range::<[u32], _>((Bound::Excluded(tokens), Bound::Unbounded)).next();
        let keys = before.into_iter().chain(after).map(|(key, _)| &**key);
        keys.chain(self.recent.iter().map(|prompt| &**prompt)).map(|other| n_common(other, tokens)).max().unwrap_or(0)
    }

    /// Inserts a snapshot, replacing one with the same tokens, and evicts least recently used snapshots until the budget is
    /// met. Ignores a snapshot that exceeds the budget, or whose plan or target differs from the first one's.
    pub fn insert(&mut self, snapshot: Snapshot) {
        self.insert_of(0, snapshot);
    }

    /// Like [`PrefixCache::insert`], for prompts with this salt.
    pub(crate) fn insert_of(&mut self, salt: u64, snapshot: Snapshot) {
        let origin = self.origin.get_or_insert_with(|| (snapshot.plan, Arc::clone(&snapshot.target)));
        if snapshot.bytes() > self.budget_bytes || *origin != (snapshot.plan, Arc::clone(&snapshot.target)) {
            return;
        }
        let key = match salted(salt, &snapshot.tokens) {
            Cow::Borrowed(_) => Arc::clone(&snapshot.tokens),
            Cow::Owned(key) => key.into(),
        };
        let is_new = !self.entries.contains_key(&key);
        self.remove(&key);
        if is_new {
            self.tell(&key, PrefixChange::Stored);
        }
        self.n_uses += 1;
        self.counters.snapshots += 1;
        self.held.add(&snapshot);
        self.by_use.insert(self.n_uses, Arc::clone(&key));
        self.entries.insert(key, Entry { snapshot, used: self.n_uses });
        while self.held.bytes() > self.budget_bytes
            && let Some((_, oldest)) = self.by_use.first_key_value()
        {
            let oldest = Arc::clone(oldest);
            self.remove(&oldest);
            self.tell(&oldest, PrefixChange::Removed);
            self.counters.evictions += 1;
        }
    }

    /// Removes the snapshot of a key.
    fn remove(&mut self, key: &[u32]) {
        let Some(Entry { snapshot, used }) = self.entries.remove(key) else { return };
        self.by_use.remove(&used);
        self.counters.snapshots -= 1;
        self.held.remove(&snapshot);
    }

    /// Counts a prompt of which the first `saved` tokens came from the cache, and keeps its tokens for junctions.
    pub(crate) fn count(&mut self, salt: u64, saved: usize, tokens: &[u32]) {
        self.counters.prompts += 1;
        self.counters.hits += u64::from(saved > 0);
        self.counters.tokens_saved += saved as u64;
        self.counters.tokens_read += (tokens.len() - saved) as u64;
        let (most_prompts, most_tokens) = RECENT;
        let prompt = salted(salt, tokens);
        self.n_recent_tokens += prompt.len();
        self.recent.push_back(prompt.into_owned().into());
        while self.recent.len() > most_prompts || self.n_recent_tokens > most_tokens {
            self.n_recent_tokens -= self.recent.pop_front().map_or(0, |oldest| oldest.len());
        }
    }

    /// Lengths at which to take snapshots of a prompt of `n_tokens` tokens, after the first `done` and in ascending order.
    /// `common` is the length of its longest common prefix with another prompt.
    pub(crate) fn borders(&self, done: usize, n_tokens: usize, common: usize) -> Vec<usize> {
        let (interval, end) = (self.interval, n_tokens - 1);
        let next = done.checked_div(interval).map_or(end, |n| (n + 1).saturating_mul(interval));
        let mut borders: Vec<usize> = (next..end).step_by(interval.max(1)).collect();
        borders.extend((done < end).then_some(end));
        let is_arbitrary = done > 0 && interval > 0 && done.is_multiple_of(interval);
        let gain = if is_arbitrary { 1 } else { LEAST_GAIN };
        borders.extend((common >= done + gain && common < end).then_some(common));
        borders.sort_unstable();
        borders.dedup();
        borders
    }

    /// Fails if the snapshots belong to another plan or target than the engine's.
    pub(crate) fn check_origin(&self, engine: &Engine) -> Result<(), RuntimeError> {
        let Some((plan, target)) = &self.origin else { return Ok(()) };
        engine.check_plan("prefix cache", *plan)?;
        if **target != *engine.target() {
            let (found, expected) = (target.to_string(), engine.target().to_owned());
            return Err(RuntimeError::OtherTarget { what: "prefix cache", found, expected });
        }
        Ok(())
    }
}

/// The key of tokens with a salt: words that are no tokens, which have fewer than 32 bits, before them. Without a salt, the tokens.
fn salted(salt: u64, tokens: &[u32]) -> Cow<'_, [u32]> {
    if salt == 0 {
        return Cow::Borrowed(tokens);
    }
    let words = [0, 31, 62].map(|shift| (salt >> shift) as u32 | 1 << 31);
    Cow::Owned([&words, tokens].concat())
}

/// Length of the longest common prefix.
pub(crate) fn n_common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Engine {
    /// Adds a sequence with a prompt, starting from the longest prefix in the cache, and inserts new prefixes into it. Returns
    /// the sequence and the logits of the last token, one row. `chunk` and `cancel` are those of [`Engine::prefill`].
    ///
    /// # Errors
    /// Fails, without adding a sequence, if the prompt does not fit, if the cache belongs to another plan or target, or if
    /// `cancel` was set.
    pub fn prefill_cached(
        &mut self,
        cache: &mut PrefixCache,
        tokens: &[u32],
        chunk: Option<usize>,
        cancel: Option<&Cancel>,
    ) -> Result<(SequenceId, Logits<'_>), RuntimeError> {
        cache.check_origin(self)?;
        self.sequences.check_new(tokens)?;
        let known = cache.longest(&tokens[..tokens.len() - 1]);
        let saved = known.as_ref().map_or(0, |snapshot| snapshot.tokens.len());
        let sequence = match &known {
            Some(snapshot) => self.restore(snapshot)?,
            None => self.add_sequence()?,
        };
        match self.read_on(cache, (sequence, known), tokens, chunk, cancel) {
            Ok(admitted) => {
                cache.count(0, saved, tokens);
                Ok((sequence, self.logits(admitted)))
            }
            Err(error) => {
                self.remove_sequence(sequence)?;
                Err(error)
            }
        }
    }

    /// Runs the part of a prompt after the `known` prefix and inserts snapshots of it into the cache.
    fn read_on(
        &mut self,
        cache: &mut PrefixCache,
        (sequence, mut known): (SequenceId, Option<Snapshot>),
        tokens: &[u32],
        chunk: Option<usize>,
        cancel: Option<&Cancel>,
    ) -> Result<Admitted, RuntimeError> {
        let mut done = known.as_ref().map_or(0, |snapshot| snapshot.tokens.len());
        for border in cache.borders(done, tokens.len(), cache.common(0, &tokens[..tokens.len() - 1])) {
            if self.snapshot_bytes(border as u64) > cache.budget_bytes {
                break;
            }
            let feed = Feed { sequence, tokens: &tokens[done..border], outputs: Outputs::None };
            self.run_chunks(feed, chunk, cancel, &[])?;
            let snapshot = match &known {
                Some(known) => self.snapshot_after(sequence, known),
                None => self.snapshot(sequence),
            };
            cache.insert(known.insert(snapshot?).clone());
            done = border;
        }
        let feed = Feed { sequence, tokens: &tokens[done..], outputs: Outputs::Last };
        self.run_chunks(feed, chunk, cancel, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(tokens: &[u32]) -> Snapshot {
        Snapshot {
            plan: blake3::hash(b"plan"),
            target: "x86-64".into(),
            max_context: 100,
            vocab: 100,
            model: "".into(),
            tokens: tokens.into(),
            next: [].into(),
            state: [0; 100].into(),
            page_bytes: 0,
            pages: [].into(),
            points: [].into(),
            note: "".into(),
        }
    }

    fn tokens(snapshot: Option<Snapshot>) -> Option<Vec<u32>> {
        snapshot.map(|snapshot| snapshot.tokens().to_vec())
    }

    #[test]
    fn the_longest_beginning_is_found() {
        let mut cache = PrefixCache::new(1 << 20);
        let keys: [&[u32]; 6] = [&[1], &[1, 2, 3], &[1, 2, 3, 4, 5], &[1, 2, 4], &[1, 3], &[2, 9]];
        keys.iter().for_each(|key| cache.insert(snapshot(key)));
        // Every query over a small alphabet against the definition.
        for n in 0..6u32 {
            for code in 0..5u32.pow(n) {
                let query: Vec<u32> = (0..n).map(|i| code / 5u32.pow(i) % 5 + 1).collect();
                let expected = keys.iter().filter(|key| query.starts_with(key)).max_by_key(|key| key.len());
                assert_eq!(tokens(cache.longest(&query)), expected.map(|key| key.to_vec()), "{query:?}");
            }
        }
    }

    #[test]
    fn the_least_recently_used_leaves() {
        let mut cache = PrefixCache::new(350); // three of 104 or 108 bytes
        for key in [[1], [2], [3]] {
            cache.insert(snapshot(&key));
        }
        assert!(cache.longest(&[1, 9]).is_some());
        cache.insert(snapshot(&[4, 4]));
        assert_eq!([1, 2, 3].map(|key| cache.longest(&[key]).is_some()), [true, false, true]);
        let PrefixCounters { snapshots, bytes, evictions, .. } = cache.counters();
        assert_eq!((snapshots, bytes, evictions), (3, 104 + 104 + 108, 1));
        cache.insert(snapshot(&[0; 63])); // 352 bytes: more than the budget
        cache.insert(snapshot(&[4, 4]));
        assert_eq!(cache.counters().snapshots, 3);
        cache.insert(Snapshot { plan: blake3::hash(b"another"), ..snapshot(&[5]) });
        assert_eq!(tokens(cache.longest(&[5])), None);
    }

    #[test]
    fn borders_are_multiples_the_junction_and_the_last_token_but_one() {
        let borders = |interval, done, n, common| PrefixCache::new(0).with_interval(interval).borders(done, n, common);
        assert_eq!(borders(8, 0, 25, 0), [8, 16, 24]);
        assert_eq!(borders(8, 0, 24, 0), [8, 16, 23]);
        assert_eq!(borders(8, 11, 24, 0), [16, 23]);
        assert_eq!(borders(8, 16, 17, 0), [0; 0]);
        assert_eq!(borders(8, 0, 1, 0), [0; 0]);
        assert_eq!(borders(0, 3, 24, 0), [23]);
        assert_eq!(borders(0, 3, 24, 18), [23], "15 tokens are not worth a snapshot");
        assert_eq!(borders(0, 3, 24, 19), [19, 23]);
        assert_eq!(borders(8, 0, 25, 16), [8, 16, 24]);
        assert_eq!(borders(8, 8, 25, 9), [9, 16, 24], "the snapshot at 8 is at an arbitrary place");
        assert_eq!(borders(0, 0, 25, 24), [24]);
    }

    #[test]
    fn the_longest_common_prefix_is_found() {
        let mut cache = PrefixCache::new(1 << 20);
        let keys: [&[u32]; 5] = [&[1, 2, 3], &[1, 2, 4, 4], &[1, 3], &[2, 9], &[3, 3, 3, 3]];
        keys[..3].iter().for_each(|key| cache.insert(snapshot(key)));
        keys[3..].iter().for_each(|key| cache.count(0, 0, key));
        for code in 0..5u32.pow(4) {
            let query: Vec<u32> = (0..4).map(|i| code / 5u32.pow(i) % 5 + 1).collect();
            let expected = keys.iter().map(|key| n_common(key, &query)).max().unwrap();
            assert_eq!(cache.common(0, &query), expected, "{query:?}");
        }
    }

    #[test]
    fn salts_part_what_is_known() {
        let mut cache = PrefixCache::new(1 << 20);
        let salts = [0, 1, 1 << 40, u64::MAX];
        for (salt, last) in salts.into_iter().zip(10..) {
            cache.insert_of(salt, snapshot(&[1, 2]));
            cache.insert_of(salt, snapshot(&[1, 2, last]));
            cache.count(salt, 0, &[7, 8, last, 9]);
        }
        for (salt, last) in salts.into_iter().zip(10..) {
            assert_eq!(tokens(cache.longest_of(salt, &[1, 2, last, 4])), Some(vec![1, 2, last]));
            assert_eq!(tokens(cache.longest_of(salt, &[1, 2, last ^ 1, 4])), Some(vec![1, 2]));
            assert_eq!((cache.common(salt, &[7, 8, last, 3]), cache.common(salt, &[7, 8, last ^ 1])), (3, 2));
        }
        assert_eq!(tokens(cache.longest_of(2, &[1, 2, 10])), None);
        assert_eq!((cache.common(2, &[1, 2, 10]), cache.common(2, &[7, 8])), (0, 0));
        assert_eq!(cache.counters().snapshots, 8);
    }

    #[test]
    fn recent_prompts_are_bounded() {
        let mut cache = PrefixCache::new(0);
        (0..100).for_each(|first| cache.count(0, 0, &[first, 7]));
        assert_eq!((cache.recent.len(), cache.common(0, &[35, 7]), cache.common(0, &[36, 7])), (64, 0, 2));
        cache.count(0, 0, &vec![9; (1 << 20) - 4]);
        assert_eq!((cache.recent.len(), cache.common(0, &[98, 7]), cache.common(0, &[97, 7])), (3, 2, 0));
    }

    #[test]
    fn a_journal_tells_what_enters_and_leaves() {
        let bytes = snapshot(&[1]).bytes();
        let mut cache = PrefixCache::new(2 * bytes + bytes / 2).with_journal();
        let keys: [&[u32]; 3] = [&[1], &[2], &[3]];
        keys.iter().for_each(|key| cache.insert(snapshot(key)));
        cache.insert(snapshot(&[3])); // it is there already
        cache.insert_of(7, snapshot(&[4])); // nobody else finds it
        let stored = |key: &[u32]| PrefixChange::Stored(key.into());
        let removed = |key: &[u32]| PrefixChange::Removed(key.into());
        let expected = [stored(&[1]), stored(&[2]), stored(&[3]), removed(&[1]), removed(&[2])];
        assert_eq!(cache.take_changes(), expected);
        assert_eq!(cache.take_changes(), []);
        let mut silent = PrefixCache::new(1 << 20);
        silent.insert(snapshot(&[1]));
        assert_eq!(silent.take_changes(), []);
    }

    #[test]
    fn a_journal_that_nobody_takes_is_dropped() {
        let mut cache = PrefixCache::new(snapshot(&[1]).bytes()).with_journal();
        (0..MOST_CHANGES as u32).for_each(|token| cache.insert(snapshot(&[token])));
        let changes = cache.take_changes();
        assert!(changes.len() <= MOST_CHANGES);
        assert_eq!(changes[0], PrefixChange::Lost);
    }
}
