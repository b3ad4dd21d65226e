//! generation_config.json: sampling defaults and end-of-text tokens.
//!
//! Keys are those of transformers' `GenerationConfig`. `null` counts as absent.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::Result;
use crate::json::{Keys, show};
use crate::remark::Remark;

/// Keys that change picks in transformers and are not supported here, with their neutral values.
const UNSUPPORTED: &[(&str, &[f64])] = &[
    ("num_beams", &[1.0]),
    ("num_beam_groups", &[1.0]),
    ("penalty_alpha", &[0.0]),
    ("diversity_penalty", &[0.0]),
    ("no_repeat_ngram_size", &[0.0]),
    ("encoder_no_repeat_ngram_size", &[0.0]),
    ("encoder_repetition_penalty", &[1.0]),
    ("typical_p", &[1.0]),
    ("epsilon_cutoff", &[0.0]),
    ("eta_cutoff", &[0.0]),
    ("guidance_scale", &[1.0]),
    ("min_length", &[0.0]),
    ("min_new_tokens", &[0.0]),
    ("bad_words_ids", &[]),
    ("suppress_tokens", &[]),
    ("begin_suppress_tokens", &[]),
    ("forced_bos_token_id", &[]),
    ("forced_eos_token_id", &[]),
    ("sequence_bias", &[]),
    ("exponential_decay_length_penalty", &[]),
    ("stop_strings", &[]),
    ("watermarking_config", &[]),
    ("num_return_sequences", &[1.0]),
    ("max_time", &[]),
    ("token_healing", &[]),
    ("dola_layers", &[]),
];

/// Keys that change no pick: ids that other files give, the shape of transformers' results, its caches and faster ways of decoding.
const WITHOUT_EFFECT: &[&str] = &[
    "bos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "transformers_version",
    "early_stopping",
    "length_penalty",
    "renormalize_logits",
    "remove_invalid_values",
    "use_cache",
    "cache_implementation",
    "cache_config",
    "return_legacy_cache",
    "return_dict_in_generate",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "output_logits",
    "low_memory",
    "is_assistant",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "target_lookbehind",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "prefill_chunk_size",
    "compile_config",
    "disable_compile",
    "generation_kwargs",
    "trust_remote_code",
    "chat_format",
];

/// Sampling defaults of the model's authors. `None` where generation_config.json has no value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Whether to sample; false is greedy.
    pub do_sample: Option<bool>,
    /// Divides the logits; 0 or more.
    pub temperature: Option<f64>,
    /// Number of most likely tokens to sample from; 0 for all. -1, vLLM's form of "all", is read as 0.
    pub top_k: Option<u32>,
    /// Total probability of the most likely tokens to sample from; above 0, up to 1.
    pub top_p: Option<f64>,
    /// Smallest probability to sample, as a fraction of the largest; 0 to 1.
    pub min_p: Option<f64>,
    /// Penalty for tokens that occurred; above 0.
    pub repetition_penalty: Option<f64>,
    /// Maximum number of new tokens; at least 1.
    pub max_new_tokens: Option<u64>,
    /// The end-of-text tokens inside the vocabulary (`eos_token_id`).
    pub(crate) eos: Vec<u32>,
}

