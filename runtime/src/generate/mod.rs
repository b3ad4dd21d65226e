//! Generation for one sequence, with a callback or as an iterator.

mod defaults;
mod picker;
mod stream;
#[cfg(feature = "tokenizer")]
mod text;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

pub use picker::NewToken;
pub(crate) use picker::Picker;
pub use stream::{Stream, StreamEvent, Turn};

#[cfg(feature = "tokenizer")]
use crate::SpecialTokens;
use crate::sequence::session::Origin;
use crate::{Cancel, Engine, Feed, Outputs, RuntimeError, Sampler, SamplerOptions, SequenceId};
#[cfg(feature = "constrain")]
use crate::{CompiledConstraint, Constraint};

/// Options for generation. The default is greedy with `max_new` = 0, which generates nothing.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Maximum number of new tokens.
    pub max_new: usize,
    /// Minimum number of new tokens: before it no end token and no stop token is picked, and stop strings are text. A constraint
    /// that leaves nothing else may end the answer earlier.
    pub min_new: usize,
    /// Sampler options.
    pub sampler: SamplerOptions,
    /// The only tokens that may be picked; an answer ends only if end tokens are among them. None: all.
    pub allowed_tokens: Option<Vec<u32>>,
    /// Continues after end tokens.
    pub ignore_eos: bool,
    /// Maximum number of tokens per prefill step; by default that of the plan. Ignored by [`Batch`](crate::Batch).
    pub chunk: Option<usize>,
    /// Tokens that end the answer. The token is part of `tokens` but not of the text.
    pub stop_tokens: Vec<u32>,
    /// Stop strings: they end the answer and are not part of its text. They need not align with tokens, and may contain
    /// special tokens, such as `</tool_call>`.
    #[cfg(feature = "tokenizer")]
    pub stop: Vec<String>,
    /// Keeps the stop string that ended the answer as the end of its text.
    #[cfg(feature = "tokenizer")]
    pub include_stop: bool,
    /// Special tokens that are part of the text, besides those that a stop string contains.
    #[cfg(feature = "tokenizer")]
    pub special_tokens: SpecialTokens,
    /// Produces tokens without text and does not load the tokenizer.
    #[cfg(feature = "tokenizer")]
    pub tokens_only: bool,
    /// Reports the log probability of each token and of this many most likely tokens.
    pub logprobs: Option<usize>,
    /// Constraint on the text.
    #[cfg(feature = "constrain")]
    pub constraint: Option<Constraint>,
    /// A constraint that was compiled before, in place of `constraint`.
    #[cfg(feature = "constrain")]
    pub compiled: Option<CompiledConstraint>,
    /// Cancels the generation.
    pub cancel: Cancel,
}

/// The reason why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model produced an end token, which is the last token.
    Eos,
    /// The maximum number of new tokens was reached.
    Length,
    /// The context or the KV pool is full.
    NoRoom,
    /// The callback stopped it, or a stop token or stop string occurred.
    Stopped,
    /// [`Cancel::cancel`] was called. If that was during the prompt, the sequence has its first chunks.
    Cancelled,
    /// The text satisfies the constraint and no token may follow.
    Complete,
    /// The request's [`deadline`](crate::Request::deadline) has passed. Only in a batch.
    Deadline,
    /// The request failed with [`Event::error`](crate::Event::error). Only in a batch, whose other requests continue.
    Failed,
}

impl Finish {
    /// Name in reports, for example `no_room`.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Eos => "eos",
            Finish::Length => "length",
            Finish::NoRoom => "no_room",
            Finish::Stopped => "stopped",
            Finish::Cancelled => "cancelled",
            Finish::Complete => "complete",
            Finish::Deadline => "deadline",
            Finish::Failed => "failed",
        }
    }
}

/// The result of a generation.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// Their text; empty without a tokenizer.
    pub text: String,
    /// The end of `text` that was held back and is not part of any [`NewToken::text`].
    pub rest: String,
    /// The reason why it ended.
    pub finish: Finish,
    /// The seed of the draws: that of the options, or a random one.
    pub seed: u64,
    /// Time of the prompt, up to the logits of its last token or the token that the GPU picked.
    pub prefill: Duration,
    /// Time after the prompt, without the time spent in the caller between tokens.
    pub decode: Duration,
    /// Number of decode steps: one less than tokens, unless the context or the KV pool was full.
    pub decode_steps: usize,
}

