//! Batches: one thread serves many clients.

use std::collections::BTreeMap;

use jamba_runtime::{Batch, PrefixCache, RequestId, Snapshot};

use crate::arguments::{options, place, slice};
use crate::cache::jamba_cache_counters;
use crate::engine::jamba_engine;
use crate::events::{Told, jamba_event};
use crate::handles::{self, Inner, invalid, lock, with_engine};
use crate::request::{jamba_batch_options, jamba_request, request};
use crate::snapshot::{self, jamba_snapshot};
use crate::status::{Failure, entry, jamba_status};

/// The requests of many clients on one engine: they join and leave between steps. The tokens of a request do not depend on the
/// others. A batch belongs to its engine: it is invalid for other engines, and closed with its own.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_batch {
    /// 0 means no batch.
    pub id: u64,
}

/// What a batch holds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_batch_state {
    /// Answers that wait.
    pub waiting: usize,
    /// Answers that have a sequence.
    pub running: usize,
    /// How often an answer gave way to others.
    pub preemptions: u64,
    /// Host memory for the states of waiting answers, in bytes.
    pub swapped_bytes: u64,
    /// The prefix cache; zeros without one.
    pub cache: jamba_cache_counters,
}

/// A batch, and what C knows of it.
pub(crate) struct OpenBatch {
    batch: Batch,
    /// Numbers of requests that have not ended.
    requests: BTreeMap<RequestId, u64>,
    n_requests: u64,
    told: Told,
}

/// The batch of a handle, and its engine.
fn of(inner: &mut Inner, id: u64) -> Result<(&mut OpenBatch, &mut jamba_runtime::Engine), Failure> {
    let Inner { engine, batches, .. } = inner;
    Ok((batches.get_mut(&id).ok_or_else(|| invalid("batch of this engine"))?, engine))
}

/// Runs a call with a batch and its engine.
fn with_batch<T>(
    engine: jamba_engine,
    batch: jamba_batch,
    call: impl FnOnce(&mut OpenBatch, &mut jamba_runtime::Engine) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_engine(engine.id, |inner| {
        let (batch, engine) = of(inner, batch.id)?;
        call(batch, engine)
    })
}

/// Creates an empty batch. `given` may be null for the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_batch_open(
    engine: jamba_engine,
    given: *const jamba_batch_options,
    batch: *mut jamba_batch,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let (given, out) = unsafe { (options("batch options", given)?, place("batch", batch)?) };
        *out = jamba_batch { id: 0 };
        let wanted = given.to_runtime()?;
        out.id = with_engine(engine.id, |inner| {
            let mut batch = Batch::with_options(&inner.engine, wanted);
            if given.cache_bytes > 0 {
                let cache = PrefixCache::new(given.cache_bytes).with_interval(given.cache_interval);
                batch.set_cache(&inner.engine, cache)?;
            }
            let open = OpenBatch { batch, requests: BTreeMap::new(), n_requests: 0, told: Told::default() };
            let id = handles::number();
            inner.batches.insert(id, open);
            Ok(id)
        })?;
        Ok(())
    })
}

/// Appends a request to the queue and stores its number, which is unique in the batch. Fails if the request is invalid or can
/// never run, and with JAMBA_NO_ROOM if the queue is full. jamba_cancel ends all requests.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_batch_submit(
    engine: jamba_engine,
    batch: jamba_batch,
    wanted: *const jamba_request,
    number: *mut u64,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let out = unsafe { place("number", number) }?;
        *out = 0;
        let open = handles::engine(engine.id)?;
        let mut held = lock("engine", &open.inner)?;
        let (batch, engine) = of(held.as_mut().ok_or_else(|| invalid("engine"))?, batch.id)?;
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let mut wanted = unsafe { request(wanted, engine.manifest().limits.max_context) }?;
        wanted.options.cancel = open.cancel.clone();
        let id = batch.batch.submit(engine, wanted)?;
        batch.n_requests += 1;
        batch.requests.insert(id, batch.n_requests);
        *out = batch.n_requests;
        Ok(())
    })
}

/// Runs one step for all requests that fit and returns its events, which are valid until the next call with this batch. There
/// may be none: if only parts of prompts were read, or if other sequences of the engine hold the memory that all requests
/// wait for. After an error the batch can only be closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_batch_step(
    engine: jamba_engine,
    batch: jamba_batch,
    events: *mut *const jamba_event,
    n_events: *mut usize,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let (out, length) = unsafe { (place("events", events)?, place("n_events", n_events)?) };
        (*out, *length) = (std::ptr::null(), 0);
        with_batch(engine, batch, |open, engine| {
            let OpenBatch { batch, requests, told, .. } = open;
            told.keep(batch.step(engine)?, requests);
            requests.retain(|&id, _| batch.holds(id));
            (*out, *length) = (told.events().as_ptr(), told.events().len());
            Ok(())
        })
    })
}

