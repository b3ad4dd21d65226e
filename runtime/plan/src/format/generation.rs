//! Sampling defaults of a model.

use serde::{Deserialize, Serialize};

/// Sampling defaults that the model's authors chose, as the checkpoint's generation_config.json states them. `None` where the
/// file has no value. `jamba_runtime::SamplerOptions::of_model` converts them to options.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationDefaults {
    /// False: pick the most likely token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_sample: Option<bool>,
    /// Divides the logits; 0 or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Number of most likely tokens to sample from; 0 for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Total probability of the most likely tokens to sample from; above 0, up to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Smallest probability to sample, as a fraction of the largest; 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Penalty for tokens that occurred; above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// Maximum number of new tokens; at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<u64>,
}

impl GenerationDefaults {
    /// True if there are no values.
    pub fn is_empty(&self) -> bool {
        *self == GenerationDefaults::default()
    }

    /// The values that exist, with the names of generation_config.json, as text.
    pub fn values(&self) -> Vec<(&'static str, String)> {
        let text = |value: Option<f64>| value.map(|value| value.to_string());
        let values = [
            ("do_sample", self.do_sample.map(|value| value.to_string())),
            ("temperature", text(self.temperature)),
            ("top_k", self.top_k.map(|value| value.to_string())),
            ("top_p", text(self.top_p)),
            ("min_p", text(self.min_p)),
            ("repetition_penalty", text(self.repetition_penalty)),
            ("max_new_tokens", self.max_new_tokens.map(|value| value.to_string())),
        ];
        values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}
