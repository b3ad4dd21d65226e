//! Generation from a prompt with a callback per token.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ops::ControlFlow;

use jamba_runtime::{Finish, GenerateOptions, NewToken};

#[cfg(feature = "constrain")]
use crate::arguments::string;
use crate::arguments::{self, Versioned, place, slice, store_defaults, store_options};
use crate::engine::{jamba_engine, jamba_sequence};
use crate::handles::{self, invalid, lock, with_engine};
use crate::sampler::{jamba_sampler_options, sampler_options};
use crate::status::{Failure, entry, jamba_status};

/// A token and the natural logarithm of its probability.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_logprob {
    /// The token.
    pub token: u32,
    /// Log softmax of the model's logits, before any sampler option.
    pub logprob: f32,
}

/// The value of jamba_token.token for text without a token.
pub const JAMBA_NO_TOKEN: u32 = u32::MAX;

/// The argument of the callback, valid during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_token {
    /// The token; JAMBA_NO_TOKEN in a last call with held back text.
    pub token: u32,
    /// Its log probability, if requested.
    pub logprob: f32,
    /// The text that became final, zero-terminated UTF-8: whole characters, no part of a stop string.
    pub text: *const c_char,
    /// Size of the text in bytes.
    pub text_length: usize,
    /// The most likely tokens, most likely first.
    pub top: *const jamba_logprob,
    /// Number of entries of `top`.
    pub n_top: usize,
}

/// Called with each token; a nonzero result ends the answer. Calls on the same engine return JAMBA_BUSY meanwhile. It must
/// return normally: no longjmp and no C++ exception may leave it.
pub type jamba_on_token = Option<unsafe extern "C" fn(user: *mut c_void, token: *const jamba_token) -> c_int>;

/// Kinds of constraints on the text of an answer.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "constrain"), allow(dead_code, reason = "C's names stay the same"))]
pub enum jamba_constraint {
    /// No constraint.
    JAMBA_CONSTRAINT_NONE = 0,
    /// JSON that satisfies a JSON schema.
    JAMBA_CONSTRAINT_JSON_SCHEMA = 1,
    /// A match of a regular expression.
    JAMBA_CONSTRAINT_REGEX = 2,
    /// Text of a grammar, in llguidance's variant of Lark.
    JAMBA_CONSTRAINT_LARK = 3,
}

/// The special tokens that are part of a text.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum jamba_special_tokens {
    /// Those that the chat template writes around tool calls and reasoning, such as <tool_calls> and <think>.
    JAMBA_SPECIAL_TOKENS_MARKS = 0,
    /// All.
    JAMBA_SPECIAL_TOKENS_ALL = 1,
    /// None.
    JAMBA_SPECIAL_TOKENS_HIDDEN = 2,
}

/// The reason why generation ended.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum jamba_finish {
    /// The model produced an end token.
    JAMBA_FINISH_EOS = 0,
    /// The maximum number of new tokens was reached.
    JAMBA_FINISH_LENGTH = 1,
    /// The context or the KV pool is full.
    JAMBA_FINISH_NO_ROOM = 2,
    /// A stop string or stop token occurred, or the callback stopped it.
    JAMBA_FINISH_STOPPED = 3,
    /// jamba_cancel was called.
    JAMBA_FINISH_CANCELLED = 4,
    /// The text satisfies the constraint and no token may follow.
    JAMBA_FINISH_COMPLETE = 5,
    /// The time of a request is over. Only in a batch.
    JAMBA_FINISH_DEADLINE = 6,
    /// The request failed; the event has the message. Only in a batch, whose other requests continue.
    JAMBA_FINISH_FAILED = 7,
    /// The answer has not ended. Only in events of a batch.
    JAMBA_FINISH_NONE = -1,
}

/// Options for generation. jamba_generate_options_init sets the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_generate_options {
    /// Size of this struct in bytes, set by jamba_generate_options_init.
    pub size: usize,
    /// Maximum number of new tokens; 256 by default.
    pub max_new: usize,
    /// Sampler options; null for greedy.
    pub sampler: *const jamba_sampler_options,
    /// Tokens that end the answer; may be null if there are none.
    pub stop_tokens: *const u32,
    /// Number of entries of `stop_tokens`.
    pub n_stop_tokens: usize,
    /// Stop strings: they end the answer and are not part of it; may be null if there are none.
    pub stop: *const *const c_char,
    /// Number of entries of `stop`.
    pub n_stop: usize,
    /// Kind of constraint, a jamba_constraint.
    pub constraint: i32,
    /// Nonzero: continue after end tokens.
    pub ignore_eos: c_int,
    /// The schema, regular expression or grammar.
    pub constraint_text: *const c_char,
    /// Number of most likely tokens to report per token; -1, the default, for no log probabilities.
    pub logprobs: i32,
    /// Nonzero: produce no text.
    pub tokens_only: c_int,
    /// Special tokens of the text, a jamba_special_tokens. Those that a stop string contains are part of it too.
    pub special_tokens: i32,
    /// Minimum number of new tokens, before which nothing ends the answer.
    pub min_new: usize,
    /// The only tokens that may be picked; null for all.
    pub allowed_tokens: *const u32,
    /// Number of entries of `allowed_tokens`.
    pub n_allowed_tokens: usize,
    /// Nonzero: the stop string that ended the answer is the end of its text.
    pub include_stop: c_int,
}