impl GenerationConfig {
    /// Reads `text`, the content of the generation_config.json at `path`, for a vocabulary of `vocab` tokens.
    pub(crate) fn parse(text: &[u8], path: &Path, vocab: usize) -> Result<(Self, Vec<Remark>)> {
        let mut keys = Keys::parse(text, path)?;
        let config = Self {
            do_sample: keys.take_non_null("do_sample").map(|value| as_bool(&keys, &value)).transpose()?,
            temperature: number(&mut keys, "temperature", "a number from 0", |x| x >= 0.0)?,
            top_k: top_k(&mut keys)?,
            // 0 keeps the most likely token, in transformers too.
            top_p: number(&mut keys, "top_p", "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))?
                .map(|p| p.max(1e-6)),
            min_p: number(&mut keys, "min_p", "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))?,
            repetition_penalty: number(&mut keys, "repetition_penalty", "a number above 0", |x| x > 0.0)?,
            max_new_tokens: match keys.take_non_null("max_new_tokens") {
                Some(value) => Some(keys.as_integer("max_new_tokens", &value, 1)? as u64),
                None => None,
            },
            eos: keys.token_ids("eos_token_id", vocab)?.unwrap_or_default(),
        };
        if let Some(value) = keys.take_non_null("max_length").filter(|_| config.max_new_tokens.is_none()) {
            let text = format!(
                "{}: max_length: found {}, which counts the prompt too: ignored; max_new_tokens there, or jamba run -n, limits answers",
                path.display(),
                show(&value)
            );
            keys.remark(Remark::Note(text));
        }
        for (key, neutral) in UNSUPPORTED {
            if let Some(value) = keys.take_non_null(key).filter(|value| !is_neutral(value, neutral)) {
                let text =
                    format!("{}: {key}: found {}, which is not supported: ignored", path.display(), show(&value));
                keys.remark(Remark::Warning(text));
            }
        }
        let (unread, mut remarks) = keys.into_unread();
        let is_unknown = |(key, value): &(&String, &Value)| {
            !value.is_null() && !key.starts_with('_') && !WITHOUT_EFFECT.contains(&key.as_str())
        };
        let unknown: Vec<String> =
            unread.iter().filter(is_unknown).map(|(key, value)| format!("{key} = {}", show(value))).collect();
        if !unknown.is_empty() {
            remarks.push(Remark::Note(format!("{}: ignored, as unknown: {}", path.display(), unknown.join(", "))));
        }
        Ok((config, remarks))
    }
}

fn is_neutral(value: &Value, neutral: &[f64]) -> bool {
    [json!([]), json!({}), json!(false)].contains(value)
        || value.as_f64().is_some_and(|number| neutral.contains(&number))
}

fn as_bool(keys: &Keys, value: &Value) -> Result<bool> {
    value.as_bool().ok_or_else(|| keys.refuse("do_sample", show(value), "true or false"))
}

fn number(keys: &mut Keys, key: &str, expected: &str, fits: impl Fn(f64) -> bool) -> Result<Option<f64>> {
    let Some(value) = keys.take_non_null(key) else { return Ok(None) };
    match value.as_f64().filter(|&number| fits(number) && number <= f64::from(f32::MAX)) {
        Some(number) => Ok(Some(number)),
        None => Err(keys.refuse(key, show(&value), expected)),
    }
}

fn top_k(keys: &mut Keys) -> Result<Option<u32>> {
    let Some(value) = keys.take_non_null("top_k") else { return Ok(None) };
    match value.as_i64().filter(|&k| k >= -1) {
        Some(k) => Ok(Some(u32::try_from(k.max(0)).unwrap_or(u32::MAX))),
        None => Err(keys.refuse("top_k", show(&value), "an integer from 0, where 0 keeps all tokens")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(GenerationConfig, Vec<Remark>)> {
        GenerationConfig::parse(text.as_bytes(), Path::new("generation_config.json"), 600)
    }

    #[test]
    fn values_are_those_of_the_file_and_null_is_absent() {
        let (config, remarks) = parse(
            r#"{"do_sample": true, "temperature": 0.6, "top_k": 50, "top_p": 0.95, "min_p": null, "repetition_penalty": 1.05,
                "max_new_tokens": 4096, "eos_token_id": [2, 519], "num_beams": 1, "suppress_tokens": []}"#,
        )
        .unwrap();
        let expected = GenerationConfig {
            do_sample: Some(true),
            temperature: Some(0.6),
            top_k: Some(50),
            top_p: Some(0.95),
            min_p: None,
            repetition_penalty: Some(1.05),
            max_new_tokens: Some(4096),
            eos: vec![2, 519],
        };
        assert_eq!((config, remarks), (expected, vec![]));
        assert_eq!(parse(r#"{"_from_model_config": true, "eos_token_id": null}"#).unwrap(), Default::default());
        assert_eq!(parse(r#"{"top_k": -1}"#).unwrap().0.top_k, Some(0));
    }

    #[test]
    fn values_out_of_range_are_refused_by_key() {
        for (text, error) in [
            (r#"{"temperature": -0.5}"#, "temperature: found -0.5, expected a number from 0"),
            (r#"{"temperature": "hot"}"#, "temperature: found \"hot\", expected a number from 0"),
            (r#"{"top_p": 1.5}"#, "top_p: found 1.5, expected a number from 0 to 1"),
            (r#"{"top_k": 2.5}"#, "top_k: found 2.5, expected an integer from 0, where 0 keeps all tokens"),
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty: found 0, expected a number above 0"),
            (r#"{"do_sample": "yes"}"#, "do_sample: found \"yes\", expected true or false"),
            (r#"{"max_new_tokens": 0}"#, "max_new_tokens: found 0, expected an integer from 1 to 2147483647"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), format!("generation_config.json: {error}"));
        }
    }

    #[test]
    fn what_is_ignored_is_named() {
        let remarks = |text: &str| parse(text).unwrap().1.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            remarks(r#"{"max_length": 4096}"#),
            [
                "note: generation_config.json: max_length: found 4096, which counts the prompt too: ignored; max_new_tokens there, \
                 or jamba run -n, limits answers"
            ]
        );
        assert_eq!(remarks(r#"{"max_length": 4096, "max_new_tokens": 7}"#), [""; 0], "as transformers does");
        assert_eq!(
            remarks(r#"{"eos_token_id": []}"#),
            ["warning: generation_config.json: eos_token_id: found [], which names no token: nothing is read from it"]
        );
        assert_eq!(
            remarks(r#"{"temprature": 0.5, "use_cache": true, "_from_model_config": true, "other": null}"#),
            ["note: generation_config.json: ignored, as unknown: temprature = 0.5"]
        );
    }

    #[test]
    fn unsupported_choices_are_named() {
        let (_, remarks) = parse(r#"{"num_beams": 4, "no_repeat_ngram_size": 3, "typical_p": 1.0}"#).unwrap();
        let text: Vec<String> = remarks.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "warning: generation_config.json: num_beams: found 4, which is not supported: ignored",
                "warning: generation_config.json: no_repeat_ngram_size: found 3, which is not supported: ignored",
            ]
        );
    }
}
