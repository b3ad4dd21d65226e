//! From a row of logits to the next token.
//!
//! In this order, as Hugging Face's processors do it: repetition penalty, temperature, top-k, top-p, min-p; then one
//! draw from what is left. Each sampler has its own generator: what a sequence draws does not depend on the others.

use std::cmp::Ordering;

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{RngCore, SeedableRng};

use crate::RuntimeError;

/// How tokens are picked. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Logits are divided by it; 0 picks the largest.
    pub temperature: f32,
    /// Only the k largest logits are drawn from; 0 for all.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability are drawn from; 1 for all.
    pub top_p: f32,
    /// Only tokens with at least this share of the likeliest one's probability are drawn from; 0 for all.
    pub min_p: f32,
    /// Logits of tokens that occurred are divided by it when positive, else multiplied; 1 for none.
    pub repetition_penalty: f32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl SamplerOptions {
    /// Refuses options outside their range.
    pub(crate) fn check(&self) -> Result<(), RuntimeError> {
        let check = |name: &'static str, found: f32, fits: bool, expected: &'static str| match fits {
            true => Ok(()),
            false => Err(RuntimeError::Option { name, found: found.to_string(), expected }),
        };
        let &SamplerOptions { temperature, top_p, min_p, repetition_penalty: penalty, .. } = self;
        check("temperature", temperature, (0.0..f32::INFINITY).contains(&temperature), "0 or more")?;
        check("top-p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0, up to 1")?;
        check("min-p", min_p, (0.0..=1.0).contains(&min_p), "0 … 1")?;
        check("repetition penalty", penalty, penalty > 0.0 && penalty.is_finite(), "above 0")
    }
}

/// Picks the tokens of one sequence.
#[derive(Debug)]
pub struct Sampler {
    options: SamplerOptions,
    random: Pcg64,
    /// Which tokens occurred; empty without a penalty.
    occurred: Vec<bool>,
    /// Logits and tokens still in the draw.
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// The logit; later its weight in the draw, relative to the likeliest token's.
    value: f64,
    token: u32,
}

/// The likelier first; of two alike, the lower token.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.value.total_cmp(&a.value).then(a.token.cmp(&b.token))
}

impl Sampler {
    /// A sampler for a vocabulary of `vocab` tokens. Refuses options outside their range.
    pub fn new(options: SamplerOptions, vocab: usize) -> Result<Sampler, RuntimeError> {
        let random = Pcg64::seed_from_u64(options.seed);
        let empty = Sampler { options, random, occurred: Vec::new(), candidates: Vec::with_capacity(vocab) };
        empty.with_options(options, vocab)
    }

    /// A new sampler in the memory of this one.
    pub(crate) fn with_options(mut self, options: SamplerOptions, vocab: usize) -> Result<Sampler, RuntimeError> {
        options.check()?;
        self.occurred.clear();
        self.occurred.resize(if options.repetition_penalty == 1.0 { 0 } else { vocab }, false);
        Ok(Sampler { options, random: Pcg64::seed_from_u64(options.seed), ..self })
    }

    /// Notes tokens that occurred: the prompt's, for the repetition penalty. Picked tokens are noted anyway.
    pub fn observe(&mut self, tokens: &[u32]) {
        for &token in tokens {
            if let Some(occurred) = self.occurred.get_mut(token as usize) {
                *occurred = true;
            }
        }
    }

