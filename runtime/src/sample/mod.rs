//! Sampling: from a row of logits to the next token.
//!
//! The order is that of Hugging Face transformers' logits processors: constraint mask, logit bias, repetition penalty,
//! presence and frequency penalty, temperature, top-k, top-p, min-p, then one draw.
//!
//! A draw is a function of the seed and the token's position in its sequence. It depends neither on other sequences nor on
//! where the answer began: a request that moves to another engine as a longer prompt goes on with the same draws.

mod logprobs;
mod options;

use std::cmp::Ordering;
use std::hash::{BuildHasher, RandomState};

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{RngCore, SeedableRng};

use jamba_plan::format::Setting;

pub use logprobs::{logprob, top_logprobs};
pub use options::SamplerOptions;

use crate::RuntimeError;
use crate::device::Row;

/// Picks the tokens of one sequence.
///
/// ```
/// use jamba_runtime::{Sampler, SamplerOptions};
///
/// // Greedy, with half the logit for tokens that occurred.
/// let options = SamplerOptions { repetition_penalty: 2.0, ..SamplerOptions::default() };
/// let mut sampler = Sampler::new(options, 3)?;
/// sampler.observe(&[0]);
/// assert_eq!(sampler.pick(&[4.0, 3.0, 1.0])?, 1);
/// assert_eq!(sampler.pick_where(&[4.0, 3.0, 1.0], |token| token != 0)?, 1);
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
#[derive(Debug)]
pub struct Sampler {
    options: SamplerOptions,
    seed: u64,
    /// Number of tokens before the next one.
    position: u64,
    /// Token counts for the penalties; empty if unused.
    history: Vec<Occurred>,
    /// Bias per token; empty if unused.
    bias: Vec<f32>,
    /// Buffer for the tokens that remain after filtering.
    candidates: Vec<Candidate>,
}

/// Occurrences of a token.
#[derive(Clone, Copy, Debug, Default)]
struct Occurred {
    /// In the prompt.
    before: bool,
    /// Number of times that the sampler picked it.
    picked: u32,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// The logit; later the weight relative to that of the most likely token.
    value: f64,
    token: u32,
}

/// Descending order of likelihood. Ties are broken by lowest token.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.value.total_cmp(&a.value).then(a.token.cmp(&b.token))
}

impl Sampler {
    /// A sampler for rows of `vocab` logits. Fails if an option is outside its range.
    pub fn new(options: SamplerOptions, vocab: usize) -> Result<Sampler, RuntimeError> {
        let empty = Sampler {
            options: SamplerOptions::GREEDY,
            seed: 0,
            position: 0,
            // Reserved, so that a sampler can be reused with any options without allocating.
            history: Vec::with_capacity(vocab),
            bias: Vec::with_capacity(vocab),
            candidates: Vec::with_capacity(vocab),
        };
        empty.with_options(options, vocab)
    }

    /// A sampler with new options that reuses this one's memory.
    pub(crate) fn with_options(mut self, options: SamplerOptions, vocab: usize) -> Result<Sampler, RuntimeError> {
        options.check(vocab)?;
        self.history.clear();
        self.history.resize(if options.looks_back() { vocab } else { 0 }, Occurred::default());
        self.bias.clear();
        self.bias.resize(if options.logit_bias.is_empty() { 0 } else { vocab }, 0.0);
        for &(token, bias) in &options.logit_bias {
            self.bias[token as usize] += bias;
        }
        let seed = options.seed.unwrap_or_else(random_seed);
        Ok(Sampler { seed, position: 0, options, ..self })
    }

    /// The seed of the draws: that of the options, or a random one.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Records tokens of the prompt, for the position of the next token and the repetition penalty. Picked tokens are recorded
    /// automatically.
    pub fn observe(&mut self, tokens: &[u32]) {
        self.position += tokens.len() as u64;
        for &token in tokens {
            if let Some(occurred) = self.history.get_mut(token as usize) {
                occurred.before = true;
            }
        }
    }

