//! Engines and sequences.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void};
use std::path::Path;
use std::sync::{Arc, Mutex};

use jamba_runtime::{Cancel, DeviceId, Engine, OpenOptions, PlanFile, TrustedKeys, Verify};
use serde_json::json;

use crate::arguments::{Versioned, file_path, options, place, slice, store_text, string};
use crate::handles::{self, Inner, Object, OpenEngine, invalid, with_engine};
use crate::status::{Failure, entry, jamba_status};

/// An open plan. One thread at a time may be in a call on it; calls from other threads return JAMBA_BUSY immediately. Engines
/// are independent of each other. A closed handle stays invalid.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_engine {
    /// 0 means no engine.
    pub id: u64,
}

/// A sequence of an engine. It is invalid for other engines, and after its removal.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_sequence {
    /// 0 means no sequence.
    pub id: u64,
}

/// Options for opening a plan. Set `size` to sizeof(jamba_open_options). Zero means the default in all other fields.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_open_options {
    /// Size of this struct in bytes.
    pub size: usize,
    /// Number of threads, including the caller; 0 for one per core.
    pub threads: usize,
    /// Target to load, for example "x86-64-v3"; null for the best that this machine supports.
    pub target: *const c_char,
    /// Nonzero: do not verify the digest of the weights, which opens large plans faster. Refused where a signature is required.
    pub trust_weights: c_int,
    /// Nonzero: make all memory resident when opening.
    pub prefault: c_int,
    /// Device, "cpu" or "cuda:0"; null for the CPU.
    pub device: *const c_char,
    /// The plan's digest as 64 hexadecimal digits, which `jamba verify` prints; null for any plan. A plan with another digest is
    /// refused before any of its code is loaded. With trust_weights the digest does not cover the weights.
    pub require_digest: *const c_char,
    /// A file of public keys, one per line, in the format of ssh's authorized_keys. One of them must have signed the plan. The
    /// signature is read from PLAN.sig, which `jambac build --sign` or `ssh-keygen -Y sign -n jamba-plan` writes. Null for no file.
    pub trusted_keys: *const c_char,
    /// Nonzero: without trusted_keys, take the keys in $XDG_CONFIG_HOME/jamba/trusted_keys.
    pub require_signature: c_int,
}

// SAFETY: the struct starts with its size, and any bytes are valid numbers and raw pointers.
unsafe impl Versioned for jamba_open_options {
    const FIRST: usize = std::mem::offset_of!(jamba_open_options, device);

    fn defaults() -> Self {
        let size = size_of::<Self>();
        let [target, device, require_digest, trusted_keys] = [std::ptr::null(); 4];
        let (trust_weights, prefault, require_signature) = (0, 0, 0);
        jamba_open_options {
            size,
            threads: 0,
            target,
            trust_weights,
            prefault,
            device,
            require_digest,
            trusted_keys,
            require_signature,
        }
    }
}

/// Opens an engine and stores its handle in `out`.
///
/// # Safety
/// `raw` and `out`, and pointers in `raw`, are null or valid during the call, as jamba.h requires of C callers.
unsafe fn open(
    raw: *const jamba_open_options,
    out: *mut jamba_engine,
    open: impl FnOnce(OpenOptions<'_>) -> Result<Engine, jamba_runtime::RuntimeError>,
) -> Result<(), Failure> {
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    let (options, out) = unsafe { (options("options", raw)?, place("engine", out)?) };
    *out = jamba_engine { id: 0 };
    let isa = match options.target.is_null() {
        true => None,
        // SAFETY: not null, so a zero-terminated string by the contract of jamba.h.
        false => Some(unsafe { string("target", options.target) }?.to_owned()),
    };
    let device = match options.device.is_null() {
        true => DeviceId::Cpu,
        // SAFETY: not null, so a zero-terminated string by the contract of jamba.h.
        false => unsafe { string("device", options.device) }?.parse().map_err(Failure::argument)?,
    };
    let require_digest = match options.require_digest.is_null() {
        true => None,
        false => {
            // SAFETY: not null, so a zero-terminated string by the contract of jamba.h.
            let text = unsafe { string("require_digest", options.require_digest) }?;
            let digest = blake3::Hash::from_hex(text);
            Some(digest.map_err(|_| Failure::argument("require_digest: expected 64 hexadecimal digits"))?)
        }
    };
    let trusted_keys = match options.trusted_keys.is_null() {
        true if options.require_signature != 0 => Some(TrustedKeys::of_user()?),
        true => None,
        // SAFETY: not null, so a zero-terminated string by the contract of jamba.h.
        false => Some(TrustedKeys::read(unsafe { file_path(options.trusted_keys) }?)?),
    };
    let verify = if options.trust_weights == 0 { Verify::Everything } else { Verify::AllButWeights };
    let engine = open(OpenOptions {
        device,
        threads: Some(options.threads).filter(|&threads| threads > 0),
        isa,
        verify,
        require_digest,
        trusted_keys,
        prefault: options.prefault != 0,
        ..OpenOptions::default()
    })?;
    let inner =
        Mutex::new(Some(Inner { engine, sequences: BTreeMap::new(), batches: BTreeMap::new(), rows: Vec::new() }));
    out.id = handles::insert(Object::Engine(Arc::new(OpenEngine { cancel: Cancel::new(), inner })));
    Ok(())
}

/// Opens a plan file. `options` may be null. A plan is a program: open only plans that you built, or whose digest you have from
/// somebody you trust (require_digest), or who signed them (trusted_keys).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_open(
    path: *const c_char,
    options: *const jamba_open_options,
    engine: *mut jamba_engine,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let file: &Path = unsafe { file_path(path) }?;
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        unsafe { open(options, engine, |options| Engine::open(file, options)) }
    })
}

