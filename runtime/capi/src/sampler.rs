//! Samplers.

use std::ffi::c_int;
use std::sync::{Arc, Mutex};

use jamba_runtime::{Sampler, SamplerOptions};

use crate::arguments::{Versioned, options, place, slice, store_defaults, store_options};
use crate::engine::jamba_engine;
use crate::handles::{self, Object, invalid, lock, with_engine};
use crate::status::{Failure, entry, jamba_status};

/// A token and a value added to its logit.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_logit_bias {
    /// The token.
    pub token: u32,
    /// The value; negative infinity forbids the token.
    pub bias: f32,
}

/// Options of a sampler. jamba_sampler_options_init sets the defaults: greedy.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_sampler_options {
    /// Size of this struct in bytes, set by jamba_sampler_options_init.
    pub size: usize,
    /// Divides the logits; 0 always picks the largest.
    pub temperature: f32,
    /// Samples from the smallest set of most likely tokens with at least this total probability; 1 disables it.
    pub top_p: f32,
    /// Samples from tokens with at least this fraction of the largest probability; 0 disables it.
    pub min_p: f32,
    /// Divides positive logits, and multiplies negative ones, of tokens that occurred; 1 disables it.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of picked tokens; 0 disables it.
    pub presence_penalty: f32,
    /// Subtracted from the logits of picked tokens once per occurrence; 0 disables it.
    pub frequency_penalty: f32,
    /// Samples from the k largest logits only; 0 disables it.
    pub top_k: usize,
    /// Seed of the random generator.
    pub seed: u64,
    /// Biases; may be null if there are none.
    pub logit_bias: *const jamba_logit_bias,
    /// Number of biases.
    pub n_logit_bias: usize,
    /// Nonzero: draw with a random seed in place of `seed`. The events of a batch tell it.
    pub random_seed: c_int,
}

// SAFETY: the struct starts with its size, and any bytes are valid numbers and raw pointers.
unsafe impl Versioned for jamba_sampler_options {
    const FIRST: usize = std::mem::offset_of!(jamba_sampler_options, random_seed);

    fn defaults() -> Self {
        jamba_sampler_options::unbiased(&SamplerOptions::GREEDY)
    }
}

impl jamba_sampler_options {
    /// The options without biases.
    fn unbiased(options: &SamplerOptions) -> Self {
        jamba_sampler_options {
            size: size_of::<Self>(),
            temperature: options.temperature,
            top_p: options.top_p,
            min_p: options.min_p,
            repetition_penalty: options.repetition_penalty,
            presence_penalty: options.presence_penalty,
            frequency_penalty: options.frequency_penalty,
            top_k: options.top_k,
            seed: options.seed.unwrap_or(0),
            logit_bias: std::ptr::null(),
            n_logit_bias: 0,
            random_seed: 0,
        }
    }
}

/// Converts the options to those of the runtime; greedy for null.
///
/// # Safety
/// `raw`, and pointers in it, are null or valid during the call, as jamba.h requires of C callers.
pub(crate) unsafe fn sampler_options(raw: *const jamba_sampler_options) -> Result<SamplerOptions, Failure> {
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    let given = unsafe { options("sampler options", raw) }?;
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
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
        seed: (given.random_seed == 0).then_some(given.seed),
    })
}

/// Sets options to their defaults; `size` is sizeof(jamba_sampler_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_sampler_options_init(options: *mut jamba_sampler_options, size: usize) -> jamba_status {
    // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
    entry(|| unsafe { store_defaults(options, size) })
}

/// Sets options to the sampling defaults of the model, as `jamba run` uses them: the values of generation_config.json, or
/// temperature 0.8, top-k 40, top-p 0.95 and min-p 0.05 if it has none. `size` is sizeof(jamba_sampler_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_sampler_options_of_model(
    engine: jamba_engine,
    options: *mut jamba_sampler_options,
    size: usize,
) -> jamba_status {
    entry(|| {
        let defaults = with_engine(engine.id, |inner| Ok(inner.engine.sampler_options()))?;
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        unsafe { store_options(&jamba_sampler_options::unbiased(&defaults), options, size) }
    })
}

/// Picks the tokens of one sequence. It may outlive its engine.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_sampler {
    /// 0 means no sampler.
    pub id: u64,
}

fn find(id: u64) -> Result<Arc<Mutex<Sampler>>, Failure> {
    match handles::get(id) {
        Some(Object::Sampler(sampler)) => Ok(sampler),
        _ => Err(invalid("sampler")),
    }
}

/// Creates a sampler for an engine's vocabulary. `options` may be null for greedy.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_sampler_open(
    engine: jamba_engine,
    options: *const jamba_sampler_options,
    sampler: *mut jamba_sampler,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let (options, out) = unsafe { (sampler_options(options)?, place("sampler", sampler)?) };
        *out = jamba_sampler { id: 0 };
        let vocab = with_engine(engine.id, |inner| Ok(inner.engine.manifest().model.vocab))?;
        let made = Sampler::new(options, vocab as usize)?;
        out.id = handles::insert(Object::Sampler(Arc::new(Mutex::new(made))));
        Ok(())
    })
}

/// Records tokens of the prompt, for the repetition penalty. Picked tokens are recorded automatically.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_sampler_observe(
    sampler: jamba_sampler,
    tokens: *const u32,
    n_tokens: usize,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
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
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
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
