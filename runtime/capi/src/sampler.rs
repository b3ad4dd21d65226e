//! From logits to tokens.

use std::sync::{Arc, Mutex};

use jamba_runtime::{Sampler, SamplerOptions};

use crate::arguments::{Versioned, options, place, slice, store_defaults};
use crate::engine::jamba_engine;
use crate::handles::{self, Object, invalid, lock, with_engine};
use crate::status::{Failure, entry, jamba_status};

/// A token, and what is added to its logit.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_logit_bias {
    /// The token.
    pub token: u32,
    /// What is added; negative infinity forbids the token.
    pub bias: f32,
}

/// How tokens are picked. jamba_sampler_options_init sets all to what they are by default: greedy.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_sampler_options {
    /// Bytes of this struct: set by jamba_sampler_options_init.
    pub size: usize,
    /// Logits are divided by it; 0 picks the largest.
    pub temperature: f32,
    /// Only the likeliest tokens that together reach this probability are drawn from; 1 for all.
    pub top_p: f32,
    /// Only tokens with at least this share of the likeliest one's probability are drawn from; 0 for all.
    pub min_p: f32,
    /// Logits of tokens that occurred are divided by it when positive, else multiplied; 1 for none.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens that were picked, however often; 0 for none.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens that were picked, once for each time; 0 for none.
    pub frequency_penalty: f32,
    /// Only the k largest logits are drawn from; 0 for all.
    pub top_k: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// Biases; may be null where there are none.
    pub logit_bias: *const jamba_logit_bias,
    /// Number of biases.
    pub n_logit_bias: usize,
}

// SAFETY: it begins with its size; numbers and a pointer, which is not followed before it is checked.
unsafe impl Versioned for jamba_sampler_options {
    const FIRST: usize = size_of::<jamba_sampler_options>();

    fn defaults() -> Self {
        let greedy = SamplerOptions::GREEDY;
        jamba_sampler_options {
            size: size_of::<Self>(),
            temperature: greedy.temperature,
            top_p: greedy.top_p,
            min_p: greedy.min_p,
            repetition_penalty: greedy.repetition_penalty,
            presence_penalty: greedy.presence_penalty,
            frequency_penalty: greedy.frequency_penalty,
            top_k: greedy.top_k,
            seed: greedy.seed,
            logit_bias: std::ptr::null(),
            n_logit_bias: 0,
        }
    }
}

/// The options as the runtime knows them; greedy for null.
///
/// # Safety
/// `raw` is the caller's pointer.
pub(crate) unsafe fn sampler_options(raw: *const jamba_sampler_options) -> Result<SamplerOptions, Failure> {
    // SAFETY: the caller's word is the same.
    let given = unsafe { options("sampler options", raw) }?;
    // SAFETY: as above.
    let biases = unsafe { slice("logit_bias", given.logit_bias, given.n_logit_bias) }?;
    Ok(SamplerOptions {
        temperature: given.temperature,
        top_k: given.top_k,
        top_p: given.top_p,
        min_p: given.min_p,
        repetition_penalty: given.repetition_penalty,
        presence_penalty: given.presence_penalty,
        frequency_penalty: given.frequency_penalty,
        logit_bias: biases.iter().map(|bias| (bias.token, bias.bias)).collect(),
        seed: given.seed,
    })
}

/// Sets options to their defaults; `size` is sizeof(jamba_sampler_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_sampler_options_init(options: *mut jamba_sampler_options, size: usize) -> jamba_status {
    // SAFETY: the caller's word.
    entry(|| unsafe { store_defaults(options, size) })
}

/// Picks the tokens of one sequence. Not bound to an engine's life.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_sampler {
    /// 0 is no sampler.
    pub id: u64,
}

fn find(id: u64) -> Result<Arc<Mutex<Sampler>>, Failure> {
    match handles::get(id) {
        Some(Object::Sampler(sampler)) => Ok(sampler),
        _ => Err(invalid("sampler")),
    }
}

/// Makes a sampler for an engine's vocabulary. `options` may be null: greedy.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_sampler_open(
    engine: jamba_engine,
    options: *const jamba_sampler_options,
    sampler: *mut jamba_sampler,
) -> jamba_status {
    entry(|| {
        // SAFETY: the caller's word.
        let (options, out) = unsafe { (sampler_options(options)?, place("sampler", sampler)?) };
        *out = jamba_sampler { id: 0 };
        let vocab = with_engine(engine.id, |inner| Ok(inner.engine.manifest().model.vocab))?;
        let made = Sampler::new(options, vocab as usize)?;
        out.id = handles::insert(Object::Sampler(Arc::new(Mutex::new(made))));
        Ok(())
    })
}

/// Notes tokens that occurred before, for the repetition penalty: the prompt's. Picked tokens are noted anyway.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_sampler_observe(
    sampler: jamba_sampler,
    tokens: *const u32,
    n_tokens: usize,
) -> jamba_status {
    entry(|| {
        // SAFETY: the caller's word.
        let tokens = unsafe { slice("tokens", tokens, n_tokens) }?;
        let sampler = find(sampler.id)?;
        lock("sampler", &sampler)?.observe(tokens);
        Ok(())
    })
}

/// Picks the next token from a row of `vocab` logits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_sampler_pick(
    sampler: jamba_sampler,
    logits: *const f32,
    vocab: usize,
    token: *mut u32,
) -> jamba_status {
    entry(|| {
        // SAFETY: the caller's word.
        let (logits, out) = unsafe { (slice("logits", logits, vocab)?, place("token", token)?) };
        let sampler = find(sampler.id)?;
        *out = lock("sampler", &sampler)?.pick(logits)?;
        Ok(())
    })
}

/// Closes a sampler.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_sampler_close(sampler: jamba_sampler) -> jamba_status {
    entry(|| {
        let found = find(sampler.id)?;
        handles::close("sampler", sampler.id, &found, |_| ())
    })
}
