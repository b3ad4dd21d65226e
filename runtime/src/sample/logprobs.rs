//! Log probabilities of tokens: the log softmax of the model's logits, before any sampler option.

use super::{Candidate, likelier};

/// The `n` most likely tokens with the natural logarithms of their probabilities, most likely first. Ties are broken by
/// lowest token. The probabilities are the softmax of `logits`, f32 \[vocab\].
pub fn top_logprobs(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let log_sum = log_sum_exp(logits);
    let mut all: Vec<Candidate> =
        logits.iter().zip(0..).map(|(&logit, token)| Candidate { value: logit.into(), token }).collect();
    if (1..all.len()).contains(&n) {
        all.select_nth_unstable_by(n - 1, likelier);
    }
    all.truncate(n);
    all.sort_unstable_by(likelier);
    all.iter().map(|candidate| (candidate.token, (candidate.value - log_sum) as f32)).collect()
}

/// Natural logarithm of a token's probability under the softmax of `logits`; None outside the vocabulary.
pub fn logprob(logits: &[f32], token: u32) -> Option<f32> {
    let logit = *logits.get(token as usize)?;
    Some((f64::from(logit) - log_sum_exp(logits)) as f32)
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    libm::log(logits.iter().map(|&logit| libm::exp(f64::from(logit) - max)).sum::<f64>()) + max
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprobs_are_logarithms_of_probabilities() {
        let logits = [0.3f32, 0.05, 0.5, 0.15].map(|p: f32| p.ln() + 3.0);
        let top = top_logprobs(&logits, 2);
        assert_eq!([top[0].0, top[1].0], [2, 0]);
        assert!((f64::from(top[1].1) - 0.3f64.ln()).abs() < 1e-6);
        assert!((logprob(&logits, 1).unwrap() - 0.05f32.ln()).abs() < 1e-5);
        assert_eq!(logprob(&logits, 4), None);
        assert_eq!((top_logprobs(&logits, 0).len(), top_logprobs(&logits, 9).len()), (0, 4));
        assert_eq!(top_logprobs(&[1.0; 3], 2).iter().map(|&(token, _)| token).collect::<Vec<_>>(), [0, 1]);
    }
}
