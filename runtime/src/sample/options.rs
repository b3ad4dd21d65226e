//! Sampler options and their valid ranges.

use crate::RuntimeError;

/// Options of a [`Sampler`](crate::Sampler). The default is greedy.
///
/// ```
/// use jamba_runtime::{Sampler, SamplerOptions};
///
/// let options = SamplerOptions { temperature: 0.8, top_p: 0.9, seed: Some(7), ..SamplerOptions::default() };
/// let mut sampler = Sampler::new(options, 3)?;
/// let token = sampler.pick(&[0.5, 8.0, -1.0])?;
/// assert_eq!(token, 1); // the others are too unlikely for top-p 0.9
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0 always picks the largest.
    pub temperature: f32,
    /// Samples from the k largest logits only; 0 disables it.
    pub top_k: usize,
    /// Samples from the smallest set of most likely tokens with at least this total probability; 1 disables it.
    pub top_p: f32,
    /// Samples from tokens with at least this fraction of the largest probability; 0 disables it.
    pub min_p: f32,
    /// Divides positive logits, and multiplies negative ones, of tokens that occurred in the prompt or the answer; 1 disables
    /// it.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of picked tokens; 0 disables it.
    pub presence_penalty: f32,
    /// Subtracted from the logits of picked tokens once per occurrence; 0 disables it.
    pub frequency_penalty: f32,
    /// Pairs of a token and a value added to its logit; negative infinity forbids the token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draws; None takes a random one, which [`Generated::seed`](crate::Generated::seed),
    /// [`Event::seed`](crate::Event::seed) and [`Sampler::seed`](crate::Sampler::seed) tell.
    pub seed: Option<u64>,
}

impl SamplerOptions {
    /// Always picks the most likely token.
    pub const GREEDY: SamplerOptions = SamplerOptions {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: Vec::new(),
        seed: None,
    };

    /// Fails if an option is outside its range or a biased token is outside the vocabulary.
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

    /// True if the picks depend on earlier tokens.
    pub(super) fn looks_back(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions::GREEDY
    }
}
