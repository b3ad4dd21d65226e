//! What a model is asked, as text, as a file, through a pipe, or as tokens.

use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use jamba_runtime::{Chat, Engine};
use serde_json::json;

use crate::failure::Failure;
use crate::generate::{as_text, read_text};

/// What the model is asked: at most one of these; none of them where it is piped in.
#[derive(clap::Args)]
#[group(multiple = false)]
pub(crate) struct PromptArgs {
    /// The prompt; standard input, where that is a pipe and no prompt is given
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file with the prompt; `-` is standard input
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// The prompt as token ids: `1,2,3`; needs no tokenizer
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    tokens: Option<Vec<u32>>,
}

/// A prompt that was read.
pub(crate) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

impl PromptArgs {
    /// Reads the prompt.
    pub(crate) fn read(self) -> Result<Prompt, Failure> {
        match (self.tokens, self.prompt, self.prompt_file) {
            (Some(tokens), ..) => Ok(Prompt::Tokens(tokens)),
            (None, Some(text), _) => Ok(Prompt::Text(text)),
            (None, None, Some(path)) if path == Path::new("-") => standard_input().map(Prompt::Text),
            (None, None, Some(path)) => read_text(&path).map(Prompt::Text),
            (None, None, None) => {
                let text = if io::stdin().is_terminal() { String::new() } else { standard_input()? };
                match text.is_empty() {
                    true => Err(Failure::Usage(
                        "a prompt is needed: --prompt TEXT, --prompt-file FILE, --tokens 1,2,3, or text through a pipe"
                            .to_owned(),
                    )),
                    false => Ok(Prompt::Text(text)),
                }
            }
        }
    }
}

fn standard_input() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut bytes);
    read.map_err(|error| Failure::Input(format!("cannot read standard input: {error}")))?;
    as_text(bytes, "standard input")
}

impl Prompt {
    /// The prompt's tokens, behind `n_before` others; the token that begins a text stands only where there are none.
    pub(crate) fn tokens(self, engine: &Engine, n_before: u64) -> Result<Vec<u32>, Failure> {
        let text = match self {
            Prompt::Tokens(tokens) => return Ok(tokens),
            Prompt::Text(text) => text,
        };
        let tokenizer = engine.tokenizer()?;
        let tokens = if n_before == 0 { tokenizer.encode(&text)? } else { tokenizer.encode_plain(&text)? };
        if tokens.is_empty() {
            let why = if n_before == 0 { "the model has no token that begins a text" } else { "it must go on" };
            return Err(Failure::Input(format!("the prompt is empty, and {why}")));
        }
        Ok(tokens)
    }

    /// The tokens of a chat: what the system says, where it says something, and the prompt as its user's message.
    pub(crate) fn chat_tokens(self, engine: &Engine, system: Option<&str>) -> Result<Vec<u32>, Failure> {
        let Prompt::Text(text) = self else {
            return Err(Failure::Usage("--tokens are no message of a chat: give its text with --prompt".to_owned()));
        };
        let system = system.map(|text| json!({ "role": "system", "content": text }));
        let messages = system.into_iter().chain([json!({ "role": "user", "content": text })]).collect();
        let chat = Chat { messages, add_generation_prompt: true, ..Chat::default() };
        Ok(engine.tokenizer()?.encode_plain(&engine.chat_template()?.render_chat(&chat)?)?)
    }
}
