//! What a model is asked, as text, as a file, or as tokens.

use std::path::PathBuf;

use jamba_runtime::Engine;

use crate::failure::Failure;

/// What the model is asked: exactly one of these.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct PromptArgs {
    /// The prompt
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file with the prompt
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// The prompt as token ids: `1,2,3`; needs no tokenizer
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    tokens: Option<Vec<u32>>,
}

impl PromptArgs {
    /// The prompt's tokens, behind `n_before` others; the token that begins a text stands only where there are none.
    pub(crate) fn tokens(&self, engine: &Engine, n_before: u64) -> Result<Vec<u32>, Failure> {
        if let Some(tokens) = &self.tokens {
            return Ok(tokens.clone());
        }
        let text = match (&self.prompt, &self.prompt_file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => {
                std::fs::read_to_string(path).map_err(|error| Failure::file(path, "read it", error))?
            }
            (None, None) => return Err(Failure::Usage("a prompt is needed".to_owned())),
        };
        let tokenizer = engine.tokenizer()?;
        let tokens = if n_before == 0 { tokenizer.encode(&text)? } else { tokenizer.encode_plain(&text)? };
        if tokens.is_empty() {
            let why = if n_before == 0 { "the model has no token that begins a text" } else { "it must go on" };
            return Err(Failure::Input(format!("the prompt is empty, and {why}")));
        }
        Ok(tokens)
    }
}
