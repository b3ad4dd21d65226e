//! What a plan computes of the hidden states after the last norm.

use serde::{Deserialize, Serialize};

use super::Model;

/// What a plan computes of the hidden states after the last norm. The results of a step are called logits for every head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// A logit for each token of the vocabulary.
    #[default]
    Logits,
    /// A score for each label.
    Scores {
        /// Names of the labels.
        labels: Vec<String>,
        /// How scores become probabilities.
        activation: Activation,
    },
    /// Nothing: the hidden states, [`Model::d_model`] numbers, are the result.
    Hidden,
}

/// How scores become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// One label of several: `exp(s) / Σ exp(s)`.
    Softmax,
    /// Each label by itself: `1 / (1 + exp(-s))`.
    Sigmoid,
    /// None: the score is the number that the model predicts.
    Identity,
}

impl Activation {
    /// The name in texts.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Softmax => "softmax",
            Activation::Sigmoid => "sigmoid",
            Activation::Identity => "identity",
        }
    }
}

impl Head {
    pub(super) fn is_logits(&self) -> bool {
        *self == Head::Logits
    }
}

impl Model {
    /// Number of results of a row: logits, scores or hidden states.
    pub fn n_outputs(&self) -> u64 {
        match &self.head {
            Head::Logits => self.vocab,
            Head::Scores { labels, .. } => labels.len() as u64,
            Head::Hidden => self.d_model,
        }
    }
}
