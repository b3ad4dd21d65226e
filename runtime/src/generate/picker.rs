//! The next token of an answer: what may be picked, how likely it was, what it says, and whether the answer ends there.

use jamba_plan::format::Setting;

use crate::device::Row;
use crate::{Engine, Finish, GenerateOptions, RuntimeError, Sampler, sample};

#[cfg(feature = "tokenizer")]
use super::text::AnswerText;
#[cfg(feature = "constrain")]
use crate::constrain::Matching;

/// One token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct NewToken {
    /// The token.
    pub token: u32,
    /// The text that is certain since it came, often a word, sometimes nothing: whole characters, and no part of a stop
    /// string. Empty where the plan has no tokenizer.
    pub text: String,
    /// Natural logarithm of its probability, where that was asked for: of the softmax of the logits as the model gave
    /// them, before bias, penalties, temperature and whatever else changes what is picked.
    pub logprob: Option<f32>,
    /// The likeliest tokens in its place and the logarithms of their probabilities, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// Picks the tokens of one answer, by a sampler that the answer has while it runs.
pub(crate) struct Picker {
    /// Tokens that end a text; none where they are ignored.
    eos: Vec<u32>,
    stop_tokens: Vec<u32>,
    logprobs: Option<usize>,
    #[cfg(feature = "tokenizer")]
    text: Option<AnswerText>,
    #[cfg(feature = "constrain")]
    matching: Option<Matching>,
}

impl Picker {
    pub(crate) fn new(engine: &Engine, options: &GenerateOptions) -> Result<Picker, RuntimeError> {
        let model = &engine.manifest().model;
        #[cfg(feature = "tokenizer")]
        let text = AnswerText::new(engine, options)?;
        #[cfg(feature = "constrain")]
        let matching = match &options.constraint {
            Some(constraint) => Some(Matching::new(engine, constraint)?),
            None => None,
        };
        Ok(Picker {
            eos: if options.ignore_eos { Vec::new() } else { model.eos.clone() },
            stop_tokens: options.stop_tokens.clone(),
            logprobs: options.logprobs,
            #[cfg(feature = "tokenizer")]
            text,
            #[cfg(feature = "constrain")]
            matching,
        })
    }

    /// How a device may pick the next token; None where the row of logits is wanted here: for probabilities, for a constraint, or
    /// by the sampler.
    pub(crate) fn setting(&self, sampler: &Sampler) -> Option<Setting> {
        #[cfg(feature = "constrain")]
        if self.matching.is_some() {
            return None;
        }
        if self.logprobs.is_some() { None } else { sampler.setting() }
    }

    /// The next token, from what a step left of its row of logits; why it is the last one, where it is.
    pub(crate) fn pick(
        &mut self,
        sampler: &mut Sampler,
        row: Row<'_>,
    ) -> Result<(NewToken, Option<Finish>), RuntimeError> {
        let token = self.draw(sampler, row)?;
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
        let (text, is_stopped) = self.text_of(token)?;
        let is_complete = self.completes(token)?;
        let finish = is_stopped.then_some(Finish::Stopped).or(is_complete.then_some(Finish::Complete));
        Ok((NewToken { token, text, logprob, top }, finish))
    }

    /// The text that is certain with a token; true where a stop string was found.
    #[cfg(feature = "tokenizer")]
    fn text_of(&mut self, token: u32) -> Result<(String, bool), RuntimeError> {
        match &mut self.text {
            Some(text) => Ok((text.push(token)?, text.is_stopped())),
            None => Ok((String::new(), false)),
        }
    }

    #[cfg(not(feature = "tokenizer"))]
    fn text_of(&mut self, _token: u32) -> Result<(String, bool), RuntimeError> {
        Ok((String::new(), false))
    }

    /// True where the text is whole with a token, and nothing may follow.
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

    fn draw(&mut self, sampler: &mut Sampler, row: Row<'_>) -> Result<u32, RuntimeError> {
        #[cfg(feature = "constrain")]
        if let (Some(matching), Row::Logits(logits)) = (&mut self.matching, row) {
            let allowed = matching.allowed(!self.eos.is_empty())?;
            return sampler.pick_where(logits, |token| allowed.contains(token));
        }
        sampler.pick_row(row)
    }

    /// The whole text, and the end of it that was held back.
    pub(crate) fn finish(self) -> Result<(String, String), RuntimeError> {
        #[cfg(feature = "tokenizer")]
        if let Some(text) = self.text {
            return text.finish();
        }
        Ok((String::new(), String::new()))
    }
}
