//! Prefix caches: sequences that start from the longest known beginning of their prompt.

use std::sync::{Arc, Mutex};

use jamba_runtime::{PrefixCache, PrefixCounters, Snapshot};

use crate::arguments::{self, place, slice};
use crate::engine::{jamba_engine, jamba_sequence};
use crate::handles::{self, Object, invalid, lock};
use crate::snapshot::{self, jamba_snapshot};
use crate::status::{Failure, entry, jamba_status};
use crate::steps::{jamba_logits, kept};

/// Snapshots of prompts within a budget of host memory, of one plan. It may outlive its engines. A batch has a cache of its
/// own.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_cache {
    /// 0 means no cache.
    pub id: u64,
}

/// Statistics of a cache.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_cache_counters {
    /// Number of prompts.
    pub prompts: u64,
    /// Number of prompts with a cached beginning.
    pub hits: u64,
    /// Number of prompt tokens taken from the cache.
    pub tokens_saved: u64,
    /// Number of prompt tokens that were read.
    pub tokens_read: u64,
    /// Number of snapshots that left because the budget was exceeded.
    pub evictions: u64,
    /// Number of snapshots in the cache.
    pub snapshots: u64,
    /// Host memory of the snapshots in the cache, in bytes.
    pub bytes: u64,
}

impl From<PrefixCounters> for jamba_cache_counters {
    fn from(counters: PrefixCounters) -> Self {
        let PrefixCounters { prompts, hits, tokens_saved, tokens_read, evictions, snapshots, bytes } = counters;
        jamba_cache_counters { prompts, hits, tokens_saved, tokens_read, evictions, snapshots, bytes }
    }
}

fn find(id: u64) -> Result<Arc<Mutex<PrefixCache>>, Failure> {
    match handles::get(id) {
        Some(Object::Cache(cache)) => Ok(cache),
        _ => Err(invalid("cache")),
    }
}

/// Creates a cache of at most `budget` bytes of host memory. It takes a snapshot at every multiple of `interval` tokens,
/// besides those at the ends of prompts and where prompts part; an interval of 512 suits most, and 0 takes only those.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_cache_open(budget: u64, interval: usize, cache: *mut jamba_cache) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let out = unsafe { place("cache", cache) }?;
        let made = PrefixCache::new(budget).with_interval(interval);
        *out = jamba_cache { id: handles::insert(Object::Cache(Arc::new(Mutex::new(made)))) };
        Ok(())
    })
}

/// Adds a sequence with a prompt, starting from the longest beginning in the cache, and returns the logits of its last token.
/// Puts snapshots of the prompt into the cache.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_prefill_cached(
    engine: jamba_engine,
    cache: jamba_cache,
    tokens: *const u32,
    n_tokens: usize,
    sequence: *mut jamba_sequence,
    logits: *mut jamba_logits,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let (out, rows) = unsafe { (place("sequence", sequence)?, place("logits", logits)?) };
        *out = jamba_sequence { id: 0 };
        let (open, cache) = (handles::engine(engine.id)?, find(cache.id)?);
        let mut held = lock("engine", &open.inner)?;
        let inner = held.as_mut().ok_or_else(|| invalid("engine"))?;
        let mut cache = lock("cache", &cache)?;
        let manifest = inner.engine.manifest();
        let (n_outputs, max_context) = (manifest.model.n_outputs(), manifest.limits.max_context);
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let tokens = unsafe { arguments::tokens("tokens", tokens, n_tokens, max_context) }?;
        let (sequence, read) = inner.engine.prefill_cached(&mut cache, tokens, None, Some(&open.cancel))?;
        *rows = kept(&read, &mut inner.rows, n_outputs);
        out.id = inner.keep(sequence);
        Ok(())
    })
}

/// Puts a snapshot into a cache. A cache ignores one that exceeds its budget, or is of another plan than those in it.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_cache_insert(cache: jamba_cache, snapshot: jamba_snapshot) -> jamba_status {
    entry(|| {
        let (cache, snapshot) = (find(cache.id)?, snapshot::find(snapshot.id)?);
        lock("cache", &cache)?.insert(Snapshot::clone(&snapshot));
        Ok(())
    })
}

/// Makes a snapshot of the cached one whose tokens are the longest beginning of `tokens`; 0 if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_cache_longest(
    cache: jamba_cache,
    tokens: *const u32,
    n_tokens: usize,
    snapshot: *mut jamba_snapshot,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let (tokens, out) = unsafe { (slice("tokens", tokens, n_tokens)?, place("snapshot", snapshot)?) };
        *out = jamba_snapshot { id: 0 };
        let cache = find(cache.id)?;
        if let Some(found) = lock("cache", &cache)?.longest(tokens) {
            *out = snapshot::keep(found);
        }
        Ok(())
    })
}

/// Stores the statistics of a cache.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_cache_count(cache: jamba_cache, counters: *mut jamba_cache_counters) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let out = unsafe { place("counters", counters) }?;
        let cache = find(cache.id)?;
        *out = lock("cache", &cache)?.counters().into();
        Ok(())
    })
}

/// Frees a cache.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_cache_close(cache: jamba_cache) -> jamba_status {
    entry(|| {
        let found = find(cache.id)?;
        handles::close("cache", cache.id, &found, |_| ())
    })
}