    /// Picks the next token from `logits`, f32 \[vocab\].
    ///
    /// # Errors
    /// [`RuntimeError::NotFinite`] if the largest logit is not finite; [`RuntimeError::NoTokenAllowed`] if biases forbid all
    /// tokens.
    pub fn pick(&mut self, logits: &[f32]) -> Result<u32, RuntimeError> {
        let greedy_token = greedy(logits)?;
        let plain = self.options.temperature == 0.0 && self.history.is_empty() && self.bias.is_empty();
        if plain {
            self.position += 1;
            return Ok(greedy_token);
        }
        self.pick_from(logits, |_| true)
    }

    /// Like [`Sampler::pick`], but only picks tokens for which `allowed` is true. Fails if there are none.
    pub fn pick_where(&mut self, logits: &[f32], allowed: impl Fn(u32) -> bool) -> Result<u32, RuntimeError> {
        greedy(logits)?;
        self.pick_from(logits, allowed)
    }

    /// The settings with which a device picks the same token; None if penalties or biases change the logits.
    pub(crate) fn setting(&self) -> Option<Setting> {
        if !self.history.is_empty() || !self.bias.is_empty() {
            return None;
        }
        let &SamplerOptions { temperature, top_k, top_p, min_p, .. } = &self.options;
        let top_k = u32::try_from(top_k).unwrap_or(u32::MAX);
        Some(Setting { temperature, top_k, top_p, min_p, draw: draw_at(self.seed, self.position) })
    }

    /// Picks from the result of a step, or takes the token that a device picked by [`Sampler::setting`].
    pub(crate) fn pick_row(&mut self, row: Row<'_>) -> Result<u32, RuntimeError> {
        match row {
            Row::Logits(logits) => self.pick(logits),
            Row::Token(token) => {
                self.position += 1;
                Ok(token)
            }
        }
    }

    fn pick_from(&mut self, logits: &[f32], allowed: impl Fn(u32) -> bool) -> Result<u32, RuntimeError> {
        let token = self.draw(logits, allowed).ok_or(RuntimeError::NoTokenAllowed)?;
        self.position += 1;
        if let Some(occurred) = self.history.get_mut(token as usize) {
            occurred.picked += 1;
        }
        Ok(token)
    }

    /// The logit after bias and penalties.
    fn adjusted(&self, token: usize, logit: f32) -> f32 {
        let logit = logit + self.bias.get(token).copied().unwrap_or(0.0);
        let Some(&Occurred { before, picked }) = self.history.get(token) else { return logit };
        let options = &self.options;
        let penalty = if before || picked > 0 { options.repetition_penalty } else { 1.0 };
        let logit = if logit > 0.0 { logit / penalty } else { logit * penalty };
        let presence = if picked > 0 { options.presence_penalty } else { 0.0 };
        logit - presence - options.frequency_penalty * picked as f32
    }

    fn draw(&mut self, logits: &[f32], allowed: impl Fn(u32) -> bool) -> Option<u32> {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        for (token, &logit) in
            logits.iter().enumerate().filter(|(token, logit)| !logit.is_nan() && allowed(*token as u32))
        {
            candidates.push(Candidate { value: self.adjusted(token, logit).into(), token: token as u32 });
        }
        self.candidates = candidates;
        let Sampler { options, seed, position, candidates, .. } = self;
        let first = candidates.iter().min_by(|a, b| likelier(a, b)).copied().filter(|first| first.value.is_finite())?;
        if options.temperature == 0.0 {
            return Some(first.token);
        }
        if options.top_k > 0 && options.top_k < candidates.len() {
            candidates.select_nth_unstable_by(options.top_k - 1, likelier);
            candidates.truncate(options.top_k);
        }
        for candidate in candidates.iter_mut() {
            // The C library's exp differs from one library to the next, and with the instructions of the CPU.
            candidate.value = libm::exp((candidate.value - first.value) / f64::from(options.temperature));
        }
        if options.top_p < 1.0 {
            keep_top_p(candidates, options.top_p.into());
        }
        candidates.retain(|candidate| candidate.value >= f64::from(options.min_p));
        candidates.sort_unstable_by_key(|candidate| candidate.token);
        let sum: f64 = candidates.iter().map(|candidate| candidate.value).sum();
        let uniform = (draw_at(*seed, *position) >> 11) as f64 / (1u64 << 53) as f64;
        let mut left = uniform * sum;
        for candidate in candidates.iter() {
            left -= candidate.value;
            if left < 0.0 {
                return Some(candidate.token);
            }
        }
        Some(first.token) // only reached by rounding
    }
}