    /// Picks the next token.
    pub fn pick(&mut self, logits: &[f32]) -> Result<u32, RuntimeError> {
        let greedy_token = greedy(logits)?;
        let plain = self.options.temperature == 0.0 && self.occurred.is_empty();
        let token = if plain { greedy_token } else { self.draw(logits) };
        self.observe(&[token]);
        Ok(token)
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let options = self.options;
        self.candidates.clear();
        for (token, &logit) in logits.iter().enumerate().filter(|(_, logit)| !logit.is_nan()) {
            let penalty = if self.occurred.get(token) == Some(&true) { options.repetition_penalty } else { 1.0 };
            let value = if logit > 0.0 { logit / penalty } else { logit * penalty };
            self.candidates.push(Candidate { value: value.into(), token: token as u32 });
        }
        let candidates = &mut self.candidates;
        let first = candidates.iter().min_by(|a, b| likelier(a, b)).copied().expect("greedy found a number");
        if options.temperature == 0.0 {
            return first.token;
        }
        if options.top_k > 0 && options.top_k < candidates.len() {
            candidates.select_nth_unstable_by(options.top_k - 1, likelier);
            candidates.truncate(options.top_k);
        }
        for candidate in candidates.iter_mut() {
            candidate.value = ((candidate.value - first.value) / f64::from(options.temperature)).exp();
        }
        if options.top_p < 1.0 {
            keep_top_p(candidates, options.top_p.into());
        }
        candidates.retain(|candidate| candidate.value >= f64::from(options.min_p));
        candidates.sort_unstable_by_key(|candidate| candidate.token);
        let sum: f64 = candidates.iter().map(|candidate| candidate.value).sum();
        let uniform = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut left = uniform * sum;
        for candidate in candidates.iter() {
            left -= candidate.value;
            if left < 0.0 {
                return candidate.token;
            }
        }
        first.token // the last bit of rounding
    }
}

/// Keeps the likeliest candidates that together reach `top_p` of the weight. Sorts no more of them than it must.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f64) {
    candidates.sort_unstable_by_key(|candidate| candidate.token); // a sum that does not depend on the order found
    let wanted = top_p * candidates.iter().map(|candidate| candidate.value).sum::<f64>();
    let mut head = 64;
    loop {
        head = head.min(candidates.len());
        if head < candidates.len() {
            candidates.select_nth_unstable_by(head - 1, likelier);
        }
        candidates[..head].sort_unstable_by(likelier);
        let mut sum = 0.0;
        let reaches = |candidate: &Candidate| {
            sum += candidate.value;
            sum >= wanted
        };
        match candidates[..head].iter().position(reaches) {
            Some(last) => return candidates.truncate(last + 1),
            None if head == candidates.len() => return,
            None => head *= 8,
        }
    }
}

/// The token of the largest logit; of several alike, the lowest. Refuses rows without a finite largest logit.
pub fn greedy(logits: &[f32]) -> Result<u32, RuntimeError> {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (token as u32, logit);
        }
    }
    if best.1.is_finite() { Ok(best.0) } else { Err(RuntimeError::NotFinite { largest: best.1 }) }
}

/// The `n` likeliest tokens and the natural logarithms of their probabilities, likeliest first.
pub fn top_logprobs(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let log_sum = log_sum_exp(logits);
    let mut all: Vec<Candidate> =
        logits.iter().zip(0..).map(|(&logit, token)| Candidate { value: logit.into(), token }).collect();
    all.sort_unstable_by(likelier);
    all.truncate(n);
    all.iter().map(|candidate| (candidate.token, (candidate.value - log_sum) as f32)).collect()
}

