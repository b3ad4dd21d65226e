//! Handles: numbers that are never given out twice, and what they stand for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use jamba_runtime::{Cancel, Engine, Sampler, SequenceId};

use crate::status::{Failure, jamba_status};

/// What a handle stands for.
#[derive(Clone)]
pub(crate) enum Object {
    Engine(Arc<OpenEngine>),
    Sampler(Arc<Mutex<Sampler>>),
    #[cfg(feature = "tokenizer")]
    Stream(Arc<Mutex<crate::text::Stream>>),
}

/// An engine, and what may be done to it while it works.
pub(crate) struct OpenEngine {
    pub(crate) cancel: Cancel,
    /// None once it was closed: a call that had found the handle before does not get at it any more.
    pub(crate) inner: Mutex<Option<Inner>>,
}

/// An engine, and what C holds of it.
pub(crate) struct Inner {
    pub(crate) engine: Engine,
    /// Sequences by the numbers of their handles.
    pub(crate) sequences: BTreeMap<u64, SequenceId>,
    /// Rows of logits that the last step left.
    pub(crate) rows: Vec<Row>,
}

/// A row of logits in the engine's memory.
#[repr(transparent)]
pub(crate) struct Row(pub(crate) *const f32);

// SAFETY: the pointer is only handed to the caller, whose threads take turns by the engine's lock.
unsafe impl Send for Row {}

static HANDLES: Mutex<BTreeMap<u64, Object>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A number for a new handle; 0 is none.
pub(crate) fn number() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn handles() -> MutexGuard<'static, BTreeMap<u64, Object>> {
    HANDLES.lock().unwrap_or_else(PoisonError::into_inner) // one insertion or removal: whole in any case
}

/// Gives an object a handle.
pub(crate) fn insert(object: Object) -> u64 {
    let id = number();
    handles().insert(id, object);
    id
}

/// The object of a handle.
pub(crate) fn get(id: u64) -> Option<Object> {
    handles().get(&id).cloned()
}

/// Ends a handle.
pub(crate) fn remove(id: u64) {
    let removed = handles().remove(&id); // dropped when the table is free again
    drop(removed);
}

/// The refusal of a handle.
pub(crate) fn invalid(what: &str) -> Failure {
    Failure::new(jamba_status::JAMBA_INVALID_HANDLE, format!("this is no open {what}"))
}

/// Locks an object for a call.
pub(crate) fn lock<'a, T>(what: &str, object: &'a Mutex<T>) -> Result<MutexGuard<'a, T>, Failure> {
    object.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Failure::new(jamba_status::JAMBA_BUSY, format!("another call is using the {what}")),
        TryLockError::Poisoned(_) => Failure::new(
            jamba_status::JAMBA_INTERNAL,
            format!("a call on the {what} failed in its midst before: it can only be closed"),
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

/// Runs a call on an engine, alone.
pub(crate) fn with_engine<T>(id: u64, call: impl FnOnce(&mut Inner) -> Result<T, Failure>) -> Result<T, Failure> {
    let open = engine(id)?;
    let mut inner = lock("engine", &open.inner)?;
    call(inner.as_mut().ok_or_else(|| invalid("engine"))?)
}

/// Ends a handle that nobody uses; `end` does what has to be done before anybody else can find the object.
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

    /// Gives a sequence a handle.
    pub(crate) fn keep(&mut self, sequence: SequenceId) -> u64 {
        let id = number();
        self.sequences.insert(id, sequence);
        id
    }
}
