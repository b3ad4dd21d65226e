//! The fields about sampling and output that all requests for text share.

use std::collections::BTreeMap;

use jamba_runtime::sample::random_seed;
use jamba_runtime::{Constraint, GenerateOptions, SamplerOptions, SpecialTokens};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::{ApiError, Result};
use crate::model::Model;

/// Most answers of one request, whatever the plan.
const MAX_CHOICES: usize = 128;
/// Most stop strings of a request.
const MAX_STOPS: usize = 64;
/// Most bytes of a stop string. Every token of an answer is compared with all of them.
const MAX_STOP_BYTES: usize = 1024;

/// A value, or a list of them.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text, or a list of texts")]
pub(crate) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(crate) fn into_vec(self) -> Vec<T> {
        match self {
            OneOrMany::One(value) => vec![value],
            OneOrMany::Many(values) => values,
        }
    }
}

/// `stream_options`.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

/// `response_format`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
struct ResponseFormat {
    #[serde(rename = "type")]
    #[schema(pattern = "^(text|json_object|json_schema)$")]
    kind: String,
    json_schema: Option<NamedSchema>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
struct NamedSchema {
    #[schema(value_type = Option<Object>)]
    schema: Option<Value>,
}

/// vLLM's `structured_outputs`.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
struct StructuredOutputs {
    #[schema(value_type = Option<Object>)]
    json: Option<Value>,
    regex: Option<String>,
    grammar: Option<String>,
    choice: Option<Vec<String>>,
}

/// The fields; null is absent. Names are OpenAI's, and vLLM's where OpenAI has none.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(crate) struct Sampling {
    pub(crate) model: Option<String>,
    #[schema(minimum = 1)]
    pub(crate) n: Option<usize>,
    best_of: Option<usize>,
    pub(crate) stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) max_completion_tokens: Option<usize>,
    min_tokens: Option<usize>,
    #[schema(minimum = 0, maximum = 100)]
    temperature: Option<f32>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f32>,
    seed: Option<i64>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
    #[schema(exclusive_minimum = 0)]
    repetition_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    stop: Option<OneOrMany<String>>,
    stop_token_ids: Option<Vec<u32>>,
    include_stop_str_in_output: Option<bool>,
    ignore_eos: Option<bool>,
    allowed_token_ids: Option<Vec<u32>>,
    skip_special_tokens: Option<bool>,
    response_format: Option<ResponseFormat>,
    structured_outputs: Option<StructuredOutputs>,
    #[schema(value_type = Option<Object>)]
    guided_json: Option<Value>,
    guided_regex: Option<String>,
    guided_grammar: Option<String>,
    pub(crate) priority: Option<i32>,
    suffix: Option<String>,
    use_beam_search: Option<bool>,
}

/// What a stream tells about usage.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UsageChunks {
    /// A last chunk without choices.
    pub(crate) at_end: bool,
    /// Every chunk.
    pub(crate) always: bool,
}

impl Sampling {
    pub(crate) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    pub(crate) fn usage_chunks(&self) -> UsageChunks {
        let options = self.stream_options.unwrap_or_default();
        let at_end = options.include_usage.unwrap_or(false);
        UsageChunks { at_end, always: at_end && options.continuous_usage_stats.unwrap_or(false) }
    }

    /// Number of answers to each prompt.
    pub(crate) fn n(&self, model: &Model) -> Result<usize> {
        let most = MAX_CHOICES.min(model.max_sequences);
        match self.n.unwrap_or(1) {
            0 => Err(ApiError::field("n", "found 0, expected 1 or more")),
            n if n > most => {
                Err(ApiError::field("n", format!("found {n}, expected at most {most}, the plan's sequences")))
            }
            n => Ok(n),
        }
    }

