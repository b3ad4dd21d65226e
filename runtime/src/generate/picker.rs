//! Picks the next token of an answer: constraint, log probabilities, text, and the end of the answer.

use jamba_plan::format::Setting;

use crate::device::Row;
use crate::{Engine, Finish, GenerateOptions, RuntimeError, Sampler, sample};

#[cfg(feature = "tokenizer")]
use super::text::AnswerText;
#[cfg(feature = "constrain")]
use crate::text::constrain::Matching;

/// A new token.
#[derive(Clone, Debug, PartialEq)]
pub struct NewToken {
    /// The token.
    pub token: u32,
    /// The text that became final with this token: often a word, sometimes empty. It contains whole characters and no part of
    /// a stop string. Empty without a tokenizer.
    pub text: String,
    /// Natural logarithm of the token's probability, if requested: the log softmax of the model's logits, before biases,
    /// penalties, temperature and filters.
    pub logprob: Option<f32>,
    /// The most likely tokens and the logarithms of their probabilities, most likely first.
    pub top: Vec<(u32, f32)>,
}

/// Picks the tokens of one answer, with the sampler passed to each call.
pub(crate) struct Picker {
    /// End tokens; empty if they are ignored.
    eos: Vec<u32>,
    stop_tokens: Vec<u32>,
    /// Number of tokens that are still to be picked before one may end the answer.
    n_early: usize,
    /// By token: true if it may be picked.
    allowed: Option<Vec<bool>>,
    logprobs: Option<usize>,
    #[cfg(feature = "tokenizer")]
    text: Option<AnswerText>,
    #[cfg(feature = "constrain")]
    matching: Option<Matching>,
}

impl Picker {
    /// A picker for an answer to `before`: the tokens of the sequence, and the prompt.
    pub(crate) fn new(engine: &Engine, options: &GenerateOptions, before: [&[u32]; 2]) -> Result<Picker, RuntimeError> {
        let model = &engine.manifest().model;
        #[cfg(feature = "tokenizer")]
        let text = AnswerText::new(engine, options, before)?;
        #[cfg(not(feature = "tokenizer"))]
        let _ = before;
        #[cfg(feature = "constrain")]
        let matching = match (&options.compiled, &options.constraint) {
            (Some(compiled), _) => Some(Matching::of_compiled(engine, compiled)?),
            (None, Some(constraint)) => Some(Matching::new(engine, constraint, &options.cancel)?),
            (None, None) => None,
        };
        let eos = model.eos.as_slice();
        #[cfg(feature = "constrain")]
        let eos = matching.as_ref().map_or(eos, Matching::eos);
        let allowed = match &options.allowed_tokens {
            Some(tokens) => Some(allowed(tokens, model.vocab)?),
            None => None,
        };
        Ok(Picker {
            n_early: options.min_new,
            allowed,
            eos: if options.ignore_eos { Vec::new() } else { eos.to_vec() },
            stop_tokens: options.stop_tokens.clone(),
            logprobs: options.logprobs,
            #[cfg(feature = "tokenizer")]
            text,
            #[cfg(feature = "constrain")]
            matching,
        })
    }

    /// How a device may pick the next token; None if the host needs the logits for probabilities, a constraint or the
    /// sampler.
    pub(crate) fn setting(&self, sampler: &Sampler) -> Option<Setting> {
        #[cfg(feature = "constrain")]
        if self.matching.is_some() {
            return None;
        }
        if self.logprobs.is_some() || self.restricts() { None } else { sampler.setting() }
    }