impl Engine {
    /// Generates from a prompt in a temporary sequence. Calls `on_token` with each token; `Break` stops.
    ///
    /// # Errors
    /// Fails if the prompt or the options are invalid, or if there is no room for the prompt.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    ///
    /// use jamba_runtime::{Engine, GenerateOptions, OpenOptions};
    ///
    /// let mut engine = Engine::open("examples/toy.plan", OpenOptions::default())?;
    /// let prompt = engine.tokenizer()?.encode("Once upon a time")?;
    /// let options = GenerateOptions { max_new: 20, ..GenerateOptions::default() };
    /// let mut text = String::new();
    /// let generated = engine.generate(&prompt, &options, |token| {
    ///     text += &token.text;
    ///     ControlFlow::Continue(())
    /// })?;
    /// assert_eq!(text + &generated.rest, generated.text);
    /// # Ok::<(), jamba_runtime::RuntimeError>(())
    /// ```
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        on_token: impl FnMut(NewToken) -> ControlFlow<()>,
    ) -> Result<Generated, RuntimeError> {
        let sequence = self.add_sequence()?;
        let generated = self.generate_in(sequence, prompt, options, on_token);
        self.remove_sequence(sequence)?;
        generated
    }

    /// Generates in an existing sequence that can be continued, for example a chat. The last new token is not yet part of the
    /// sequence.
    pub fn generate_in(
        &mut self,
        sequence: SequenceId,
        prompt: &[u32],
        options: &GenerateOptions,
        mut on_token: impl FnMut(NewToken) -> ControlFlow<()>,
    ) -> Result<Generated, RuntimeError> {
        let mut generation = Generation::new(self, sequence, prompt.to_vec(), options.clone())?;
        while let Some(token) = generation.next(self)? {
            if on_token(token).is_break() {
                generation.stop();
            }
        }
        generation.finish()
    }
}

/// A generation in progress.
struct Generation {
    sequence: SequenceId,
    /// The next tokens to feed: the prompt, then the last picked token.
    next: Vec<u32>,
    max_new: usize,
    chunk: Option<usize>,
    cancel: Cancel,
    sampler: Sampler,
    picker: Picker,
    tokens: Vec<u32>,
    finish: Option<Finish>,
    prefill: Duration,
    decode: Duration,
    decode_steps: usize,
}

impl Generation {
    fn new(
        engine: &Engine,
        sequence: SequenceId,
        prompt: Vec<u32>,
        options: GenerateOptions,
    ) -> Result<Generation, RuntimeError> {
        engine.check_head()?;
        let GenerateOptions { max_new, chunk, cancel, .. } = &options;
        let (max_new, chunk, cancel) = (*max_new, *chunk, cancel.clone());
        let picker = Picker::new(engine, &options, [engine.tokens(sequence)?, &prompt])?;
        let mut sampler = Sampler::new(options.sampler, engine.manifest().model.vocab as usize)?;
        sampler.observe(engine.tokens(sequence)?);
        sampler.observe(&prompt);
        Ok(Generation {
            sequence,
            next: prompt,
            max_new,
            chunk,
            cancel,
            sampler,
            picker,
            tokens: Vec::with_capacity(max_new.min(1 << 20)),
            finish: None,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
            decode_steps: 0,
        })
    }

    /// The next token; None at the end.
    fn next(&mut self, engine: &mut Engine) -> Result<Option<NewToken>, RuntimeError> {
        if self.finish.is_some() {
            return Ok(None);
        }
        let began = Instant::now();
        let is_prompt = self.decode_steps == 0 && self.tokens.is_empty();
        let feed = Feed { sequence: self.sequence, tokens: &self.next, outputs: Outputs::Last };
        let settings = [self.picker.setting(&self.sampler)];
        let admitted = if is_prompt {
            let admitted = match engine.run_chunks(feed, self.chunk, Some(&self.cancel), &settings) {
                Ok(admitted) => Some(admitted),
                Err(RuntimeError::Cancelled) => None,
                Err(error) => return Err(error),
            };
            self.prefill = began.elapsed();
            admitted
        } else if self.cancel.is_cancelled() {
            None
        } else {
            match engine.run(std::iter::once(feed), Origin::Any, &settings) {
                Ok(admitted) => {
                    self.decode_steps += 1;
                    Some(admitted)
                }
                Err(RuntimeError::ContextFull { .. } | RuntimeError::PoolExhausted { .. }) => {
                    self.finish = Some(Finish::NoRoom);
                    self.decode += began.elapsed();
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        };
        let Some(row) = admitted.and_then(|admitted| engine.rows(admitted).next()) else {
            self.finish = Some(Finish::Cancelled);
            return Ok(None);
        };
        if self.max_new == 0 {
            self.finish = Some(Finish::Length);
            return Ok(None);
        }
        let (token, finish) = self.picker.pick(&mut self.sampler, row)?;
        self.tokens.push(token.token);
        self.next.clear();
        self.next.push(token.token);
        self.finish = finish.or((self.tokens.len() >= self.max_new).then_some(Finish::Length));
        self.decode += if is_prompt { began.elapsed() - self.prefill } else { began.elapsed() };
        Ok(Some(token))
    }

    /// Stops at the caller's request.
    fn stop(&mut self) {
        if matches!(self.finish, None | Some(Finish::Length)) {
            self.finish = Some(Finish::Stopped);
        }
    }

    /// The result.
    fn finish(self) -> Result<Generated, RuntimeError> {
        let (text, rest) = self.picker.finish()?;
        Ok(Generated {
            tokens: self.tokens,
            text,
            rest,
            seed: self.sampler.seed(),
            finish: self.finish.unwrap_or(Finish::Stopped),
            prefill: self.prefill,
            decode: self.decode,
            decode_steps: self.decode_steps,
        })
    }
}
