//! A cache of prompts' beginnings: a new sequence starts from the longest one that was read before.
//!
//! Conv and SSM state exist only where they were kept, so the cache decides where that is: at every multiple of
//! [`PrefixCache::interval`] tokens of a prompt, for prompts that share a beginning, and at its last token but one, for the
//! same prompt again (whose last token must be read for its logits) and for those that go on from it. Snapshots of one
//! prompt share the pages of keys and values that they have in common; each is counted once. When the budget is full, the
//! one that was not used for longest leaves.
//!
//! The logits are those of reading the whole prompt afresh, bit by bit.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::session::Admitted;
use crate::{Engine, Feed, Logits, Outputs, RuntimeError, SequenceId, Snapshot};

/// Tokens between two snapshots of one prompt, unless [`PrefixCache::with_interval`] says otherwise.
const INTERVAL: usize = 512;

/// What a cache has done, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCounters {
    /// Prompts that were begun.
    pub prompts: u64,
    /// Those of which a beginning was found.
    pub hits: u64,
    /// Tokens that were not read again.
    pub tokens_saved: u64,
    /// Tokens that were read.
    pub tokens_read: u64,
    /// Snapshots that left to make room.
    pub evictions: u64,
    /// Snapshots that are held.
    pub snapshots: u64,
    /// Host memory that they hold, in bytes.
    pub bytes: u64,
}

/// Snapshots of prompts' beginnings within a budget of host memory.
///
/// ```
/// # #[path = "../tests/fixture/mod.rs"] mod fixture;
/// # use jamba_runtime::{Engine, OpenOptions, PrefixCache};
/// # let folder = tempfile::tempdir()?;
/// # let plan = fixture::Toy::new().write(folder.path(), "jamba.plan");
/// let mut engine = Engine::open(&plan, OpenOptions::default())?;
/// let mut cache = PrefixCache::new(1 << 20);
/// let (first, _) = engine.prefill_cached(&mut cache, &[1, 20, 30, 40], None)?;
/// let (second, logits) = engine.prefill_cached(&mut cache, &[1, 20, 30, 50, 60], None)?;
/// assert_eq!((logits.len(), cache.counters().hits, cache.counters().tokens_saved), (1, 1, 3));
/// # let _ = (first, second);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PrefixCache {
    budget_bytes: u64,
    interval: usize,
    /// The plan and the target that the snapshots belong to.
    origin: Option<(blake3::Hash, Arc<str>)>,
    /// In the order of their tokens.
    entries: BTreeMap<Arc<[u32]>, Entry>,
    /// Tokens of the entries, by when they were used last.
    by_use: BTreeMap<u64, Arc<[u32]>>,
    n_uses: u64,
    /// How many snapshots hold each page, by its address.
    pages: HashMap<usize, usize>,
    counters: PrefixCounters,
}

#[derive(Debug)]
struct Entry {
    snapshot: Snapshot,
    used: u64,
}

impl PrefixCache {
    /// A cache that holds at most so many bytes of snapshots.
    pub fn new(budget_bytes: u64) -> PrefixCache {
        PrefixCache {
            budget_bytes,
            interval: INTERVAL,
            origin: None,
            entries: BTreeMap::new(),
            by_use: BTreeMap::new(),
            n_uses: 0,
            pages: HashMap::new(),
            counters: PrefixCounters::default(),
        }
    }

    /// The same cache with a snapshot at every multiple of `tokens`; none but at the ends of prompts when that is 0.
    pub fn with_interval(self, tokens: usize) -> PrefixCache {
        PrefixCache { interval: tokens, ..self }
    }

    /// Tokens between two snapshots of one prompt.
    pub fn interval(&self) -> usize {
        self.interval
    }

    /// What the cache has done and what it holds.
    pub fn counters(&self) -> PrefixCounters {
        self.counters
    }

    /// The longest snapshot whose tokens `tokens` begin with; it was used just now.
    pub fn longest(&mut self, tokens: &[u32]) -> Option<Snapshot> {
        let found = self.find(tokens)?;
        self.n_uses += 1;
        let entry = self.entries.get_mut(&found)?;
        self.by_use.remove(&entry.used);
        entry.used = self.n_uses;
        let snapshot = entry.snapshot.clone();
        self.by_use.insert(self.n_uses, found);
        Some(snapshot)
    }

    /// The longest key that `tokens` begin with. Every key between it and `tokens` begins with it too, so that the last one
    /// up to `tokens` shows how many tokens at most are in common.
    fn find(&self, tokens: &[u32]) -> Option<Arc<[u32]>> {
        let mut tokens = tokens;
        loop {
            let up_to = (Bound::Unbounded, Bound::Included(tokens));
            let (key, _) = self.entries.range::<[u32], _>(up_to).next_back()?;
            let common = key.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            if common == key.len() {
                return Some(Arc::clone(key));
            }
            tokens = &tokens[..common];
        }
    }

    /// Puts a snapshot into the cache, in place of one of the same tokens; those that were not used for longest leave until
    /// the budget is kept. One that is larger than the budget is not taken, nor one of another plan or target than the first.
    pub fn insert(&mut self, snapshot: Snapshot) {
        let origin = self.origin.get_or_insert_with(|| (snapshot.plan, Arc::clone(&snapshot.target)));
        if snapshot.bytes() > self.budget_bytes || *origin != (snapshot.plan, Arc::clone(&snapshot.target)) {
            return;
        }
        self.remove(&Arc::clone(&snapshot.tokens));
        self.n_uses += 1;
        self.counters.snapshots += 1;
        self.counters.bytes += own_bytes(&snapshot);
        for page in &*snapshot.pages {
            let holders = self.pages.entry(address(page)).or_default();
            *holders += 1;
            self.counters.bytes += if *holders == 1 { page.len() as u64 } else { 0 };
        }
        let tokens = Arc::clone(&snapshot.tokens);
        self.by_use.insert(self.n_uses, Arc::clone(&tokens));
        self.entries.insert(tokens, Entry { snapshot, used: self.n_uses });
        while self.counters.bytes > self.budget_bytes
            && let Some((_, oldest)) = self.by_use.first_key_value()
        {
            self.remove(&Arc::clone(oldest));
            self.counters.evictions += 1;
        }
    }

