//! Classification and embeddings, by plans with such a head.

use std::ffi::{c_char, c_int};

use jamba_runtime::{Pooling, normalize};

use crate::arguments::{self, store, store_text};
use crate::engine::jamba_engine;
use crate::handles::{Inner, with_cancel, with_engine};
use crate::status::{Failure, entry, jamba_status};

/// How the hidden states of a text become one vector.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum jamba_pooling {
    /// The state of the last token.
    JAMBA_POOLING_LAST = 0,
    /// The mean of the states of all tokens.
    JAMBA_POOLING_MEAN = 1,
}

/// Classifies a text by its last token, in a sequence of its own. Stores a score of each label, and its probability by the
/// model's activation; `scores` and `probabilities` have room for `capacity` floats each. JAMBA_TOO_SMALL stores only the number
/// of labels.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_classify(
    engine: jamba_engine,
    tokens: *const u32,
    n_tokens: usize,
    scores: *mut f32,
    probabilities: *mut f32,
    capacity: usize,
    n_labels: *mut usize,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let found = unsafe {
            with_tokens(engine, tokens, n_tokens, |inner, tokens, cancel| {
                Ok(inner.engine.classify(tokens, Some(cancel))?)
            })
        }?;
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        unsafe {
            store(&found.scores, scores, capacity, n_labels)?;
            store(&found.probabilities, probabilities, capacity, n_labels)
        }
    })
}

/// Stores the name of a label, as jamba_info does. Plans that classify nothing have no labels.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_label(
    engine: jamba_engine,
    index: usize,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> jamba_status {
    entry(|| {
        let label = with_engine(engine.id, |inner| {
            let labels = inner.engine.labels();
            let missing = || Failure::argument(format!("index is {index}, expected one of {} labels", labels.len()));
            labels.get(index).cloned().ok_or_else(missing)
        })?;
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        unsafe { store_text(&label, buffer, capacity, length) }
    })
}

/// Computes the embedding of a text, in a sequence of its own. `pooling` is a jamba_pooling. Unless `normalized` is 0, the
/// embedding's Euclidean norm is 1. Stores at most `capacity` floats; JAMBA_TOO_SMALL stores only their number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_embed(
    engine: jamba_engine,
    tokens: *const u32,
    n_tokens: usize,
    pooling: i32,
    normalized: c_int,
    embedding: *mut f32,
    capacity: usize,
    n_floats: *mut usize,
) -> jamba_status {
    const LAST: i32 = jamba_pooling::JAMBA_POOLING_LAST as i32;
    const MEAN: i32 = jamba_pooling::JAMBA_POOLING_MEAN as i32;
    entry(|| {
        let pooling = match pooling {
            LAST => Pooling::Last,
            MEAN => Pooling::Mean,
            other => return Err(Failure::argument(format!("pooling is {other}, expected a jamba_pooling"))),
        };
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let mut found = unsafe {
            with_tokens(engine, tokens, n_tokens, |inner, tokens, cancel| {
                Ok(inner.engine.embed(tokens, pooling, Some(cancel))?)
            })
        }?;
        if normalized != 0 {
            normalize(&mut found);
        }
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        unsafe { store(&found, embedding, capacity, n_floats) }
    })
}

/// # Safety
/// Pointers are null or valid during the call, as jamba.h requires of C callers.
unsafe fn with_tokens<T>(
    engine: jamba_engine,
    tokens: *const u32,
    n_tokens: usize,
    call: impl FnOnce(&mut Inner, &[u32], &jamba_runtime::Cancel) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_cancel(engine.id, |inner, cancel| {
        let max_context = inner.engine.manifest().limits.max_context;
        // SAFETY: the caller guarantees that the pointer is null or valid, see `# Safety`.
        let tokens = unsafe { arguments::tokens("tokens", tokens, n_tokens, max_context) }?;
        call(inner, tokens, cancel)
    })
}
