//! From a prompt to the end of the answer, told token by token.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ops::ControlFlow;

use jamba_runtime::{Finish, GenerateOptions, NewToken};

#[cfg(feature = "constrain")]
use crate::arguments::string;
use crate::arguments::{Versioned, place, slice, store_defaults};
use crate::engine::{jamba_engine, jamba_sequence};
use crate::handles::{self, invalid, lock};
use crate::sampler::{jamba_sampler_options, sampler_options};
use crate::status::{Failure, entry, jamba_status};

/// A token and the natural logarithm of its probability.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_logprob {
    /// The token.
    pub token: u32,
    /// Of the softmax of the logits as the model gave them, before whatever changes what is picked.
    pub logprob: f32,
}

/// Stands for a token where text comes without one.
pub const JAMBA_NO_TOKEN: u32 = u32::MAX;

/// What jamba_generate tells of. Valid during the callback.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_token {
    /// The token; JAMBA_NO_TOKEN in the last call, where text was held back until it was known that no more comes.
    pub token: u32,
    /// Its logprob, where logprobs were asked for.
    pub logprob: f32,
    /// The text that is certain now, in UTF-8, with a zero behind it: whole characters, no part of a stop string.
    pub text: *const c_char,
    /// Bytes of the text.
    pub text_length: usize,
    /// The likeliest tokens in its place, likeliest first.
    pub top: *const jamba_logprob,
    /// Number of those.
    pub n_top: usize,
}

/// Hears of each token; nonzero ends the answer. Calls on the same engine are refused with JAMBA_BUSY meanwhile. It must
/// return: no longjmp and no C++ exception may leave it.
pub type jamba_on_token = Option<unsafe extern "C" fn(user: *mut c_void, token: *const jamba_token) -> c_int>;

/// What the text of an answer has to be.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "constrain"), allow(dead_code, reason = "C's names stay the same"))]
pub enum jamba_constraint {
    /// Anything.
    JAMBA_CONSTRAINT_NONE = 0,
    /// JSON that satisfies a JSON schema.
    JAMBA_CONSTRAINT_JSON_SCHEMA = 1,
    /// A match of a regular expression.
    JAMBA_CONSTRAINT_REGEX = 2,
    /// A text of a grammar, in llguidance's variant of Lark.
    JAMBA_CONSTRAINT_LARK = 3,
}

/// Why generation ended.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum jamba_finish {
    /// The model ended the text.
    JAMBA_FINISH_EOS = 0,
    /// As many tokens as were asked for.
    JAMBA_FINISH_LENGTH = 1,
    /// The context or the KV pool is full.
    JAMBA_FINISH_NO_ROOM = 2,
    /// A stop string, a stop token, or the callback.
    JAMBA_FINISH_STOPPED = 3,
    /// jamba_cancel was called.
    JAMBA_FINISH_CANCELLED = 4,
    /// The text is what the constraint asks for, and nothing may follow it.
    JAMBA_FINISH_COMPLETE = 5,
}

/// How to generate. jamba_generate_options_init sets all to what they are by default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_generate_options {
    /// Bytes of this struct: set by jamba_generate_options_init.
    pub size: usize,
    /// Most tokens to generate; 256 by default.
    pub max_new: usize,
    /// How they are picked; null for greedy.
    pub sampler: *const jamba_sampler_options,
    /// Tokens that end the answer; may be null where there are none.
    pub stop_tokens: *const u32,
    /// Number of those.
    pub n_stop_tokens: usize,
    /// Texts that end the answer and are no part of it; may be null where there are none.
    pub stop: *const *const c_char,
    /// Number of those.
    pub n_stop: usize,
    /// What the text has to be: a jamba_constraint.
    pub constraint: i32,
    /// Nonzero: go on after a token that ends a text.
    pub ignore_eos: c_int,
    /// The schema, expression or grammar.
    pub constraint_text: *const c_char,
    /// How many of the likeliest tokens to tell in each one's place; -1 for no probabilities at all, the default.
    pub logprobs: i32,
    /// Nonzero: make no text of the tokens.
    pub tokens_only: c_int,
}

// SAFETY: it begins with its size; numbers and pointers, which are not followed before they are checked.
unsafe impl Versioned for jamba_generate_options {
    const FIRST: usize = size_of::<jamba_generate_options>();

    fn defaults() -> Self {
        jamba_generate_options {
            size: size_of::<Self>(),
            max_new: 256,
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
        }
    }
}

/// What was generated, and how long it took.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_generated {
    /// Number of new tokens.
    pub n_tokens: usize,
    /// Why there are no more: a jamba_finish.
    pub finish: i32,
    /// Time of the prompt, in seconds.
    pub prefill_seconds: f64,
    /// Time of everything after that but the callback's, in seconds.
    pub decode_seconds: f64,
    /// Steps that this took.
    pub decode_steps: usize,
}

/// Sets options to their defaults; `size` is sizeof(jamba_generate_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_generate_options_init(
    options: *mut jamba_generate_options,
    size: usize,
) -> jamba_status {
    // SAFETY: the caller's word.
    entry(|| unsafe { store_defaults(options, size) })
}

