//! Engines and sequences: opened, asked, closed; state that is saved and loaded.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void};
use std::path::Path;
use std::sync::{Arc, Mutex};

use jamba_runtime::{Cancel, DeviceId, Engine, OpenOptions, Snapshot, Verify};
use serde_json::json;

use crate::arguments::{Versioned, file_path, options, place, slice, store_text, string};
use crate::handles::{self, Inner, Object, OpenEngine, invalid, with_engine};
use crate::status::{Failure, entry, jamba_status};

/// A plan that is open. One thread at a time may be in a call on it: another one gets JAMBA_BUSY at once. Engines do not
/// disturb each other. A handle that was closed is refused for ever.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_engine {
    /// 0 is no engine.
    pub id: u64,
}

/// A sequence of an engine. Every other engine refuses it, and its own once it was removed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_sequence {
    /// 0 is no sequence.
    pub id: u64,
}

/// How to open a plan. Set `size` to sizeof(jamba_open_options); zero means the default everywhere else.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_open_options {
    /// Bytes of this struct.
    pub size: usize,
    /// Threads, the caller's included; 0 for one for every core.
    pub threads: usize,
    /// The target whose code is loaded, "x86-64-v3"; null for the best that this machine runs.
    pub target: *const c_char,
    /// Nonzero: do not compare the weights with their digest, which opens large plans sooner.
    pub trust_weights: c_int,
    /// Nonzero: make all memory resident now.
    pub prefault: c_int,
    /// The device, "cpu" or "cuda:0"; null for the CPU.
    pub device: *const c_char,
}

// SAFETY: it begins with its size; numbers and a pointer, which is not followed before it is checked.
unsafe impl Versioned for jamba_open_options {
    const FIRST: usize = std::mem::offset_of!(jamba_open_options, device);

    fn defaults() -> Self {
        let size = size_of::<Self>();
        let (target, device) = (std::ptr::null(), std::ptr::null());
        jamba_open_options { size, threads: 0, target, trust_weights: 0, prefault: 0, device }
    }
}

/// Opens an engine and gives it a handle.
///
/// # Safety
/// `raw` and `out` are the caller's pointers.
unsafe fn open(
    raw: *const jamba_open_options,
    out: *mut jamba_engine,
    open: impl FnOnce(OpenOptions<'_>) -> Result<Engine, jamba_runtime::RuntimeError>,
) -> Result<(), Failure> {
    // SAFETY: the caller's word is the same.
    let (options, out) = unsafe { (options("options", raw)?, place("engine", out)?) };
    *out = jamba_engine { id: 0 };
    let isa = match options.target.is_null() {
        true => None,
        // SAFETY: it is not null, and so the caller's text.
        false => Some(unsafe { string("target", options.target) }?.to_owned()),
    };
    let device = match options.device.is_null() {
        true => DeviceId::Cpu,
        // SAFETY: as for the target.
        false => unsafe { string("device", options.device) }?.parse().map_err(Failure::argument)?,
    };
    let verify = if options.trust_weights == 0 { Verify::Everything } else { Verify::AllButWeights };
    let engine = open(OpenOptions {
        device,
        threads: Some(options.threads).filter(|&threads| threads > 0),
        isa,
        verify,
        prefault: options.prefault != 0,
        ..OpenOptions::default()
    })?;
    let inner = Mutex::new(Some(Inner { engine, sequences: BTreeMap::new(), rows: Vec::new() }));
    out.id = handles::insert(Object::Engine(Arc::new(OpenEngine { cancel: Cancel::new(), inner })));
    Ok(())
}

/// Opens a plan file. `options` may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_open(
    path: *const c_char,
    options: *const jamba_open_options,
    engine: *mut jamba_engine,
) -> jamba_status {
    entry(|| {
        // SAFETY: the caller's word.
        let file: &Path = unsafe { file_path(path) }?;
        // SAFETY: as above.
        unsafe { open(options, engine, |options| Engine::open(file, options)) }
    })
}

/// Opens a plan that is in memory: `bytes` bytes that begin on a page of 4096, and that stay as they are until the
/// engine is closed. Nothing is copied and no file is touched. `options` may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_open_memory(
    data: *const c_void,
    bytes: usize,
    options: *const jamba_open_options,
    engine: *mut jamba_engine,
) -> jamba_status {
    entry(|| {
        // SAFETY: the caller promises that the memory stays until the engine is gone, and nothing else refers to it.
        let plan: &'static [u8] = unsafe { slice("data", data.cast::<u8>(), bytes) }?;
        // SAFETY: the caller's word.
        unsafe { open(options, engine, |options| Engine::open_memory(plan, options)) }
    })
}