// SAFETY: the struct starts with its size, and any bytes are valid numbers and raw pointers.
unsafe impl Versioned for jamba_generate_options {
    const FIRST: usize = std::mem::offset_of!(jamba_generate_options, special_tokens);

    fn defaults() -> Self {
        jamba_generate_options {
            size: size_of::<Self>(),
            max_new: GenerateOptions::MAX_NEW,
            sampler: std::ptr::null(),
            stop_tokens: std::ptr::null(),
            n_stop_tokens: 0,
            stop: std::ptr::null(),
            n_stop: 0,
            constraint: 0,
            ignore_eos: 0,
            constraint_text: std::ptr::null(),
            logprobs: -1,
            tokens_only: 0,
            special_tokens: 0,
            min_new: 0,
            allowed_tokens: std::ptr::null(),
            n_allowed_tokens: 0,
            include_stop: 0,
        }
    }
}

/// The result of a generation.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_generated {
    /// Number of new tokens.
    pub n_tokens: usize,
    /// The reason why it ended, a jamba_finish.
    pub finish: i32,
    /// Time of the prompt, in seconds.
    pub prefill_seconds: f64,
    /// Time after the prompt without the callback's, in seconds.
    pub decode_seconds: f64,
    /// Number of decode steps.
    pub decode_steps: usize,
}

/// Sets options to their defaults; `size` is sizeof(jamba_generate_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_generate_options_init(
    options: *mut jamba_generate_options,
    size: usize,
) -> jamba_status {
    // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
    entry(|| unsafe { store_defaults(options, size) })
}

/// Sets options to the defaults of the model: `max_new` from the `max_new_tokens` of generation_config.json, or 256, and the
/// rest as jamba_generate_options_init does. jamba_sampler_options_of_model sets the sampler's. `size` is
/// sizeof(jamba_generate_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_generate_options_of_model(
    engine: jamba_engine,
    options: *mut jamba_generate_options,
    size: usize,
) -> jamba_status {
    entry(|| {
        let max_new = with_engine(engine.id, |inner| Ok(inner.engine.generate_options().max_new))?;
        let defaults = jamba_generate_options { max_new, ..jamba_generate_options::defaults() };
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        unsafe { store_options(&defaults, options, size) }
    })
}

/// Converts the options to those of the runtime.
///
/// # Safety
/// Pointers in `given` are null or valid during the call, as jamba.h requires of C callers.
pub(crate) unsafe fn generate_options(given: &jamba_generate_options) -> Result<GenerateOptions, Failure> {
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    let stop_tokens = unsafe { slice("stop_tokens", given.stop_tokens, given.n_stop_tokens) }?;
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    let stop = unsafe { slice("stop", given.stop, given.n_stop) }?;
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    let allowed = unsafe { slice("allowed_tokens", given.allowed_tokens, given.n_allowed_tokens) }?;
    let mut options = GenerateOptions {
        max_new: given.max_new,
        min_new: given.min_new,
        allowed_tokens: (!given.allowed_tokens.is_null()).then(|| allowed.to_vec()),
        // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
        sampler: unsafe { sampler_options(given.sampler) }?,
        ignore_eos: given.ignore_eos != 0,
        stop_tokens: stop_tokens.to_vec(),
        logprobs: usize::try_from(given.logprobs).ok(),
        ..GenerateOptions::default()
    };
    #[cfg(feature = "tokenizer")]
    {
        options.tokens_only = given.tokens_only != 0;
        options.include_stop = given.include_stop != 0;
        options.special_tokens = crate::text::special_tokens(given.special_tokens)?;
        for &text in stop {
            // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
            options.stop.push(unsafe { crate::arguments::string("a stop string", text) }?.to_owned());
        }
    }
    #[cfg(not(feature = "tokenizer"))]
    if !stop.is_empty() {
        return Err(crate::text::unsupported("stop strings"));
    }
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    unsafe { add_constraint(&mut options, given) }?;
    Ok(options)
}