/// The options as the runtime knows them.
///
/// # Safety
/// The pointers in `given` are the caller's.
unsafe fn generate_options(given: &jamba_generate_options) -> Result<GenerateOptions, Failure> {
    // SAFETY: the caller's word is the same.
    let stop_tokens = unsafe { slice("stop_tokens", given.stop_tokens, given.n_stop_tokens) }?;
    // SAFETY: as above.
    let stop = unsafe { slice("stop", given.stop, given.n_stop) }?;
    let mut options = GenerateOptions {
        max_new: given.max_new,
        // SAFETY: as above.
        sampler: unsafe { sampler_options(given.sampler) }?,
        ignore_eos: given.ignore_eos != 0,
        stop_tokens: stop_tokens.to_vec(),
        logprobs: usize::try_from(given.logprobs).ok(),
        ..GenerateOptions::default()
    };
    #[cfg(feature = "tokenizer")]
    {
        options.tokens_only = given.tokens_only != 0;
        for &text in stop {
            // SAFETY: as above.
            options.stop.push(unsafe { crate::arguments::string("a stop string", text) }?.to_owned());
        }
    }
    #[cfg(not(feature = "tokenizer"))]
    if !stop.is_empty() {
        return Err(crate::text::unsupported("stop strings"));
    }
    // SAFETY: as above.
    unsafe { add_constraint(&mut options, given) }?;
    Ok(options)
}

/// Adds the constraint.
///
/// # Safety
/// The pointers in `given` are the caller's.
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
    // SAFETY: the caller's word is the same.
    let text = unsafe { string("constraint_text", given.constraint_text) }?;
    options.constraint = Some(match given.constraint {
        JSON_SCHEMA => Constraint::JsonSchema(
            serde_json::from_str(text).map_err(|error| Failure::argument(format!("JSON schema: {error}")))?,
        ),
        REGEX => Constraint::Regex(text.to_owned()),
        LARK => Constraint::Lark(text.to_owned()),
        other => return Err(Failure::argument(format!("constraint is {other}: it is no jamba_constraint"))),
    });
    Ok(())
}

/// Refuses constraints.
///
/// # Safety
/// None is needed.
#[cfg(not(feature = "constrain"))]
unsafe fn add_constraint(_options: &mut GenerateOptions, given: &jamba_generate_options) -> Result<(), Failure> {
    match given.constraint == jamba_constraint::JAMBA_CONSTRAINT_NONE as i32 {
        true => Ok(()),
        false => Err(crate::text::unsupported("constraints")),
    }
}

/// Tells C of a token.
fn tell(on_token: jamba_on_token, user: *mut c_void, token: NewToken) -> ControlFlow<()> {
    let Some(on_token) = on_token else { return ControlFlow::Continue(()) };
    let text_length = token.text.len();
    let text = CString::new(token.text.replace('\0', "\u{fffd}")).unwrap_or_default();
    let top: Vec<jamba_logprob> = token.top.iter().map(|&(token, logprob)| jamba_logprob { token, logprob }).collect();
    let told = jamba_token {
        token: token.token,
        logprob: token.logprob.unwrap_or(0.0),
        text: text.as_ptr(),
        text_length: text_length.max(text.as_bytes().len()),
        top: top.as_ptr(),
        n_top: top.len(),
    };
    // SAFETY: the caller gave the function for this, and what it is told lives until it returns.
    let stop = unsafe { on_token(user, &raw const told) };
    if stop == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

/// Generates from a prompt of `n_prompt` tokens. In `sequence`, which goes on afterwards (the last new token was not fed to
/// it), or in one of its own where that is 0. `options` may be null, and so may `on_token` and `generated`.
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
        // SAFETY: the caller's word.
        let prompt = unsafe { slice("prompt", prompt, n_prompt) }?;
        // SAFETY: as above.
        let mut options = unsafe { generate_options(&crate::arguments::options("generate options", options)?) }?;
        let open = handles::engine(engine.id)?;
        options.cancel = open.cancel.clone();
        let mut held = lock("engine", &open.inner)?;
        let inner = held.as_mut().ok_or_else(|| invalid("engine"))?;
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
            let finish = match made.finish {
                Finish::Eos => jamba_finish::JAMBA_FINISH_EOS,
                Finish::Length => jamba_finish::JAMBA_FINISH_LENGTH,
                Finish::NoRoom => jamba_finish::JAMBA_FINISH_NO_ROOM,
                Finish::Stopped | Finish::Failed => jamba_finish::JAMBA_FINISH_STOPPED,
                Finish::Cancelled => jamba_finish::JAMBA_FINISH_CANCELLED,
                Finish::Complete => jamba_finish::JAMBA_FINISH_COMPLETE,
            };
            // SAFETY: it is not null; the rest is the caller's word.
            *unsafe { place("generated", generated) }? = jamba_generated {
                n_tokens: made.tokens.len(),
                finish: finish as i32,
                prefill_seconds: made.prefill.as_secs_f64(),
                decode_seconds: made.decode.as_secs_f64(),
                decode_steps: made.decode_steps,
            };
        }
        Ok(())
    })
}