/// The 64 random bits for the token at a position: the output of the seed's generator after that many others.
fn draw_at(seed: u64, position: u64) -> u64 {
    let mut random = Pcg64::seed_from_u64(seed);
    random.advance(position.into());
    random.next_u64()
}

/// A seed that differs with each call and each process.
pub fn random_seed() -> u64 {
    RandomState::new().hash_one(())
}

/// Keeps the most likely candidates whose weights sum to at least `top_p` of the total. Sorts only a growing head of them.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f64) {
    candidates.sort_unstable_by_key(|candidate| candidate.token); // makes the sum independent of the input order
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

/// The token with the largest logit. Ties are broken by lowest token.
///
/// # Errors
/// [`RuntimeError::NotFinite`] if the largest logit is not finite.
pub fn greedy(logits: &[f32]) -> Result<u32, RuntimeError> {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (token as u32, logit);
        }
    }
    if best.1.is_finite() {
        return Ok(best.0);
    }
    let nan = logits.iter().copied().find(|logit| logit.is_nan() && best.1 == f32::NEG_INFINITY);
    Err(RuntimeError::NotFinite { largest: nan.unwrap_or(best.1) })
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

    const WARM: SamplerOptions = SamplerOptions {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: Vec::new(),
        seed: Some(5),
    };

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
            let tokens = (0..50).map(|_| sampler.pick(&logits()).unwrap()).collect::<Vec<_>>();
            (tokens, sampler.seed())
        };
        assert_eq!(draw(Some(1)), draw(Some(1)));
        assert_ne!(draw(Some(1)).0, draw(Some(2)).0);
        // Without a seed, a random one is taken and told.
        let (tokens, seed) = draw(None);
        assert_eq!(draw(Some(seed)).0, tokens);
        assert_ne!(draw(None).1, seed);
    }

    #[test]
    fn a_draw_depends_on_the_seed_and_the_position_alone() {
        let warm = || Sampler::new(WARM, 4).unwrap();
        let mut whole = warm();
        whole.observe(&[3, 1]);
        let tokens: Vec<u32> = (0..40).map(|_| whole.pick(&logits()).unwrap()).collect();
        for n in 0..40 {
            // The first n tokens as a prompt, picked by a device, and picked under a constraint.
            let mut moved = warm();
            moved.observe(&[3, 1]);
            moved.observe(&tokens[..n]);
            let mut picked = warm();
            picked.observe(&[3, 1]);
            for (i, &token) in tokens[..n].iter().enumerate() {
                match i % 2 {
                    0 => drop(picked.pick_row(Row::Token(token))),
                    _ => drop(picked.pick_where(&logits(), |other| other == token)),
                }
            }
            let bits = moved.setting().unwrap().draw;
            assert_eq!((bits, picked.setting().unwrap().draw), (draw_at(5, n as u64 + 2), bits));
            let rest =
                |sampler: &mut Sampler| tokens[n..].iter().all(|&token| sampler.pick(&logits()).unwrap() == token);
            assert!(rest(&mut moved) && rest(&mut picked), "{n}");
        }
        let bits: std::collections::BTreeSet<u64> =
            (0..20).flat_map(|seed| (0..20).map(move |position| draw_at(seed, position))).collect();
        assert_eq!(bits.len(), 400);
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
    fn presence_counts_once_and_frequency_each_time_and_neither_the_prompt() {
        let picks = |options: SamplerOptions| {
            let mut sampler = Sampler::new(options, 3).unwrap();
            sampler.observe(&[0]);
            [(); 5].map(|()| sampler.pick(&[4.0, 3.0, 1.5]).unwrap())
        };
        let presence = SamplerOptions { presence_penalty: 2.0, ..SamplerOptions::GREEDY };
        assert_eq!(picks(presence), [0, 1, 0, 0, 0]); // 2, 1, 1.5
        let frequency = SamplerOptions { frequency_penalty: 0.8, ..SamplerOptions::GREEDY };
        assert_eq!(picks(frequency), [0, 0, 1, 0, 1]); // 3.2, 3; 2.4, 3; 2.4, 2.2; 1.6, 2.2
        let reward = SamplerOptions { frequency_penalty: -9.0, ..SamplerOptions::GREEDY };
        assert_eq!(picks(reward), [0; 5]);
    }

    #[test]
    fn biases_are_added_and_negative_infinity_forbids() {
        let pick = |logit_bias: &[(u32, f32)]| {
            let options = SamplerOptions { logit_bias: logit_bias.to_vec(), ..SamplerOptions::GREEDY };
            Sampler::new(options, 3)?.pick(&[4.0, 3.0, -1.0])
        };
        assert_eq!(pick(&[(2, 6.0)]).unwrap(), 2);
        assert_eq!(pick(&[(0, f32::NEG_INFINITY), (1, -1.0)]).unwrap(), 1);
        let none = pick(&[0, 1, 2].map(|token| (token, f32::NEG_INFINITY)));
        assert!(matches!(none, Err(RuntimeError::NoTokenAllowed)));
        assert!(matches!(pick(&[(3, 1.0)]), Err(RuntimeError::TokenOutOfRange { token: 3, vocab: 3 })));
        // Forbidden is forbidden at any temperature.
        let logit_bias = vec![(2, f32::NEG_INFINITY)];
        close(shares(SamplerOptions { logit_bias, ..WARM }), [0.6, 0.1, 0.0, 0.3]);
    }

    #[test]
    fn only_allowed_tokens_are_picked() {
        let mut sampler = Sampler::new(WARM, 4).unwrap();
        let mut counts = [0; 4];
        for _ in 0..1000 {
            counts[sampler.pick_where(&logits(), |token| token % 2 == 1).unwrap() as usize] += 1;
        }
        assert!(counts[0] + counts[2] == 0 && counts[1] > 0 && counts[3] > counts[1], "{counts:?}");
        let mut greedy = Sampler::new(SamplerOptions::GREEDY, 4).unwrap();
        assert_eq!(greedy.pick_where(&logits(), |token| token != 2).unwrap(), 0);
        assert!(matches!(greedy.pick_where(&logits(), |_| false), Err(RuntimeError::NoTokenAllowed)));
    }

    #[test]
    fn options_outside_their_range_are_refused() {
        for options in [
            SamplerOptions { temperature: -1.0, ..WARM },
            SamplerOptions { temperature: f32::NAN, ..WARM },
            SamplerOptions { top_p: 0.0, ..WARM },
            SamplerOptions { min_p: 1.5, ..WARM },
            SamplerOptions { repetition_penalty: 0.0, ..WARM },
            SamplerOptions { presence_penalty: f32::INFINITY, ..WARM },
            SamplerOptions { frequency_penalty: f32::NAN, ..WARM },
            SamplerOptions { logit_bias: vec![(1, f32::NAN)], ..WARM },
        ] {
            let refused = Sampler::new(options.clone(), 4);
            assert!(matches!(refused, Err(RuntimeError::Option { .. })), "{options:?}");
        }
    }
}