/// Opens a plan in memory without copying it: `bytes` bytes, aligned to 4096, which must stay unchanged until the engine is
/// closed. `options` may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_open_memory(
    data: *const c_void,
    bytes: usize,
    options: *const jamba_open_options,
    engine: *mut jamba_engine,
) -> jamba_status {
    entry(|| {
        // SAFETY: jamba.h requires that the memory stays valid and unchanged until the engine is closed, and only the engine
        // keeps a reference to it.
        let plan: &'static [u8] = unsafe { slice("data", data.cast::<u8>(), bytes) }?;
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        unsafe { open(options, engine, |options| Engine::open(PlanFile::from_memory(plan)?, options)) }
    })
}

/// Closes an engine with its sequences and batches. Fails with JAMBA_BUSY while another thread is in a call on it.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_close(engine: jamba_engine) -> jamba_status {
    entry(|| {
        let open = handles::engine(engine.id)?;
        handles::close("engine", engine.id, &open.inner, |inner| *inner = None)
    })
}

/// Cancels, from any thread, the current and later operations of an engine until jamba_cancel_reset. Operations stop between
/// two steps: jamba_generate with JAMBA_FINISH_CANCELLED, jamba_prefill with JAMBA_CANCELLED. Chat templates and constraints end with
/// JAMBA_CANCELLED.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_cancel(engine: jamba_engine) -> jamba_status {
    entry(|| {
        handles::engine(engine.id)?.cancel.cancel();
        Ok(())
    })
}

/// Ends the effect of jamba_cancel.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_cancel_reset(engine: jamba_engine) -> jamba_status {
    entry(|| {
        handles::engine(engine.id)?.cancel.reset();
        Ok(())
    })
}

/// Stores a description of the engine as JSON: `plan`, `digest`, `target`, `device`, `threads`, `free` (state slots and KV
/// pages), and the plan's `manifest` with model, limits and memory in bytes. Stores at most `capacity` bytes including a
/// terminating zero, and the length without it. JAMBA_TOO_SMALL stores only the length.
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
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        unsafe { store_text(&text, buffer, capacity, length) }
    })
}

/// Adds an empty sequence.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_sequence_add(engine: jamba_engine, sequence: *mut jamba_sequence) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let out = unsafe { place("sequence", sequence) }?;
        *out = jamba_sequence { id: 0 };
        out.id = with_engine(engine.id, |inner| {
            let sequence = inner.engine.add_sequence()?;
            Ok(inner.keep(sequence))
        })?;
        Ok(())
    })
}

/// Removes a sequence and frees its memory.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_sequence_remove(engine: jamba_engine, sequence: jamba_sequence) -> jamba_status {
    entry(|| {
        with_engine(engine.id, |inner| {
            let id = inner.sequences.remove(&sequence.id).ok_or_else(|| invalid("sequence of this engine"))?;
            Ok(inner.engine.remove_sequence(id)?)
        })
    })
}

/// Stores the number of tokens in a sequence.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_sequence_length(
    engine: jamba_engine,
    sequence: jamba_sequence,
    length: *mut usize,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let out = unsafe { place("length", length) }?;
        *out = with_engine(engine.id, |inner| Ok(inner.engine.len(inner.sequence(sequence.id)?)?))? as usize;
        Ok(())
    })
}