/// Closes an engine and its sequences. Refused with JAMBA_BUSY while another thread is in a call on it.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_close(engine: jamba_engine) -> jamba_status {
    entry(|| {
        let open = handles::engine(engine.id)?;
        handles::close("engine", engine.id, &open.inner, |inner| *inner = None)
    })
}

/// Ends what the engine does between two steps, from any thread: jamba_generate with JAMBA_FINISH_CANCELLED, jamba_prefill
/// with JAMBA_CANCELLED; and all that is begun later, until jamba_cancel_reset.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_cancel(engine: jamba_engine) -> jamba_status {
    entry(|| {
        handles::engine(engine.id)?.cancel.cancel();
        Ok(())
    })
}

/// Lets the engine work again after jamba_cancel.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_cancel_reset(engine: jamba_engine) -> jamba_status {
    entry(|| {
        handles::engine(engine.id)?.cancel.reset();
        Ok(())
    })
}

/// What the engine runs, as JSON: `plan`, `digest`, `target`, `device`, `threads`, `free` (state slots and KV pages), and the
/// plan's `manifest` with model, limits and memory in bytes. Stores at most `capacity` bytes, a zero at the end included,
/// and the length without it; JAMBA_TOO_SMALL stores the length alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_info(
    engine: jamba_engine,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> jamba_status {
    entry(|| {
        let text = with_engine(engine.id, |inner| {
            let engine = &inner.engine;
            let (slots, pages) = engine.free();
            let manifest = serde_json::to_value(engine.manifest())
                .map_err(|error| Failure::new(jamba_status::JAMBA_INTERNAL, error))?;
            Ok(json!({
                "plan": engine.path().to_string_lossy(), "digest": engine.plan_digest().to_hex().as_str(),
                "target": engine.target(), "device": engine.device(), "threads": engine.threads(),
                "free": { "state_slots": slots, "kv_pages": pages }, "manifest": manifest,
            })
            .to_string())
        })?;
        // SAFETY: the caller's word.
        unsafe { store_text(&text, buffer, capacity, length) }
    })
}

/// Begins a sequence without tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_sequence_add(engine: jamba_engine, sequence: *mut jamba_sequence) -> jamba_status {
    entry(|| {
        // SAFETY: the caller's word.
        let out = unsafe { place("sequence", sequence) }?;
        *out = jamba_sequence { id: 0 };
        out.id = with_engine(engine.id, |inner| {
            let sequence = inner.engine.add_sequence()?;
            Ok(inner.keep(sequence))
        })?;
        Ok(())
    })
}

/// Ends a sequence; its memory is free for others.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_sequence_remove(engine: jamba_engine, sequence: jamba_sequence) -> jamba_status {
    entry(|| {
        with_engine(engine.id, |inner| {
            let id = inner.sequences.remove(&sequence.id).ok_or_else(|| invalid("sequence of this engine"))?;
            Ok(inner.engine.remove_sequence(id)?)
        })
    })
}

/// Stores the number of tokens that a sequence has taken.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_sequence_length(
    engine: jamba_engine,
    sequence: jamba_sequence,
    length: *mut usize,
) -> jamba_status {
    entry(|| {
        // SAFETY: the caller's word.
        let out = unsafe { place("length", length) }?;
        *out = with_engine(engine.id, |inner| Ok(inner.engine.len(inner.sequence(sequence.id)?)?))? as usize;
        Ok(())
    })
}

/// Writes what a sequence remembers to a file, from which jamba_snapshot_load goes on with the same bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_snapshot_save(
    engine: jamba_engine,
    sequence: jamba_sequence,
    path: *const c_char,
) -> jamba_status {
    entry(|| {
        // SAFETY: the caller's word.
        let file = unsafe { file_path(path) }?;
        with_engine(engine.id, |inner| Ok(inner.engine.snapshot(inner.sequence(sequence.id)?)?.save(file)?))
    })
}

/// Begins a sequence that goes on from such a file, of the same plan.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_snapshot_load(
    engine: jamba_engine,
    path: *const c_char,
    sequence: *mut jamba_sequence,
) -> jamba_status {
    entry(|| {
        // SAFETY: the caller's word.
        let (file, out) = unsafe { (file_path(path)?, place("sequence", sequence)?) };
        *out = jamba_sequence { id: 0 };
        out.id = with_engine(engine.id, |inner| {
            let snapshot = Snapshot::load(file, &inner.engine)?;
            let sequence = inner.engine.restore(&snapshot)?;
            Ok(inner.keep(sequence))
        })?;
        Ok(())
    })
}