/// Natural logarithm of a token's probability; None outside the vocabulary.
pub fn logprob(logits: &[f32], token: u32) -> Option<f32> {
    let logit = *logits.get(token as usize)?;
    Some((f64::from(logit) - log_sum_exp(logits)) as f32)
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum::<f64>().ln() + max
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities 0.5, 0.3, 0.15, 0.05 for tokens 2, 0, 3, 1.
    const P: [f64; 4] = [0.3, 0.05, 0.5, 0.15];

    fn logits() -> Vec<f32> {
        P.iter().map(|p| p.ln() as f32).collect()
    }

    fn shares(options: SamplerOptions) -> [f64; 4] {
        const N: u32 = 20_000;
        let mut sampler = Sampler::new(options, 4).unwrap();
        let mut counts = [0; 4];
        for _ in 0..N {
            counts[sampler.pick(&logits()).unwrap() as usize] += 1;
        }
        counts.map(|count| f64::from(count) / f64::from(N))
    }

    #[track_caller]
    fn close(found: [f64; 4], expected: [f64; 4]) {
        let far = found.iter().zip(expected).any(|(found, expected)| (found - expected).abs() > 0.015);
        assert!(!far, "{found:?}, expected {expected:?}"); // four standard errors
    }

    const WARM: SamplerOptions =
        SamplerOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 5 };

    #[test]
    fn draws_follow_the_probabilities() {
        close(shares(WARM), P);
        // At temperature 1/2 probabilities are squared: 0.09, 0.0025, 0.25, 0.0225 of 0.365.
        close(shares(SamplerOptions { temperature: 0.5, ..WARM }), [0.2466, 0.0068, 0.6849, 0.0616]);
    }

    #[test]
    fn each_filter_keeps_what_it_should() {
        let two = [0.375, 0.0, 0.625, 0.0];
        close(shares(SamplerOptions { top_k: 2, ..WARM }), two);
        close(shares(SamplerOptions { top_p: 0.79, ..WARM }), two);
        close(shares(SamplerOptions { min_p: 0.5, ..WARM }), two);
        close(shares(SamplerOptions { top_p: 0.49, ..WARM }), [0.0, 0.0, 1.0, 0.0]);
        // Of the two that top-k leaves, the first has 0.625.
        close(shares(SamplerOptions { top_k: 2, top_p: 0.6, ..WARM }), [0.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn top_p_over_a_large_vocabulary_is_the_sorted_prefix() {
        let mut candidates: Vec<Candidate> =
            (0..5000).map(|token| Candidate { value: 1.0 / f64::from((token * 7919) % 5000 + 1), token }).collect();
        let mut sorted = candidates.clone();
        sorted.sort_unstable_by(likelier);
        let total: f64 = sorted.iter().map(|candidate| candidate.value).sum();
        let mut sum = 0.0;
        let n = sorted.iter().take_while(|candidate| {
            let more = sum < 0.9 * total;
            sum += candidate.value;
            more
        });
        let expected: Vec<u32> = n.map(|candidate| candidate.token).collect();
        keep_top_p(&mut candidates, 0.9);
        assert_eq!(candidates.iter().map(|candidate| candidate.token).collect::<Vec<_>>(), expected);
        assert!(expected.len() > 512, "several rounds");
    }

    #[test]
    fn a_seed_draws_the_same_again_and_another_one_does_not() {
        let draw = |seed| {
            let mut sampler = Sampler::new(SamplerOptions { seed, ..WARM }, 4).unwrap();
            (0..50).map(|_| sampler.pick(&logits()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn greedy_takes_the_lower_of_two_alike_and_refuses_what_is_no_number() {
        assert_eq!(greedy(&[1.0, 3.0, f32::NAN, 3.0]).unwrap(), 1);
        assert!(matches!(greedy(&[f32::NAN, f32::NAN]), Err(RuntimeError::NotFinite { .. })));
        assert!(greedy(&[1.0, f32::INFINITY]).is_err());
    }

    #[test]
    fn the_penalty_makes_tokens_that_occurred_less_likely() {
        let options = SamplerOptions { repetition_penalty: 2.0, ..SamplerOptions::default() };
        let mut sampler = Sampler::new(options, 3).unwrap();
        sampler.observe(&[0]);
        assert_eq!(sampler.pick(&[4.0, 3.0, -1.0]).unwrap(), 1); // 2, 3, −1
        assert_eq!(sampler.pick(&[4.0, 3.0, -1.0]).unwrap(), 0); // 2, 1.5, −1
    }

    #[test]
    fn options_outside_their_range_are_refused() {
        for options in [
            SamplerOptions { temperature: -1.0, ..WARM },
            SamplerOptions { temperature: f32::NAN, ..WARM },
            SamplerOptions { top_p: 0.0, ..WARM },
            SamplerOptions { min_p: 1.5, ..WARM },
            SamplerOptions { repetition_penalty: 0.0, ..WARM },
        ] {
            assert!(matches!(Sampler::new(options, 4), Err(RuntimeError::Option { .. })), "{options:?}");
        }
    }

    #[test]
    fn logprobs_are_logarithms_of_probabilities() {
        let top = top_logprobs(&logits(), 2);
        assert_eq!([top[0].0, top[1].0], [2, 0]);
        assert!((f64::from(top[1].1) - 0.3f64.ln()).abs() < 1e-6);
        assert!((logprob(&logits(), 1).unwrap() - 0.05f32.ln()).abs() < 1e-5);
        assert_eq!(logprob(&logits(), 4), None);
    }
}
