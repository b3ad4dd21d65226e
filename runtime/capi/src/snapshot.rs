//! Copies of sequences: forks, snapshots in memory and in files, rollbacks.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use jamba_runtime::Snapshot;

use crate::arguments::{file_path, place, slice, store};
use crate::engine::{jamba_engine, jamba_sequence};
use crate::handles::{self, Object, invalid, lock, with_engine};
use crate::status::{Failure, entry, jamba_status};

/// A copy of the state of a sequence in host memory. It never changes, may be used by several threads at once, and may
/// outlive its engine.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_snapshot {
    /// 0 means no snapshot.
    pub id: u64,
}

/// The snapshot of a handle.
pub(crate) fn find(id: u64) -> Result<Arc<Snapshot>, Failure> {
    match handles::get(id) {
        Some(Object::Snapshot(snapshot)) => Ok(snapshot),
        _ => Err(invalid("snapshot")),
    }
}

/// Assigns a handle to a snapshot.
pub(crate) fn keep(snapshot: Snapshot) -> jamba_snapshot {
    jamba_snapshot { id: handles::insert(Object::Snapshot(Arc::new(snapshot))) }
}

/// Adds a copy of a sequence. The two share memory until one of them goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_sequence_fork(
    engine: jamba_engine,
    sequence: jamba_sequence,
    fork: *mut jamba_sequence,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let out = unsafe { place("fork", fork) }?;
        *out = jamba_sequence { id: 0 };
        out.id = with_engine(engine.id, |inner| {
            let fork = inner.engine.fork(inner.sequence(sequence.id)?)?;
            Ok(inner.keep(fork))
        })?;
        Ok(())
    })
}

/// Stores the tokens of a sequence. Stores at most `capacity` tokens; JAMBA_TOO_SMALL stores only their number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_sequence_tokens(
    engine: jamba_engine,
    sequence: jamba_sequence,
    tokens: *mut u32,
    capacity: usize,
    n_tokens: *mut usize,
) -> jamba_status {
    entry(|| {
        with_engine(engine.id, |inner| {
            let found = inner.engine.tokens(inner.sequence(sequence.id)?)?;
            // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
            unsafe { store(found, tokens, capacity, n_tokens) }
        })
    })
}

/// Keeps the state of a sequence for jamba_sequence_rollback, in place of what was kept before.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_sequence_checkpoint(engine: jamba_engine, sequence: jamba_sequence) -> jamba_status {
    entry(|| with_engine(engine.id, |inner| Ok(inner.engine.checkpoint(inner.sequence(sequence.id)?)?)))
}

/// Removes the last `n_tokens` tokens of a sequence, at most those after the last jamba_sequence_checkpoint.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_sequence_rollback(
    engine: jamba_engine,
    sequence: jamba_sequence,
    n_tokens: usize,
) -> jamba_status {
    entry(|| {
        with_engine(engine.id, |inner| Ok(inner.engine.rollback(inner.sequence(sequence.id)?, n_tokens as u64)?))
    })
}

/// Copies the state of a sequence. The copy shares memory with `earlier`, a snapshot of its first tokens; 0 for none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_snapshot_take(
    engine: jamba_engine,
    sequence: jamba_sequence,
    earlier: jamba_snapshot,
    snapshot: *mut jamba_snapshot,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let out = unsafe { place("snapshot", snapshot) }?;
        *out = jamba_snapshot { id: 0 };
        let earlier = if earlier.id == 0 { None } else { Some(find(earlier.id)?) };
        let taken = with_engine(engine.id, |inner| {
            let sequence = inner.sequence(sequence.id)?;
            Ok(match earlier {
                Some(earlier) => inner.engine.snapshot_after(sequence, &earlier)?,
                None => inner.engine.snapshot(sequence)?,
            })
        })?;
        *out = keep(taken);
        Ok(())
    })
}

/// Makes a snapshot of the same state with tokens that are to be read next: jamba_generate with them as prompt, after
/// jamba_snapshot_restore, goes on without further text. A state has no logits, so keep the last token of a prompt for this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_snapshot_with_next(
    snapshot: jamba_snapshot,
    tokens: *const u32,
    n_tokens: usize,
    with_next: *mut jamba_snapshot,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let (tokens, out) = unsafe { (slice("tokens", tokens, n_tokens)?, place("with_next", with_next)?) };
        *out = jamba_snapshot { id: 0 };
        *out = keep(Snapshot::clone(&*find(snapshot.id)?).with_next(tokens));
        Ok(())
    })
}

/// Stores the tokens to read next, none unless jamba_snapshot_with_next or `jamba run --save-state` noted them. Stores them as
/// jamba_sequence_tokens does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_snapshot_next(
    snapshot: jamba_snapshot,
    tokens: *mut u32,
    capacity: usize,
    n_tokens: *mut usize,
) -> jamba_status {
    // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
    entry(|| unsafe { store(find(snapshot.id)?.next(), tokens, capacity, n_tokens) })
}

