//! Handles: numbers that are never reused, and the objects that they identify.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use jamba_runtime::{Cancel, Engine, PrefixCache, Sampler, SequenceId, Snapshot};

use crate::batch::OpenBatch;
use crate::status::{Failure, jamba_status};

/// The object of a handle.
#[derive(Clone)]
pub(crate) enum Object {
    Engine(Arc<OpenEngine>),
    Sampler(Arc<Mutex<Sampler>>),
    Snapshot(Arc<Snapshot>),
    Cache(Arc<Mutex<PrefixCache>>),
    #[cfg(feature = "tokenizer")]
    Stream(Arc<Mutex<crate::text::Stream>>),
}

/// An engine, and the flag that other threads may set during a call.
pub(crate) struct OpenEngine {
    pub(crate) cancel: Cancel,
    /// None after closing, for calls that looked up the handle before.
    pub(crate) inner: Mutex<Option<Inner>>,
}

/// An engine, and its objects that C refers to.
pub(crate) struct Inner {
    pub(crate) engine: Engine,
    /// Sequences by handle.
    pub(crate) sequences: BTreeMap<u64, SequenceId>,
    /// Batches by handle.
    pub(crate) batches: BTreeMap<u64, OpenBatch>,
    /// Rows of logits of the last step.
    pub(crate) rows: Vec<Row>,
}

/// A row of logits in the engine's memory.
#[repr(transparent)]
pub(crate) struct Row(pub(crate) *const f32);

// SAFETY: this crate never dereferences the pointer. It is only passed to C while the engine's lock is held.
unsafe impl Send for Row {}

static HANDLES: Mutex<BTreeMap<u64, Object>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A new handle; never 0.
pub(crate) fn number() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn handles() -> MutexGuard<'static, BTreeMap<u64, Object>> {
    HANDLES.lock().unwrap_or_else(PoisonError::into_inner) // the map is consistent: each lock spans one insertion or removal
}

/// Assigns a handle to an object.
pub(crate) fn insert(object: Object) -> u64 {
    let id = number();
    handles().insert(id, object);
    id
}

/// The object of a handle.
pub(crate) fn get(id: u64) -> Option<Object> {
    handles().get(&id).cloned()
}

/// Invalidates a handle.
pub(crate) fn remove(id: u64) {
    let removed = handles().remove(&id); // drop the object after the lock is released
    drop(removed);
}

/// The error for an invalid handle.
pub(crate) fn invalid(what: &str) -> Failure {
    Failure::new(jamba_status::JAMBA_INVALID_HANDLE, format!("invalid handle: expected an open {what}"))
}

/// Locks an object for a call. Fails immediately if another call holds the lock.
pub(crate) fn lock<'a, T>(what: &str, object: &'a Mutex<T>) -> Result<MutexGuard<'a, T>, Failure> {
    object.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Failure::new(jamba_status::JAMBA_BUSY, format!("another call is using the {what}")),
        TryLockError::Poisoned(_) => Failure::new(
            jamba_status::JAMBA_INTERNAL,
            format!("an earlier call on the {what} panicked: it can only be closed"),
        ),
    })
}

/// The engine of a handle.
pub(crate) fn engine(id: u64) -> Result<Arc<OpenEngine>, Failure> {
    match get(id) {
        Some(Object::Engine(engine)) => Ok(engine),
        _ => Err(invalid("engine")),
    }
}

/// Runs a call with exclusive access to an engine.
pub(crate) fn with_engine<T>(id: u64, call: impl FnOnce(&mut Inner) -> Result<T, Failure>) -> Result<T, Failure> {
    with_cancel(id, |inner, _| call(inner))
}

/// As [`with_engine`], for a call that jamba_cancel ends.
pub(crate) fn with_cancel<T>(
    id: u64,
    call: impl FnOnce(&mut Inner, &Cancel) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let open = engine(id)?;
    let mut inner = lock("engine", &open.inner)?;
    call(inner.as_mut().ok_or_else(|| invalid("engine"))?, &open.cancel)
}

/// Closes a handle that no call uses. `end` runs under the object's lock, before the handle becomes invalid.
pub(crate) fn close<T>(what: &str, id: u64, object: &Mutex<T>, end: impl FnOnce(&mut T)) -> Result<(), Failure> {
    let mut held = match object.try_lock() {
        Ok(held) => held,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => {
            return Err(Failure::new(jamba_status::JAMBA_BUSY, format!("another call is using the {what}")));
        }
    };
    end(&mut held);
    remove(id);
    Ok(())
}

impl Inner {
    /// The sequence of a handle.
    pub(crate) fn sequence(&self, id: u64) -> Result<SequenceId, Failure> {
        self.sequences.get(&id).copied().ok_or_else(|| invalid("sequence of this engine"))
    }

    /// Assigns a handle to a sequence.
    pub(crate) fn keep(&mut self, sequence: SequenceId) -> u64 {
        let id = number();
        self.sequences.insert(id, sequence);
        id
    }
}