/// Stores 1 if a batch has no requests, otherwise 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_batch_idle(engine: jamba_engine, batch: jamba_batch, idle: *mut i32) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let out = unsafe { place("idle", idle) }?;
        *out = with_batch(engine, batch, |open, _| Ok(i32::from(open.batch.is_idle())))?;
        Ok(())
    })
}

/// Ends the answers of a request, without events. Nothing happens if they had ended.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_batch_cancel(engine: jamba_engine, batch: jamba_batch, number: u64) -> jamba_status {
    entry(|| {
        with_batch(engine, batch, |open, engine| {
            if number == 0 || number > open.n_requests {
                return Err(Failure::argument(format!(
                    "request is {number}, expected the number of a request of this batch, 1 … {}",
                    open.n_requests
                )));
            }
            let id = open.requests.iter().find(|&(_, &found)| found == number).map(|(&id, _)| id);
            if let Some(id) = id {
                open.requests.remove(&id);
                open.batch.cancel(engine, id)?;
            }
            Ok(())
        })
    })
}

/// Stores what a batch holds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_batch_count(
    engine: jamba_engine,
    batch: jamba_batch,
    state: *mut jamba_batch_state,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let out = unsafe { place("state", state) }?;
        *out = with_batch(engine, batch, |OpenBatch { batch, .. }, _| {
            Ok(jamba_batch_state {
                waiting: batch.n_waiting(),
                running: batch.n_running(),
                preemptions: batch.n_preemptions(),
                swapped_bytes: batch.swapped_bytes(),
                cache: batch.cache().map(PrefixCache::counters).unwrap_or_default().into(),
            })
        })?;
        Ok(())
    })
}

/// Puts a snapshot into the cache of a batch: requests without a `cache_salt` whose prompts begin with its tokens start from
/// it. Fails without a cache.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_batch_insert(
    engine: jamba_engine,
    batch: jamba_batch,
    snapshot: jamba_snapshot,
) -> jamba_status {
    entry(|| {
        let snapshot = snapshot::find(snapshot.id)?;
        with_engine(engine.id, |inner| {
            let (plan, target) = (inner.engine.plan_digest(), inner.engine.target());
            match (snapshot.plan() == plan, snapshot.target() == target) {
                (true, true) => Ok(()),
                (true, false) => Err(Failure::argument(format!(
                    "the snapshot is of target {}, expected {target}",
                    snapshot.target()
                ))),
                (false, _) => Err(Failure::new(
                    jamba_status::JAMBA_BAD_PLAN,
                    format!("the snapshot is of plan {}, expected {plan}", snapshot.plan()),
                )),
            }
        })?;
        with_cache(engine, batch, |cache| cache.insert(Snapshot::clone(&snapshot)))
    })
}

/// Makes a snapshot of the one in the cache of a batch whose tokens are the longest beginning of `tokens`; 0 if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_batch_longest(
    engine: jamba_engine,
    batch: jamba_batch,
    tokens: *const u32,
    n_tokens: usize,
    snapshot: *mut jamba_snapshot,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let (tokens, out) = unsafe { (slice("tokens", tokens, n_tokens)?, place("snapshot", snapshot)?) };
        *out = jamba_snapshot { id: 0 };
        if let Some(found) = with_cache(engine, batch, |cache| cache.longest(tokens))? {
            *out = snapshot::keep(found);
        }
        Ok(())
    })
}

/// Runs a call with the cache of a batch.
fn with_cache<T>(
    engine: jamba_engine,
    batch: jamba_batch,
    call: impl FnOnce(&mut PrefixCache) -> T,
) -> Result<T, Failure> {
    with_batch(engine, batch, |open, engine| {
        let Some(mut cache) = open.batch.take_cache() else {
            return Err(Failure::argument("the batch has no cache, expected one: set cache_bytes of its options"));
        };
        let result = call(&mut cache);
        open.batch.set_cache(engine, cache)?;
        Ok(result)
    })
}

/// Closes a batch and ends its requests, without events.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_batch_close(engine: jamba_engine, batch: jamba_batch) -> jamba_status {
    entry(|| {
        with_engine(engine.id, |inner| {
            let Inner { engine, batches, .. } = inner;
            let mut open = batches.remove(&batch.id).ok_or_else(|| invalid("batch of this engine"))?;
            for &id in open.requests.keys() {
                open.batch.cancel(engine, id)?;
            }
            Ok(())
        })
    })
}