    /// Lets a snapshot go.
    fn remove(&mut self, tokens: &[u32]) {
        let Some(Entry { snapshot, used }) = self.entries.remove(tokens) else { return };
        self.by_use.remove(&used);
        self.counters.snapshots -= 1;
        self.counters.bytes -= own_bytes(&snapshot);
        for page in &*snapshot.pages {
            let address = address(page);
            match self.pages.get_mut(&address) {
                Some(holders) if *holders > 1 => *holders -= 1,
                _ => {
                    self.pages.remove(&address);
                    self.counters.bytes -= page.len() as u64;
                }
            }
        }
    }

    /// Counts a prompt of `n_tokens` of which `saved` were known.
    fn count(&mut self, saved: usize, n_tokens: usize) {
        self.counters.prompts += 1;
        self.counters.hits += u64::from(saved > 0);
        self.counters.tokens_saved += saved as u64;
        self.counters.tokens_read += (n_tokens - saved) as u64;
    }

    /// Where to take snapshots of a prompt of which `done` tokens are read.
    fn borders(&self, done: usize, n_tokens: usize) -> impl Iterator<Item = usize> + use<> {
        let (interval, end) = (self.interval, n_tokens - 1);
        let next = done.checked_div(interval).map_or(end, |n| (n + 1).saturating_mul(interval));
        (next..end).step_by(interval.max(1)).chain((done < end).then_some(end))
    }
}

/// Bytes of a snapshot that no other one shares: all but its pages.
fn own_bytes(snapshot: &Snapshot) -> u64 {
    let pages: usize = snapshot.pages.iter().map(|page| page.len()).sum();
    snapshot.bytes() - pages as u64
}

/// What tells a page from every other one as long as it lives.
fn address(page: &Arc<[u8]>) -> usize {
    Arc::as_ptr(page).addr()
}

impl Engine {
    /// Begins a sequence with a prompt, from the longest beginning that the cache knows, and lets the cache keep what is
    /// new; returns the sequence and the logits of the prompt's last token. Refuses before anything changes, or not at all;
    /// refuses a cache that holds snapshots of another plan or target.
    pub fn prefill_cached(
        &mut self,
        cache: &mut PrefixCache,
        tokens: &[u32],
        chunk: Option<usize>,
    ) -> Result<(SequenceId, Logits<'_>), RuntimeError> {
        if let Some((plan, target)) = &cache.origin {
            self.check_plan("prefix cache", *plan)?;
            if **target != *self.target() {
                let (found, expected) = (target.to_string(), self.target().to_owned());
                return Err(RuntimeError::OtherTarget { what: "prefix cache", found, expected });
            }
        }
        self.sequences.check_new(tokens)?;
        let known = cache.longest(&tokens[..tokens.len() - 1]);
        let saved = known.as_ref().map_or(0, |snapshot| snapshot.tokens.len());
        let sequence = match &known {
            Some(snapshot) => self.restore(snapshot)?,
            None => self.add_sequence()?,
        };
        match self.read_on(cache, sequence, known, tokens, chunk) {
            Ok(admitted) => {
                cache.count(saved, tokens.len());
                Ok((sequence, self.logits(admitted)))
            }
            Err(error) => {
                self.remove_sequence(sequence)?;
                Err(error)
            }
        }
    }

    /// Reads what is not known of a prompt, and lets the cache keep it.
    fn read_on(
        &mut self,
        cache: &mut PrefixCache,
        sequence: SequenceId,
        mut known: Option<Snapshot>,
        tokens: &[u32],
        chunk: Option<usize>,
    ) -> Result<Admitted, RuntimeError> {
        let mut done = known.as_ref().map_or(0, |snapshot| snapshot.tokens.len());
        for border in cache.borders(done, tokens.len()) {
            if self.snapshot_bytes(border as u64) > cache.budget_bytes {
                break;
            }
            let feed = Feed { sequence, tokens: &tokens[done..border], outputs: Outputs::None };
            self.run_chunks(feed, chunk)?;
            let snapshot = match &known {
                Some(known) => self.snapshot_after(sequence, known),
                None => self.snapshot(sequence),
            };
            cache.insert(known.insert(snapshot?).clone());
            done = border;
        }
        self.run_chunks(Feed { sequence, tokens: &tokens[done..], outputs: Outputs::Last }, chunk)
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
            tokens: tokens.into(),
            state: [0; 100].into(),
            page_bytes: 0,
            pages: [].into(),
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
    fn borders_are_multiples_and_the_last_token_but_one() {
        let borders =
            |interval, done, n| PrefixCache::new(0).with_interval(interval).borders(done, n).collect::<Vec<_>>();
        assert_eq!(borders(8, 0, 25), [8, 16, 24]);
        assert_eq!(borders(8, 0, 24), [8, 16, 23]);
        assert_eq!(borders(8, 11, 24), [16, 23]);
        assert_eq!(borders(8, 16, 17), [0; 0]);
        assert_eq!(borders(8, 0, 1), [0; 0]);
        assert_eq!(borders(0, 3, 24), [23]);
    }
}
