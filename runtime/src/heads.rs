//! Results of plans whose head is not that of a language model: scores of labels, and hidden states.

use jamba_plan::format::{Activation, Head};

use crate::sequence::session::Origin;
use crate::{Cancel, Engine, Feed, Outputs, RuntimeError, SequenceId};

/// The scores of a text, in the order of [`Engine::labels`].
#[derive(Clone, Debug, PartialEq)]
pub struct Classified {
    /// The results of the model's `score` for the last token.
    pub scores: Vec<f32>,
    /// The scores after the activation that the checkpoint states: softmax of the scores, the sigmoid of each, or the scores themselves.
    pub probabilities: Vec<f32>,
}

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The state of the last token, which has seen the whole text.
    #[default]
    Last,
    /// The mean of the states of all tokens.
    Mean,
}

impl Engine {
    /// The labels of a classification; empty for other plans.
    pub fn labels(&self) -> &[String] {
        match &self.manifest().model.head {
            Head::Scores { labels, .. } => labels,
            Head::Logits | Head::Hidden => &[],
        }
    }

    /// Classifies a text by the scores of its last token, in a sequence of its own. `cancel` is checked before each step.
    ///
    /// # Errors
    /// [`RuntimeError::Head`] if the plan computes no scores.
    pub fn classify(&mut self, tokens: &[u32], cancel: Option<&Cancel>) -> Result<Classified, RuntimeError> {
        let Head::Scores { activation, .. } = self.manifest().model.head else {
            return Err(self.other_head("scores of labels"));
        };
        let scores =
            self.in_sequence(|engine, sequence| Ok(engine.prefill(sequence, tokens, None, cancel)?.row(0).to_vec()))?;
        check_finite(&scores)?;
        Ok(Classified { probabilities: activate(activation, &scores), scores })
    }

    /// The embedding of a text: its hidden states after the last norm as one vector of [`d_model`](jamba_plan::format::Model::d_model)
    /// numbers, in a sequence of its own. `cancel` is checked before each step. Bits do not depend on the size of steps.
    ///
    /// # Errors
    /// [`RuntimeError::Head`] if the plan has a head.
    pub fn embed(
        &mut self,
        tokens: &[u32],
        pooling: Pooling,
        cancel: Option<&Cancel>,
    ) -> Result<Vec<f32>, RuntimeError> {
        if self.manifest().model.head != Head::Hidden {
            return Err(self.other_head("hidden states"));
        }
        let pooled = self.in_sequence(|engine, sequence| match pooling {
            Pooling::Last => Ok(engine.prefill(sequence, tokens, None, cancel)?.row(0).to_vec()),
            Pooling::Mean => engine.mean(sequence, tokens, cancel),
        })?;
        check_finite(&pooled)?;
        Ok(pooled)
    }

    /// The mean of the rows of all tokens, added in their order.
    fn mean(
        &mut self,
        sequence: SequenceId,
        tokens: &[u32],
        cancel: Option<&Cancel>,
    ) -> Result<Vec<f32>, RuntimeError> {
        self.sequences.check_room(sequence, tokens)?;
        let mut sums = vec![0.0_f64; self.manifest().model.n_outputs() as usize];
        for part in tokens.chunks(self.max_step_tokens().min(self.max_step_outputs())) {
            if cancel.is_some_and(Cancel::is_cancelled) {
                return Err(RuntimeError::Cancelled);
            }
            let feed = Feed { sequence, tokens: part, outputs: Outputs::All };
            let admitted = self.run(std::iter::once(feed), Origin::Prompt, &[])?;
            for row in self.logits(admitted).rows() {
                sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        }
        Ok(sums.into_iter().map(|sum| (sum / tokens.len() as f64) as f32).collect())
    }

    /// Works in a new sequence and removes it.
    fn in_sequence<T>(
        &mut self,
        work: impl FnOnce(&mut Engine, SequenceId) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        let sequence = self.add_sequence()?;
        let done = work(self, sequence);
        // A device fault is the error to report, not that the sequence cannot be removed after it.
        let removed = self.remove_sequence(sequence);
        done.and_then(|result| removed.map(|()| result))
    }

    /// Fails unless the plan computes logits, from which tokens are picked.
    ///
    /// # Errors
    /// [`RuntimeError::Head`].
    pub fn check_head(&self) -> Result<(), RuntimeError> {
        match self.manifest().model.head {
            Head::Logits => Ok(()),
            Head::Scores { .. } | Head::Hidden => Err(self.other_head("logits")),
        }
    }

    fn other_head(&self, expected: &'static str) -> RuntimeError {
        let (found, help) = match (&self.manifest().model.head, expected) {
            (Head::Logits, "hidden states") => ("logits", "build the model with jambac build --embeddings"),
            (Head::Logits, _) => ("logits", "its checkpoint is not of JambaForSequenceClassification"),
            (Head::Scores { .. }, "hidden states") => {
                ("scores of labels", "build the model with jambac build --embeddings")
            }
            (Head::Scores { .. }, _) => ("scores of labels", "jamba classify shows them"),
            (Head::Hidden, _) => {
                ("hidden states", "jamba embed shows them; a build without --embeddings has the model's head")
            }
        };
        RuntimeError::Head { found, expected, help }
    }
}

/// Divides a vector by its Euclidean norm. A vector of zeros stays as it is.
pub fn normalize(vector: &mut [f32]) {
    let norm = vector.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
    }
}

fn activate(activation: Activation, scores: &[f32]) -> Vec<f32> {
    match activation {
        Activation::Identity => scores.to_vec(),
        Activation::Sigmoid => {
            scores.iter().map(|&score| (1.0 / (1.0 + libm::exp(-f64::from(score)))) as f32).collect()
        }
        Activation::Softmax => {
            let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f64> = scores.iter().map(|&score| libm::exp(f64::from(score) - f64::from(most))).collect();
            let sum: f64 = powers.iter().sum();
            powers.into_iter().map(|power| (power / sum) as f32).collect()
        }
    }
}

fn check_finite(row: &[f32]) -> Result<(), RuntimeError> {
    match row.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(RuntimeError::NotFinite { largest: row[index] }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_become_probabilities() {
        let close = |found: Vec<f32>, expected: &[f32]| {
            assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{found:?}");
        };
        // 1 / (1 + e) and e / (1 + e), by hand; large scores do not overflow.
        close(activate(Activation::Softmax, &[0.0, 1.0]), &[0.268_941_43, 0.731_058_6]);
        close(activate(Activation::Softmax, &[1e30, 1e30]), &[0.5, 0.5]);
        close(activate(Activation::Sigmoid, &[0.0, 1.0, -200.0]), &[0.5, 0.731_058_6, 0.0]);
        close(activate(Activation::Identity, &[-3.5]), &[-3.5]);
        assert!(matches!(check_finite(&[0.0, f32::NAN]), Err(RuntimeError::NotFinite { .. })));
    }

    #[test]
    fn normalized_vectors_have_length_one() {
        let mut vector = [3.0, -4.0];
        normalize(&mut vector);
        assert_eq!(vector, [0.6, -0.8]);
        let mut zeros = [0.0; 2];
        normalize(&mut zeros);
        assert_eq!(zeros, [0.0; 2]);
    }
}