    /// The limit on new tokens that the request names.
    pub(crate) fn max_new(&self) -> Option<usize> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// Refuses what would change the answer and is not supported. Other unknown fields are ignored, as every server does.
    fn refuse_unsupported(&self) -> Result<()> {
        if self.best_of.is_some_and(|best| best != self.n.unwrap_or(1)) {
            return Err(ApiError::unsupported("best_of", "not supported: use n"));
        }
        if self.use_beam_search == Some(true) {
            return Err(ApiError::unsupported("use_beam_search", "beam search is not supported"));
        }
        if self.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::unsupported("suffix", "Jamba models have no tokens to fill in the middle of a text"));
        }
        Ok(())
    }

    /// The options of the runtime, without `max_new`. They have a seed: the request's, or a random one.
    pub(crate) fn options(&self, model: &Model) -> Result<GenerateOptions> {
        self.refuse_unsupported()?;
        let stop = self.stop.clone().map(OneOrMany::into_vec).unwrap_or_default();
        if stop.iter().any(String::is_empty) {
            return Err(ApiError::field("stop", "found an empty string"));
        }
        if stop.len() > MAX_STOPS {
            return Err(ApiError::field("stop", format!("found {} strings, expected at most {MAX_STOPS}", stop.len())));
        }
        if let Some(long) = stop.iter().find(|stop| stop.len() > MAX_STOP_BYTES) {
            let n = long.len();
            return Err(ApiError::field(
                "stop",
                format!("found a text of {n} bytes, expected at most {MAX_STOP_BYTES}"),
            ));
        }
        if self.allowed_token_ids.as_ref().is_some_and(Vec::is_empty) {
            return Err(ApiError::field("allowed_token_ids", "found no tokens, expected at least one"));
        }
        let lists = [("allowed_token_ids", &self.allowed_token_ids), ("stop_token_ids", &self.stop_token_ids)];
        for (name, list) in lists.into_iter().filter_map(|(name, list)| Some((name, list.as_ref()?))) {
            let (n, most) = (list.len(), model.vocab);
            // Every step looks through the list.
            if n > most {
                return Err(ApiError::field(
                    name,
                    format!("found {n} tokens, expected at most {most}, the vocabulary"),
                ));
            }
            if let Some(id) = list.iter().find(|&&id| id as usize >= most) {
                return Err(ApiError::field(name, format!("found {id}, expected tokens below {most}")));
            }
        }
        Ok(GenerateOptions {
            sampler: self.sampler(model)?,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            min_new: self.min_tokens.unwrap_or(0),
            include_stop: self.include_stop_str_in_output.unwrap_or(false),
            allowed_tokens: self.allowed_token_ids.clone(),
            stop,
            stop_tokens: self.stop_token_ids.clone().unwrap_or_default(),
            special_tokens: if self.skip_special_tokens == Some(false) {
                SpecialTokens::All
            } else {
                SpecialTokens::Marks
            },
            constraint: self.constraint()?,
            ..GenerateOptions::default()
        })
    }

    fn sampler(&self, model: &Model) -> Result<SamplerOptions> {
        let default = &model.defaults.sampler;
        let within = |name: &str, value: Option<f32>, default: f32, fits: fn(f32) -> bool, expected: &str| match value {
            Some(value) if !fits(value) => Err(ApiError::field(name, format!("found {value}, expected {expected}"))),
            value => Ok(value.unwrap_or(default)),
        };
        let top_k = match self.top_k {
            Some(-1 | 0) => 0,
            Some(k) => {
                usize::try_from(k).map_err(|_| ApiError::field("top_k", format!("found {k}, expected −1 or more")))?
            }
            None => default.top_k,
        };
        let penalty = |x: f32| (-2.0..=2.0).contains(&x);
        Ok(SamplerOptions {
            temperature: within(
                "temperature",
                self.temperature,
                default.temperature,
                |t| (0.0..=100.0).contains(&t),
                "0 … 100",
            )?,
            top_k,
            top_p: within("top_p", self.top_p, default.top_p, |p| p > 0.0 && p <= 1.0, "above 0, up to 1")?,
            min_p: within("min_p", self.min_p, default.min_p, |p| (0.0..=1.0).contains(&p), "0 … 1")?,
            repetition_penalty: within(
                "repetition_penalty",
                self.repetition_penalty,
                default.repetition_penalty,
                |x| x > 0.0 && x.is_finite(),
                "above 0",
            )?,
            presence_penalty: within("presence_penalty", self.presence_penalty, 0.0, penalty, "−2 … 2")?,
            frequency_penalty: within("frequency_penalty", self.frequency_penalty, 0.0, penalty, "−2 … 2")?,
            logit_bias: self.logit_bias(model)?,
            // Short, so that it can be typed again; some clients read numbers as f64.
            seed: Some(self.seed.map_or_else(|| u64::from(random_seed() as u32), |seed| seed as u64)),
        })
    }

    fn logit_bias(&self, model: &Model) -> Result<Vec<(u32, f32)>> {
        let bias = |(token, bias): (&String, &f32)| {
            // One way to write a token, so that none comes twice.
            let id = token.parse().ok().filter(|&id: &u32| (id as usize) < model.vocab && id.to_string() == *token);
            let id = id.ok_or_else(|| {
                ApiError::field("logit_bias", format!("found {token:?}, expected a token below {}", model.vocab))
            })?;
            match (-100.0..=100.0).contains(bias) {
                // OpenAI: −100 bans a token.
                true if *bias == -100.0 => Ok((id, f32::NEG_INFINITY)),
                true => Ok((id, *bias)),
                false => Err(ApiError::field("logit_bias", format!("token {id}: found {bias}, expected −100 … 100"))),
            }
        };
        self.logit_bias.iter().flatten().map(bias).collect()
    }

    fn constraint(&self) -> Result<Option<Constraint>> {
        let mut given = Vec::new();
        if let Some(format) = &self.response_format {
            let constraint = match (format.kind.as_str(), &format.json_schema) {
                ("text", _) => None,
                ("json_object", _) => Some(Constraint::JsonSchema(serde_json::json!({ "type": "object" }))),
                ("json_schema", Some(NamedSchema { schema: Some(schema) })) => {
                    Some(Constraint::JsonSchema(schema.clone()))
                }
                ("json_schema", _) => {
                    return Err(ApiError::field("response_format.json_schema.schema", "missing"));
                }
                (other, _) => {
                    return Err(ApiError::field(
                        "response_format.type",
                        format!("found {other:?}, expected \"text\", \"json_object\" or \"json_schema\""),
                    ));
                }
            };
            given.extend(constraint.map(|constraint| ("response_format", constraint)));
        }
        let StructuredOutputs { json, regex, grammar, choice } = self.structured_outputs.clone().unwrap_or_default();
        let add = |given: &mut Vec<_>, name, constraint: Option<Constraint>| {
            given.extend(constraint.map(|constraint| (name, constraint)));
        };
        add(&mut given, "structured_outputs", json.map(schema_of).transpose()?.map(Constraint::JsonSchema));
        add(&mut given, "structured_outputs", regex.map(Constraint::Regex));
        add(&mut given, "structured_outputs", grammar.map(Constraint::Lark));
        add(&mut given, "structured_outputs", choice.map(one_of).transpose()?);
        add(
            &mut given,
            "guided_json",
            self.guided_json.clone().map(schema_of).transpose()?.map(Constraint::JsonSchema),
        );
        add(&mut given, "guided_regex", self.guided_regex.clone().map(Constraint::Regex));
        add(&mut given, "guided_grammar", self.guided_grammar.clone().map(Constraint::Lark));
        match given.len() {
            0 | 1 => Ok(given.pop().map(|(_, constraint)| constraint)),
            n => Err(ApiError::field(given[1].0, format!("found {n} constraints on one answer, expected one"))),
        }
    }
}

/// A schema, which vLLM's clients also send as text.
fn schema_of(value: Value) -> Result<Value> {
    match value {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|error| ApiError::field("guided_json", format!("the text is not a JSON schema: {error}"))),
        value => Ok(value),
    }
}

/// One of these texts.
fn one_of(choices: Vec<String>) -> Result<Constraint> {
    if choices.is_empty() || choices.iter().any(String::is_empty) {
        return Err(ApiError::field("structured_outputs.choice", "expected texts that are not empty"));
    }
    let quoted: Vec<String> = choices.iter().map(|text| serde_json::Value::from(text.as_str()).to_string()).collect();
    Ok(Constraint::Lark(format!("start: {}", quoted.join(" | "))))
}