/// Adds the constraint.
///
/// # Safety
/// Pointers in `given` are null or valid during the call, as jamba.h requires of C callers.
#[cfg(feature = "constrain")]
unsafe fn add_constraint(options: &mut GenerateOptions, given: &jamba_generate_options) -> Result<(), Failure> {
    use jamba_runtime::Constraint;

    const NONE: i32 = jamba_constraint::JAMBA_CONSTRAINT_NONE as i32;
    const JSON_SCHEMA: i32 = jamba_constraint::JAMBA_CONSTRAINT_JSON_SCHEMA as i32;
    const REGEX: i32 = jamba_constraint::JAMBA_CONSTRAINT_REGEX as i32;
    const LARK: i32 = jamba_constraint::JAMBA_CONSTRAINT_LARK as i32;
    if given.constraint == NONE {
        return Ok(());
    }
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    let text = unsafe { string("constraint_text", given.constraint_text) }?;
    options.constraint = Some(match given.constraint {
        JSON_SCHEMA => Constraint::JsonSchema(
            serde_json::from_str(text).map_err(|error| Failure::argument(format!("JSON schema: {error}")))?,
        ),
        REGEX => Constraint::Regex(text.to_owned()),
        LARK => Constraint::Lark(text.to_owned()),
        other => return Err(Failure::argument(format!("constraint is {other}, expected a jamba_constraint"))),
    });
    Ok(())
}

/// Rejects constraints.
///
/// # Safety
/// Dereferences no pointer. `unsafe` only matches the signature with the feature `constrain`.
#[cfg(not(feature = "constrain"))]
unsafe fn add_constraint(_options: &mut GenerateOptions, given: &jamba_generate_options) -> Result<(), Failure> {
    match given.constraint == jamba_constraint::JAMBA_CONSTRAINT_NONE as i32 {
        true => Ok(()),
        false => Err(crate::text::unsupported("constraints")),
    }
}

/// The reason for C.
pub(crate) fn finish_of(finish: Finish) -> jamba_finish {
    match finish {
        Finish::Eos => jamba_finish::JAMBA_FINISH_EOS,
        Finish::Length => jamba_finish::JAMBA_FINISH_LENGTH,
        Finish::NoRoom => jamba_finish::JAMBA_FINISH_NO_ROOM,
        Finish::Stopped => jamba_finish::JAMBA_FINISH_STOPPED,
        Finish::Cancelled => jamba_finish::JAMBA_FINISH_CANCELLED,
        Finish::Complete => jamba_finish::JAMBA_FINISH_COMPLETE,
        Finish::Deadline => jamba_finish::JAMBA_FINISH_DEADLINE,
        Finish::Failed => jamba_finish::JAMBA_FINISH_FAILED,
    }
}

/// Calls the callback with a token.
fn tell(on_token: jamba_on_token, user: *mut c_void, token: NewToken) -> ControlFlow<()> {
    let Some(on_token) = on_token else { return ControlFlow::Continue(()) };
    let text_length = token.text.len();
    let text = CString::new(token.text.replace('\0', "\u{fffd}")).unwrap_or_default();
    let top: Vec<jamba_logprob> = token.top.iter().map(|&(token, logprob)| jamba_logprob { token, logprob }).collect();
    let argument = jamba_token {
        token: token.token,
        logprob: token.logprob.unwrap_or(0.0),
        text: text.as_ptr(),
        text_length: text_length.max(text.as_bytes().len()),
        top: top.as_ptr(),
        n_top: top.len(),
    };
    // SAFETY: `on_token` is a function pointer from C with this signature (contract of jamba.h); `argument` and all that it
    // points to live until it returns.
    let stop = unsafe { on_token(user, &raw const argument) };
    if stop == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

/// Generates from a prompt of `n_prompt` tokens, in `sequence`, which can be continued afterwards (the last new token is not
/// yet part of it), or in a temporary sequence if that is 0. `options`, `on_token` and `generated` may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_generate(
    engine: jamba_engine,
    sequence: jamba_sequence,
    prompt: *const u32,
    n_prompt: usize,
    options: *const jamba_generate_options,
    on_token: jamba_on_token,
    user: *mut c_void,
    generated: *mut jamba_generated,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let mut options = unsafe { generate_options(&crate::arguments::options("generate options", options)?) }?;
        let open = handles::engine(engine.id)?;
        options.cancel = open.cancel.clone();
        let mut held = lock("engine", &open.inner)?;
        let inner = held.as_mut().ok_or_else(|| invalid("engine"))?;
        let max_context = inner.engine.manifest().limits.max_context;
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let prompt = unsafe { arguments::tokens("prompt", prompt, n_prompt, max_context) }?;
        let on = |token| tell(on_token, user, token);
        let made = match sequence.id {
            0 => inner.engine.generate(prompt, &options, on)?,
            id => inner.engine.generate_in(inner.sequence(id)?, prompt, &options, on)?,
        };
        if !made.rest.is_empty() {
            let rest = NewToken { token: JAMBA_NO_TOKEN, text: made.rest, logprob: None, top: Vec::new() };
            let _ = tell(on_token, user, rest);
        }
        if !generated.is_null() {
            // SAFETY: not null (checked); the caller guarantees the rest, see `# Safety`.
            *unsafe { place("generated", generated) }? = jamba_generated {
                n_tokens: made.tokens.len(),
                finish: finish_of(made.finish) as i32,
                prefill_seconds: made.prefill.as_secs_f64(),
                decode_seconds: made.decode.as_secs_f64(),
                decode_steps: made.decode_steps,
            };
        }
        Ok(())
    })
}
