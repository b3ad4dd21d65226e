//! How tokens are picked, and the ranges that make sense.

use crate::RuntimeError;

/// How tokens are picked. The default is greedy.
///
/// ```
/// use jamba_runtime::{Sampler, SamplerOptions};
///
/// let options = SamplerOptions { temperature: 0.8, top_p: 0.9, seed: 7, ..SamplerOptions::default() };
/// let mut sampler = Sampler::new(options, 3)?;
/// let token = sampler.pick(&[0.5, 8.0, -1.0])?;
/// assert_eq!(token, 1); // the others are too unlikely for top-p 0.9
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Logits are divided by it; 0 picks the largest.
    pub temperature: f32,
    /// Only the k largest logits are drawn from; 0 for all.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability are drawn from; 1 for all.
    pub top_p: f32,
    /// Only tokens with at least this share of the likeliest one's probability are drawn from; 0 for all.
    pub min_p: f32,
    /// Logits of tokens that occurred, in the prompt or after it, are divided by it when positive, else multiplied; 1 for
    /// none.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens that were picked, however often; 0 for none.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens that were picked, once for each time; 0 for none.
    pub frequency_penalty: f32,
    /// Tokens, and what is added to the logit of each; negative infinity forbids a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draws.
    pub seed: u64,
}

impl SamplerOptions {
    /// The likeliest token, always.
    pub const GREEDY: SamplerOptions = SamplerOptions {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: Vec::new(),
        seed: 0,
    };

    /// Refuses options outside their range, and biases of tokens outside the vocabulary.
    pub(crate) fn check(&self, vocab: usize) -> Result<(), RuntimeError> {
        let check = |name: &'static str, found: f32, fits: bool, expected: &'static str| match fits {
            true => Ok(()),
            false => Err(RuntimeError::Option { name, found: found.to_string(), expected }),
        };
        let &SamplerOptions { temperature, top_p, min_p, repetition_penalty: repetition, .. } = self;
        let &SamplerOptions { presence_penalty: presence, frequency_penalty: frequency, .. } = self;
        check("temperature", temperature, (0.0..f32::INFINITY).contains(&temperature), "0 or more")?;
        check("top-p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0, up to 1")?;
        check("min-p", min_p, (0.0..=1.0).contains(&min_p), "0 … 1")?;
        check("repetition penalty", repetition, repetition > 0.0 && repetition.is_finite(), "above 0")?;
        check("presence penalty", presence, presence.is_finite(), "a number")?;
        check("frequency penalty", frequency, frequency.is_finite(), "a number")?;
        for &(token, bias) in &self.logit_bias {
            check("logit bias", bias, bias < f32::INFINITY, "a number, or negative infinity")?;
            if token as usize >= vocab {
                return Err(RuntimeError::TokenOutOfRange { token, vocab: vocab as u64 });
            }
        }
        Ok(())
    }

    /// True where what occurred changes what is picked.
    pub(super) fn looks_back(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions::GREEDY
    }
}
