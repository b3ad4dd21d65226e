//! The prompt: text, a file, standard input, or tokens.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use jamba_program::tokens::Tokens;
use jamba_runtime::{AddedTokens, Chat, ChatTemplate, Engine};
use serde_json::json;

use crate::failure::Failure;
use crate::generate::{Content, as_text, read_all, read_text};
use crate::open::PlanArg;

/// The prompt: at most one of these; standard input if it is a pipe and none is given.
#[derive(clap::Args)]
#[group(multiple = false)]
pub(crate) struct PromptArgs {
    /// Prompt text [default: standard input, if it is a pipe]
    #[arg(value_name = "PROMPT")]
    text: Option<String>,
    /// Prompt text
    #[arg(short = 'p', long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// File with the prompt; `-` is standard input. One line break at its end is dropped, as from a pipe
    #[arg(short = 'f', long, value_name = "FILE", alias = "file")]
    prompt_file: Option<PathBuf>,
    /// Prompt as token ids: `1,2,3` or `"1 2 3"`; needs no tokenizer
    #[arg(long, value_name = "IDS")]
    tokens: Option<Tokens>,
}

pub(crate) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

impl PromptArgs {
    /// The file that holds the prompt.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.prompt_file.as_deref()
    }

    /// The arguments with the prompt that `plan` took for its own: with `-m PLAN`, the first argument is the prompt.
    pub(crate) fn after(mut self, plan: &mut PlanArg) -> Result<PromptArgs, Failure> {
        let Some(first) = plan.take_first() else { return Ok(self) };
        let has_other = [self.text.is_some(), self.prompt.is_some(), self.prompt_file.is_some(), self.tokens.is_some()];
        if has_other.contains(&true) {
            let first = first.display();
            return Err(Failure::Usage(format!("found {first} and -m, expected the plan once and one prompt")));
        }
        let text = first.into_os_string().into_string();
        self.text = Some(text.map_err(|_| Failure::Usage("the prompt is not UTF-8".to_owned()))?);
        Ok(self)
    }

    /// Reads the prompt; fails if there is none.
    pub(crate) fn read(self) -> Result<Prompt, Failure> {
        self.read_if_given()?.ok_or_else(|| {
            let ways =
                "as an argument after the plan, --prompt TEXT, --prompt-file FILE, --tokens 1,2,3, or text from a pipe";
            Failure::Usage(format!("a prompt is needed: {ways}"))
        })
    }

    /// Reads the prompt, if there is one.
    pub(crate) fn read_if_given(self) -> Result<Option<Prompt>, Failure> {
        match (self.tokens, self.text.or(self.prompt), self.prompt_file) {
            (Some(Tokens(tokens)), ..) => Ok(Some(Prompt::Tokens(tokens))),
            (None, Some(text), _) => Ok(Some(Prompt::Text(text))),
            (None, None, Some(path)) if path == Path::new("-") => standard_input().map(Prompt::Text).map(Some),
            (None, None, Some(path)) => read_text(&path).map(without_line_break).map(Prompt::Text).map(Some),
            (None, None, None) => {
                let text = if io::stdin().is_terminal() { String::new() } else { standard_input()? };
                Ok((!text.is_empty()).then_some(Prompt::Text(text)))
            }
        }
    }
}

fn standard_input() -> Result<String, Failure> {
    as_text(read_all(io::stdin().lock(), "standard input")?, "standard input").map(without_line_break)
}

/// The text without one line break at its end, which `echo` and editors add.
fn without_line_break(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

impl Prompt {
    /// Encodes the prompt, which follows `n_before` tokens of the sequence. Adds a start token only if `n_before` is 0.
    pub(crate) fn tokens(self, engine: &Engine, n_before: u64) -> Result<Vec<u32>, Failure> {
        let text = match self {
            Prompt::Tokens(tokens) => return Ok(tokens),
            Prompt::Text(text) => text,
        };
        let added = if n_before == 0 { AddedTokens::AsConfigured } else { AddedTokens::None };
        let tokens = engine.tokenizer()?.encode_within(&text, Some(room(engine, n_before)), added)?;
        if tokens.is_empty() {
            let why =
                if n_before == 0 { "the model has no start token" } else { "a loaded state needs further tokens" };
            return Err(Failure::Input(format!("the prompt is empty, and {why}")));
        }
        Ok(tokens)
    }

    /// Encodes a chat with an optional system message and the prompt as user message.
    pub(crate) fn chat_tokens(
        self,
        engine: &Engine,
        (template, content): (&ChatTemplate, Content),
        system: Option<&str>,
    ) -> Result<Vec<u32>, Failure> {
        let Prompt::Text(text) = self else {
            return Err(Failure::Usage("--tokens cannot be a chat message: give its text with --prompt".to_owned()));
        };
        let system = system.map(|text| json!({ "role": "system", "content": text }));
        let messages = system.into_iter().chain([json!({ "role": "user", "content": text })]).collect();
        let chat = Chat { messages, add_generation_prompt: true, ..Chat::default() };
        let tokens = content.encode(&*engine.tokenizer()?, template, &chat, room(engine, 0))?.tokens;
        if tokens.is_empty() {
            return Err(empty_chat(template));
        }
        Ok(tokens)
    }
}

/// The failure of a chat template that makes no token of a chat.
pub(crate) fn empty_chat(template: &ChatTemplate) -> Failure {
    let place = template.origin().map(|origin| format!(" {origin}")).unwrap_or_default();
    Failure::Input(format!("the chat template{place} makes an empty prompt of this chat"))
}

/// Tokens that fit a sequence after those that it has.
fn room(engine: &Engine, n_before: u64) -> u64 {
    let limits = &engine.manifest().limits;
    limits.max_context.min(limits.kv_tokens).saturating_sub(n_before)
}

#[cfg(test)]
mod tests {
    use super::without_line_break;

    #[test]
    fn one_line_break_is_dropped() {
        let cut = |text: &str| without_line_break(text.to_owned());
        assert_eq!([cut("a\n"), cut("a\r\n"), cut("a"), cut("\n")], ["a", "a", "a", ""]);
        assert_eq!([cut("a\n\n"), cut("a\r"), cut(" a ")], ["a\n", "a\r", " a "]);
    }
}
