//! Tokens in, logits out.

use jamba_runtime::{Feed, Logits, Outputs};

use crate::arguments::{place, slice};
use crate::engine::{jamba_engine, jamba_sequence};
use crate::handles::{self, Row, invalid, lock, with_engine};
use crate::status::{Failure, entry, jamba_status};

/// Which rows of logits a sequence's share of a step returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum jamba_outputs {
    /// None: more of the prompt follows.
    JAMBA_OUTPUTS_NONE = 0,
    /// That of the last token.
    JAMBA_OUTPUTS_LAST = 1,
    /// Those of every token.
    JAMBA_OUTPUTS_ALL = 2,
}

const NONE: i32 = jamba_outputs::JAMBA_OUTPUTS_NONE as i32;
const LAST: i32 = jamba_outputs::JAMBA_OUTPUTS_LAST as i32;
const ALL: i32 = jamba_outputs::JAMBA_OUTPUTS_ALL as i32;

/// What one sequence gets in one step.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_feed {
    /// The sequence.
    pub sequence: jamba_sequence,
    /// Its next tokens.
    pub tokens: *const u32,
    /// Number of tokens, at least 1.
    pub n_tokens: usize,
    /// The logits that are wanted: a jamba_outputs.
    pub outputs: i32,
}

/// Rows of logits in the engine's own memory: valid until the next call on the engine.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_logits {
    /// Rows, in order of the feeds and within a feed of its tokens: `vocab` floats each.
    pub rows: *const *const f32,
    /// Number of rows.
    pub n_rows: usize,
    /// Number of floats in a row: the size of the vocabulary.
    pub vocab: usize,
}

/// The rows of a step, as C gets them.
fn kept(logits: &Logits<'_>, rows: &mut Vec<Row>, vocab: u64) -> jamba_logits {
    rows.clear();
    rows.extend(logits.rows().map(|row| Row(row.as_ptr())));
    jamba_logits { rows: rows.as_ptr().cast(), n_rows: rows.len(), vocab: vocab as usize }
}

/// Feeds every sequence its tokens, all in one step. Refused before anything changes, or not at all. `logits` may be null
/// where no feed wants any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_step(
    engine: jamba_engine,
    feeds: *const jamba_feed,
    n_feeds: usize,
    logits: *mut jamba_logits,
) -> jamba_status {
    entry(|| {
        // SAFETY: the caller's word.
        let feeds = unsafe { slice("feeds", feeds, n_feeds) }?;
        with_engine(engine.id, |inner| {
            let mut ours = Vec::with_capacity(feeds.len());
            for feed in feeds {
                let outputs = match feed.outputs {
                    NONE => Outputs::None,
                    LAST => Outputs::Last,
                    ALL => Outputs::All,
                    other => return Err(Failure::argument(format!("outputs is {other}: it is no jamba_outputs"))),
                };
                // SAFETY: the caller's word.
                let tokens = unsafe { slice("tokens", feed.tokens, feed.n_tokens) }?;
                ours.push(Feed { sequence: inner.sequence(feed.sequence.id)?, tokens, outputs });
            }
            let wanted = ours.iter().any(|feed| feed.outputs != Outputs::None);
            let out = match logits.is_null() && !wanted {
                true => None,
                // SAFETY: the caller's word.
                false => Some(unsafe { place("logits", logits) }?),
            };
            let vocab = inner.engine.manifest().model.vocab;
            let rows = inner.engine.step(&ours)?;
            let kept = kept(&rows, &mut inner.rows, vocab);
            if let Some(out) = out {
                *out = kept;
            }
            Ok(())
        })
    })
}

/// Feeds one sequence a prompt of any length, in as many steps as it takes, and returns the logits of its last token.
/// Refused before anything changes; after JAMBA_CANCELLED the sequence has read the prompt up to some step.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_prefill(
    engine: jamba_engine,
    sequence: jamba_sequence,
    tokens: *const u32,
    n_tokens: usize,
    logits: *mut jamba_logits,
) -> jamba_status {
    entry(|| {
        // SAFETY: the caller's word.
        let (tokens, out) = unsafe { (slice("tokens", tokens, n_tokens)?, place("logits", logits)?) };
        let open = handles::engine(engine.id)?;
        let mut held = lock("engine", &open.inner)?;
        let inner = held.as_mut().ok_or_else(|| invalid("engine"))?;
        let sequence = inner.sequence(sequence.id)?;
        let vocab = inner.engine.manifest().model.vocab;
        match inner.engine.prefill_unless(&open.cancel, sequence, tokens, None)? {
            Some(rows) => *out = kept(&rows, &mut inner.rows, vocab),
            None => return Err(Failure::new(jamba_status::JAMBA_CANCELLED, "jamba_cancel was called")),
        }
        Ok(())
    })
}
