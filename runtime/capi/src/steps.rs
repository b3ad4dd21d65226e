//! Tokens in, logits out.

use jamba_runtime::{Feed, Logits, Outputs, RuntimeError};

use crate::arguments::{self, place, slice};
use crate::engine::{jamba_engine, jamba_sequence};
use crate::handles::{Row, with_cancel, with_engine};
use crate::status::{Failure, entry, jamba_status};

/// The rows of logits that a feed returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum jamba_outputs {
    /// No rows, for a prompt that continues in a later step.
    JAMBA_OUTPUTS_NONE = 0,
    /// The row of the last token.
    JAMBA_OUTPUTS_LAST = 1,
    /// One row per token.
    JAMBA_OUTPUTS_ALL = 2,
}

const NONE: i32 = jamba_outputs::JAMBA_OUTPUTS_NONE as i32;
const LAST: i32 = jamba_outputs::JAMBA_OUTPUTS_LAST as i32;
const ALL: i32 = jamba_outputs::JAMBA_OUTPUTS_ALL as i32;

/// The tokens that one step appends to one sequence.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_feed {
    /// The sequence.
    pub sequence: jamba_sequence,
    /// The next tokens.
    pub tokens: *const u32,
    /// Number of tokens, at least 1.
    pub n_tokens: usize,
    /// The rows of logits to return, a jamba_outputs.
    pub outputs: i32,
}

/// Rows of logits in memory of the engine, valid until the next call on the engine.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_logits {
    /// Rows of `vocab` floats, in the order of the feeds and, within a feed, of its tokens.
    pub rows: *const *const f32,
    /// Number of rows.
    pub n_rows: usize,
    /// Number of floats per row: the vocabulary size; of other heads, the number of labels or of hidden states.
    pub vocab: usize,
}

/// Stores the addresses of a step's rows for C.
pub(crate) fn kept(logits: &Logits<'_>, rows: &mut Vec<Row>, n_outputs: u64) -> jamba_logits {
    rows.clear();
    rows.extend(logits.rows().map(|row| Row(row.as_ptr())));
    jamba_logits { rows: rows.as_ptr().cast(), n_rows: rows.len(), vocab: n_outputs as usize }
}

/// Runs one step that appends tokens to each fed sequence. Validates all feeds before changing any state. `logits` may be null
/// if no feed returns rows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_step(
    engine: jamba_engine,
    feeds: *const jamba_feed,
    n_feeds: usize,
    logits: *mut jamba_logits,
) -> jamba_status {
    entry(|| {
        with_engine(engine.id, |inner| {
            let limits = &inner.engine.manifest().limits;
            let (max_context, most) = (limits.max_context, limits.max_sequences);
            if n_feeds as u64 > most {
                return Err(RuntimeError::StepTooLarge { what: "sequences", found: n_feeds as u64, most }.into());
            }
            // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
            let feeds = unsafe { slice("feeds", feeds, n_feeds) }?;
            let mut ours = Vec::with_capacity(feeds.len());
            for feed in feeds {
                let outputs = match feed.outputs {
                    NONE => Outputs::None,
                    LAST => Outputs::Last,
                    ALL => Outputs::All,
                    other => return Err(Failure::argument(format!("outputs is {other}, expected a jamba_outputs"))),
                };
                // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
                let tokens = unsafe { arguments::tokens("tokens", feed.tokens, feed.n_tokens, max_context) }?;
                ours.push(Feed { sequence: inner.sequence(feed.sequence.id)?, tokens, outputs });
            }
            let wanted = ours.iter().any(|feed| feed.outputs != Outputs::None);
            let out = match logits.is_null() && !wanted {
                true => None,
                // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
                false => Some(unsafe { place("logits", logits) }?),
            };
            let n_outputs = inner.engine.manifest().model.n_outputs();
            let rows = inner.engine.step(&ours)?;
            let kept = kept(&rows, &mut inner.rows, n_outputs);
            if let Some(out) = out {
                *out = kept;
            }
            Ok(())
        })
    })
}

/// Appends a prompt of any length to a sequence, in as many steps as needed, and returns the logits of its last token.
/// Validates all tokens before changing any state. After JAMBA_CANCELLED the sequence has the tokens of the steps that ran.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_prefill(
    engine: jamba_engine,
    sequence: jamba_sequence,
    tokens: *const u32,
    n_tokens: usize,
    logits: *mut jamba_logits,
) -> jamba_status {
    entry(|| {
        with_cancel(engine.id, |inner, cancel| {
            let sequence = inner.sequence(sequence.id)?;
            let max_context = inner.engine.manifest().limits.max_context;
            // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
            let (tokens, out) =
                unsafe { (arguments::tokens("tokens", tokens, n_tokens, max_context)?, place("logits", logits)?) };
            let n_outputs = inner.engine.manifest().model.n_outputs();
            let rows = inner.engine.prefill(sequence, tokens, None, Some(cancel))?;
            *out = kept(&rows, &mut inner.rows, n_outputs);
            Ok(())
        })
    })
}
