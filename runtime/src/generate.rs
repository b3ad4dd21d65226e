//! One sequence from prompt to end.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::{Engine, Feed, Outputs, RuntimeError, Sampler, SamplerOptions, SequenceId};

/// How to generate.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Most tokens to generate.
    pub max_new: usize,
    /// How they are picked.
    pub sampler: SamplerOptions,
    /// Go on after a token that ends a text.
    pub ignore_eos: bool,
    /// Tokens of one prefill step; the plan's largest, unless given.
    pub chunk: Option<usize>,
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
    /// The caller wanted no more: it said so, or named the last token as one that ends the answer.
    Stopped,
    /// The logits were not numbers: a fault of ours. Only in a batch, whose other requests go on; else it is an error.
    NotFinite,
}

/// What was generated, and how long it took.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub finish: Finish,
    /// Time of the prompt, until the logits of its last token.
    pub prefill: Duration,
    /// Time of everything after that.
    pub decode: Duration,
    /// Steps that `decode` took: one less than there are tokens, unless the room ended.
    pub decode_steps: usize,
}

impl Engine {
    /// Generates from a prompt in a sequence of its own; `on_token` hears of each token and may stop.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        on_token: impl FnMut(u32) -> ControlFlow<()>,
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
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Generated, RuntimeError> {
        let vocab = self.manifest().model.vocab as usize;
        let eos = self.manifest().model.eos.clone();
        let mut sampler = Sampler::new(options.sampler, vocab)?;
        sampler.observe(self.tokens(sequence)?);
        sampler.observe(prompt);
        let mut tokens = Vec::with_capacity(options.max_new.min(1 << 20));
        let began = Instant::now();
        let logits = self.prefill(sequence, prompt, options.chunk)?;
        let prefill = began.elapsed();
        let began = Instant::now();
        let mut decode_steps = 0;
        let mut finish = Finish::Length;
        if options.max_new > 0 {
            let mut token = sampler.pick(logits.row(0))?;
            loop {
                tokens.push(token);
                let stopped = on_token(token).is_break();
                if !options.ignore_eos && eos.contains(&token) {
                    finish = Finish::Eos;
                    break;
                }
                if stopped {
                    finish = Finish::Stopped;
                    break;
                }
                if tokens.len() >= options.max_new {
                    break;
                }
                let logits = match self.step(&[Feed { sequence, tokens: &[token], outputs: Outputs::Last }]) {
                    Ok(logits) => logits,
                    Err(RuntimeError::ContextFull { .. } | RuntimeError::PoolExhausted { .. }) => {
                        finish = Finish::NoRoom;
                        break;
                    }
                    Err(error) => return Err(error),
                };
                decode_steps += 1;
                token = sampler.pick(logits.row(0))?;
            }
        }
        Ok(Generated { tokens, finish, prefill, decode: began.elapsed(), decode_steps })
    }
}