/// Stores the tokens of a snapshot as jamba_sequence_tokens does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_snapshot_tokens(
    snapshot: jamba_snapshot,
    tokens: *mut u32,
    capacity: usize,
    n_tokens: *mut usize,
) -> jamba_status {
    // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
    entry(|| unsafe { store(find(snapshot.id)?.tokens(), tokens, capacity, n_tokens) })
}

/// Stores the host memory of a snapshot in bytes, with what it shares with others.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_snapshot_size(snapshot: jamba_snapshot, bytes: *mut u64) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        *unsafe { place("bytes", bytes) }? = find(snapshot.id)?.bytes();
        Ok(())
    })
}

/// Adds a sequence with the state of a snapshot of the same plan. It continues bit-identically.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_snapshot_restore(
    engine: jamba_engine,
    snapshot: jamba_snapshot,
    sequence: *mut jamba_sequence,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let out = unsafe { place("sequence", sequence) }?;
        *out = jamba_sequence { id: 0 };
        let snapshot = find(snapshot.id)?;
        out.id = with_engine(engine.id, |inner| {
            let sequence = inner.engine.restore(&snapshot)?;
            Ok(inner.keep(sequence))
        })?;
        Ok(())
    })
}

/// Stores a snapshot as bytes, the same as those of its file. Stores at most `capacity` bytes; JAMBA_TOO_SMALL stores only
/// their number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_snapshot_to_bytes(
    snapshot: jamba_snapshot,
    buffer: *mut c_void,
    capacity: usize,
    length: *mut usize,
) -> jamba_status {
    entry(|| {
        let bytes = find(snapshot.id)?.to_bytes();
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        unsafe { store(&bytes, buffer.cast(), capacity, length) }
    })
}

/// Makes a snapshot of the bytes that jamba_snapshot_to_bytes stored, for an engine of the same plan.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_snapshot_from_bytes(
    engine: jamba_engine,
    data: *const c_void,
    bytes: usize,
    snapshot: *mut jamba_snapshot,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let (data, out) = unsafe { (slice("data", data.cast::<u8>(), bytes)?, place("snapshot", snapshot)?) };
        *out = jamba_snapshot { id: 0 };
        *out = keep(with_engine(engine.id, |inner| Ok(Snapshot::from_bytes(data, &inner.engine)?))?);
        Ok(())
    })
}

/// Writes a snapshot to a file. Replaces an existing state file when the new one is complete.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_snapshot_write(snapshot: jamba_snapshot, path: *const c_char) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let file = unsafe { file_path(path) }?;
        Ok(find(snapshot.id)?.save(file)?)
    })
}

/// Reads a snapshot from a file, for an engine of the same plan.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_snapshot_read(
    engine: jamba_engine,
    path: *const c_char,
    snapshot: *mut jamba_snapshot,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let (file, out) = unsafe { (file_path(path)?, place("snapshot", snapshot)?) };
        *out = jamba_snapshot { id: 0 };
        *out = keep(with_engine(engine.id, |inner| Ok(Snapshot::load(file, &inner.engine)?))?);
        Ok(())
    })
}

/// Frees a snapshot. Sequences, batches and caches that were given it are not affected.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_snapshot_close(snapshot: jamba_snapshot) -> jamba_status {
    entry(|| {
        find(snapshot.id)?;
        handles::remove(snapshot.id);
        Ok(())
    })
}

/// Saves the state of a sequence to a file. After jamba_snapshot_load it continues bit-identically.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_snapshot_save(
    engine: jamba_engine,
    sequence: jamba_sequence,
    path: *const c_char,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let file = unsafe { file_path(path) }?;
        with_engine(engine.id, |inner| Ok(inner.engine.snapshot(inner.sequence(sequence.id)?)?.save(file)?))
    })
}

/// Adds a sequence with the state from a file of the same plan, and reads the file's next tokens, if it has any. To generate
/// from those, use jamba_snapshot_read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_snapshot_load(
    engine: jamba_engine,
    path: *const c_char,
    sequence: *mut jamba_sequence,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let (file, out) = unsafe { (file_path(path)?, place("sequence", sequence)?) };
        *out = jamba_sequence { id: 0 };
        let open = handles::engine(engine.id)?;
        let mut held = lock("engine", &open.inner)?;
        let inner = held.as_mut().ok_or_else(|| invalid("engine"))?;
        let snapshot = Snapshot::load(file, &inner.engine)?;
        let sequence = inner.engine.restore(&snapshot)?;
        if !snapshot.next().is_empty() {
            let read = inner.engine.prefill(sequence, snapshot.next(), None, Some(&open.cancel)).map(|_| ());
            if let Err(error) = read {
                inner.engine.remove_sequence(sequence)?;
                return Err(error.into());
            }
        }
        out.id = inner.keep(sequence);
        Ok(())
    })
}