    /// Picks the next token from the result of a step. Also returns the reason if it is the last one.
    pub(crate) fn pick(
        &mut self,
        sampler: &mut Sampler,
        row: Row<'_>,
    ) -> Result<(NewToken, Option<Finish>), RuntimeError> {
        let token = self.draw(sampler, row)?;
        let is_early = self.n_early > 0;
        self.n_early = self.n_early.saturating_sub(1);
        let (logprob, top) = match (self.logprobs, row) {
            (Some(n), Row::Logits(logits)) => (sample::logprob(logits, token), sample::top_logprobs(logits, n)),
            _ => (None, Vec::new()),
        };
        let finish = if self.eos.contains(&token) {
            Some(Finish::Eos)
        } else if self.stop_tokens.contains(&token) {
            Some(Finish::Stopped)
        } else {
            None
        };
        if finish.is_some() {
            return Ok((NewToken { token, text: String::new(), logprob, top }, finish));
        }
        let (text, is_stopped) = self.text_of(token, is_early)?;
        let is_complete = self.completes(token)?;
        let finish = is_stopped.then_some(Finish::Stopped).or(is_complete.then_some(Finish::Complete));
        Ok((NewToken { token, text, logprob, top }, finish))
    }

    /// The text that became final with a token, and true if a stop string was found.
    #[cfg(feature = "tokenizer")]
    fn text_of(&mut self, token: u32, is_early: bool) -> Result<(String, bool), RuntimeError> {
        match &mut self.text {
            Some(text) if is_early => Ok((text.push_early(token)?, false)),
            Some(text) => Ok((text.push(token)?, text.is_stopped())),
            None => Ok((String::new(), false)),
        }
    }

    #[cfg(not(feature = "tokenizer"))]
    fn text_of(&mut self, _token: u32, _is_early: bool) -> Result<(String, bool), RuntimeError> {
        Ok((String::new(), false))
    }

    /// Advances the constraint. Returns true if the text is complete and no token may follow.
    #[cfg(feature = "constrain")]
    fn completes(&mut self, token: u32) -> Result<bool, RuntimeError> {
        match &mut self.matching {
            Some(matching) => matching.take(token),
            None => Ok(false),
        }
    }

    #[cfg(not(feature = "constrain"))]
    fn completes(&mut self, _token: u32) -> Result<bool, RuntimeError> {
        Ok(false)
    }

    /// True if some tokens may not be picked now, besides those that the constraint forbids.
    fn restricts(&self) -> bool {
        self.allowed.is_some() || self.n_early > 0 && !(self.eos.is_empty() && self.stop_tokens.is_empty())
    }

    /// True if the options allow a token now.
    fn may_pick(&self, token: u32) -> bool {
        let ends = self.n_early > 0 && (self.eos.contains(&token) || self.stop_tokens.contains(&token));
        !ends && self.allowed.as_ref().is_none_or(|allowed| allowed.get(token as usize).is_some_and(|&allowed| allowed))
    }

    fn draw(&mut self, sampler: &mut Sampler, row: Row<'_>) -> Result<u32, RuntimeError> {
        let Row::Logits(logits) = row else { return sampler.pick_row(row) };
        #[cfg(feature = "constrain")]
        if let Some(mut matching) = self.matching.take() {
            let allowed = matching.allowed(!self.eos.is_empty());
            self.matching = Some(matching);
            let allowed = allowed?;
            return match sampler.pick_where(logits, |token| allowed.contains(token) && self.may_pick(token)) {
                // The text is complete before the answer may end.
                Err(RuntimeError::NoTokenAllowed) if self.n_early > 0 => {
                    self.n_early = 0;
                    sampler.pick_where(logits, |token| allowed.contains(token) && self.may_pick(token))
                }
                picked => picked,
            };
        }
        if self.restricts() {
            return sampler.pick_where(logits, |token| self.may_pick(token));
        }
        sampler.pick_row(row)
    }

    /// The whole text, and its held back end.
    pub(crate) fn finish(self) -> Result<(String, String), RuntimeError> {
        #[cfg(feature = "tokenizer")]
        if let Some(text) = self.text {
            return text.finish();
        }
        Ok((String::new(), String::new()))
    }
}

/// By token: true if it is in the list.
fn allowed(tokens: &[u32], vocab: u64) -> Result<Vec<bool>, RuntimeError> {
    let mut allowed = vec![false; vocab as usize];
    for &token in tokens {
        match allowed.get_mut(token as usize) {
            Some(allowed) => *allowed = true,
            None => return Err(RuntimeError::TokenOutOfRange { token, vocab }),
        }
    }
    Ok(allowed)
}
