//! What the server knows of the model without the step thread.

use std::sync::Arc;

use jamba_runtime::{AnswerSyntax, ChatTemplate, ConstraintCompiler, Engine, GenerateOptions, RuntimeError, Tokenizer};

use crate::app::unix_seconds;
use crate::error::{ApiError, Result};

/// Facts of the model for the page and the APIs.
pub(crate) struct Facts {
    /// Digest of the plan, in hexadecimal.
    pub(crate) digest: String,
    pub(crate) n_parameters: u64,
    pub(crate) n_layers: u64,
    pub(crate) d_model: u64,
    /// The format of the weights.
    pub(crate) weights: String,
    pub(crate) bytes: u64,
    /// Bytes of the weights on a GPU.
    pub(crate) device_bytes: u64,
}

/// The model of the plan.
pub(crate) struct Model {
    /// Names that requests may use; the first is the model's own.
    pub(crate) names: Vec<String>,
    /// Requests may use any name.
    pub(crate) any_name: bool,
    /// When the server opened it, in seconds since 1970.
    pub(crate) created: u64,
    /// Plan digest and target: equal fingerprints give equal bits.
    pub(crate) fingerprint: String,
    pub(crate) max_context: usize,
    pub(crate) max_sequences: usize,
    pub(crate) vocab: usize,
    pub(crate) defaults: GenerateOptions,
    /// True if the model's authors limit answers.
    pub(crate) has_own_limit: bool,
    pub(crate) facts: Facts,
    tokenizer: Option<Arc<Tokenizer>>,
    template: Option<Arc<ChatTemplate>>,
    constraints: Option<ConstraintCompiler>,
    /// The markup of answers.
    pub(crate) syntax: AnswerSyntax,
}

impl Model {
    /// `aliases` are further names of the model.
    pub(crate) fn new(
        engine: &Engine,
        aliases: Vec<String>,
        any_name: bool,
    ) -> std::result::Result<Model, RuntimeError> {
        let manifest = engine.manifest();
        let tokenizer = optional(engine.tokenizer())?;
        let template = optional(engine.chat_template())?.map(Arc::new);
        // Without a tokenizer or an end token, constraints are refused.
        let constraints = engine.constraint_compiler().ok();
        let syntax = template.as_ref().map(|template| AnswerSyntax::of(template, tokenizer.as_deref()));
        let digest = engine.plan_digest().to_hex();
        let mut names = vec![manifest.model.name.clone()];
        names.extend(aliases);
        Ok(Model {
            names,
            any_name,
            created: unix_seconds(),
            fingerprint: format!("fp_{}_{}", &digest[..12], engine.target()),
            max_context: manifest.limits.max_context as usize,
            max_sequences: manifest.limits.max_sequences as usize,
            vocab: manifest.model.vocab as usize,
            defaults: engine.generate_options(),
            facts: Facts {
                n_parameters: manifest.model.n_parameters,
                n_layers: manifest.model.n_layers,
                d_model: manifest.model.d_model,
                weights: manifest.model.formats.first().map(|(_, format)| format.clone()).unwrap_or_default(),
                bytes: engine.memory().weights,
                device_bytes: if engine.device() == "cpu" { 0 } else { engine.memory().weights },
                digest: digest.to_string(),
            },
            has_own_limit: manifest.generation.max_new_tokens.is_some(),
            tokenizer,
            template,
            constraints,
            syntax: syntax.unwrap_or_default(),
        })
    }

    /// The name to answer with, if a request may use `name`.
    pub(crate) fn check_name(&self, name: Option<&str>) -> Result<String> {
        match name {
            None => Ok(self.names[0].clone()),
            Some(name) if self.any_name || self.names.iter().any(|known| known == name) => Ok(name.to_owned()),
            Some(name) => Err(ApiError::not_found(
                "model_not_found",
                format!(
                    "the model {name:?} does not exist; this server has {:?} (--alias adds names, --any-model accepts all)",
                    self.names
                ),
            )
            .at("model")),
        }
    }

    pub(crate) fn tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        self.tokenizer
            .as_ref()
            .ok_or_else(|| ApiError::invalid("the plan has no tokenizer: send prompts as tokens to /v1/completions"))
    }

    pub(crate) fn constraints(&self) -> Result<&ConstraintCompiler> {
        let missing = "constraints need a tokenizer with an end token, which the plan does not have";
        self.constraints.as_ref().ok_or_else(|| ApiError::invalid(missing))
    }

    pub(crate) fn template(&self) -> Result<&Arc<ChatTemplate>> {
        self.template.as_ref().ok_or_else(|| {
            ApiError::invalid(
                "the model has no chat template: use /v1/completions, or build the plan with --chat-template FILE",
            )
        })
    }

    /// Most bytes of text in a body.
    pub(crate) fn max_prompt_bytes(&self) -> usize {
        // Ordinary text has a few bytes a token. What passes is refused when it is encoded.
        self.max_context.saturating_mul(256).clamp(1 << 16, 8 << 20)
    }
}

/// None for a section that the plan does not have.
fn optional<T>(section: std::result::Result<T, RuntimeError>) -> std::result::Result<Option<T>, RuntimeError> {
    match section {
        Ok(section) => Ok(Some(section)),
        Err(RuntimeError::NoSection(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
