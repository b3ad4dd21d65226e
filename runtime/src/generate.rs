//! One sequence from prompt to end: by a callback, or as an iterator.

mod picker;
mod stream;
#[cfg(feature = "tokenizer")]
mod text;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

pub use picker::NewToken;
pub(crate) use picker::Picker;
pub use stream::{Stream, StreamEvent};

#[cfg(feature = "constrain")]
use crate::Constraint;
use crate::session::Origin;
use crate::{Cancel, Engine, Feed, Outputs, RuntimeError, Sampler, SamplerOptions, SequenceId};

/// How to generate. The default is greedy and generates nothing: `max_new` is 0.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Most tokens to generate.
    pub max_new: usize,
    /// How they are picked.
    pub sampler: SamplerOptions,
    /// Go on after a token that ends a text.
    pub ignore_eos: bool,
    /// Tokens of one prefill step; the plan's largest, unless given. A batch shares its steps otherwise.
    pub chunk: Option<usize>,
    /// Tokens that end the answer; the one that does so is its last and no part of its text.
    pub stop_tokens: Vec<u32>,
    /// Texts that end the answer and are no part of its text, whether or not they begin or end with a token.
    #[cfg(feature = "tokenizer")]
    pub stop: Vec<String>,
    /// Make no text of the tokens; the tokenizer is not even read.
    #[cfg(feature = "tokenizer")]
    pub tokens_only: bool,
    /// Tell the probability of each token, and that many of the likeliest in its place.
    pub logprobs: Option<usize>,
    /// What the text has to be.
    #[cfg(feature = "constrain")]
    pub constraint: Option<Constraint>,
    /// Ends the answer from elsewhere.
    pub cancel: Cancel,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended the text; the token that does so is the last one.
    Eos,
    /// As many tokens as were asked for.
    Length,
    /// The context or the KV pool is full.
    NoRoom,
    /// The caller wanted no more: it said so, or named the last token or its text as one that ends the answer.
    Stopped,
    /// [`Cancel::cancel`] was called. During the prompt, the sequence has read it up to some chunk.
    Cancelled,
    /// The text is what the constraint asks for, and nothing may follow it.
    Complete,
    /// The request cannot go on, and [`Event::error`](crate::Event::error) says why. Only in a batch, whose other requests
    /// go on; else it is an error.
    Failed,
}

impl Finish {
    /// Its name in reports: `no_room`.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Eos => "eos",
            Finish::Length => "length",
            Finish::NoRoom => "no_room",
            Finish::Stopped => "stopped",
            Finish::Cancelled => "cancelled",
            Finish::Complete => "complete",
            Finish::Failed => "failed",
        }
    }
}

/// What was generated, and how long it took.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// Their text; empty where the plan has no tokenizer.
    pub text: String,
    /// The end of `text`, which no token's [`NewToken::text`] told: held back until it was known that no more comes.
    pub rest: String,
    /// Why there are no more.
    pub finish: Finish,
    /// Time of the prompt, until the logits of its last token, or the token that a GPU picked from them.
    pub prefill: Duration,
    /// Time of everything after that but what the caller spent between two tokens.
    pub decode: Duration,
    /// Steps that `decode` took: one less than there are tokens, unless the room ended.
    pub decode_steps: usize,
}

impl Engine {
    /// Generates from a prompt in a sequence of its own; `on_token` hears of each token and may stop.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    ///
    /// use jamba_runtime::{Engine, GenerateOptions, OpenOptions};
    ///
    /// let mut engine = Engine::open("examples/toy.plan".as_ref(), OpenOptions::default())?;
    /// let prompt = engine.tokenizer()?.encode("Once upon a time")?;
    /// let options = GenerateOptions { max_new: 20, ..GenerateOptions::default() };
    /// let mut told = String::new();
    /// let generated = engine.generate(&prompt, &options, |token| {
    ///     told += &token.text;
    ///     ControlFlow::Continue(())
    /// })?;
    /// assert_eq!(told + &generated.rest, generated.text);
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

    /// Generates in a sequence that goes on afterwards: a chat. The last new token was not fed to it yet.
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

/// An answer under way.
struct Generation {
    sequence: SequenceId,
    /// What the sequence reads next: the prompt, then the token that was picked last.
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
        let GenerateOptions { max_new, chunk, cancel, .. } = &options;
        let (max_new, chunk, cancel) = (*max_new, *chunk, cancel.clone());
        let picker = Picker::new(engine, &options)?;
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

    /// The next token; None where there are no more.
    fn next(&mut self, engine: &mut Engine) -> Result<Option<NewToken>, RuntimeError> {
        if self.finish.is_some() {
            return Ok(None);
        }
        let began = Instant::now();
        let is_prompt = self.decode_steps == 0 && self.tokens.is_empty();
        let feed = Feed { sequence: self.sequence, tokens: &self.next, outputs: Outputs::Last };
        let settings = [self.picker.setting(&self.sampler)];
        let admitted = if is_prompt {
            let admitted = engine.run_chunks_unless(&|| self.cancel.is_cancelled(), feed, self.chunk, &settings)?;
            self.prefill = began.elapsed();
            admitted
        } else if self.cancel.is_cancelled() {
            None
        } else {
            match engine.run(&[feed], Origin::Any, &settings) {
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

    /// The caller wants no more.
    fn stop(&mut self) {
        if matches!(self.finish, None | Some(Finish::Length)) {
            self.finish = Some(Finish::Stopped);
        }
    }

    /// What was generated.
    fn finish(self) -> Result<Generated, RuntimeError> {
        let (text, rest) = self.picker.finish()?;
        Ok(Generated {
            tokens: self.tokens,
            text,
            rest,
            finish: self.finish.unwrap_or(Finish::Stopped),
            prefill: self.prefill,
            decode: self.decode,
            decode_steps: self.decode_steps,
        })
    }
}
