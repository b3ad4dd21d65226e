//! Chat commands: lines that start with a slash.

use std::path::PathBuf;
use std::time::Duration;

use jamba_runtime::{Engine, Generated};

use crate::failure::Failure;
use crate::timing::Memory;

/// The output of `/help`.
pub(crate) const HELP: &str = "\
In a chat:
  /help          list commands
  /save FILE     save the conversation and the model's state
  /load FILE     load a saved conversation
  /reset         start a new conversation
  /regenerate    replace the last answer
  /undo          remove the last message and its answer
  /system TEXT   set the system message; remove it without TEXT
  /stats         show tokens, rates and memory
  /exit          end the chat
A backslash at the end of a line continues the message on the next line. Lines between two lines of \"\"\" are one message.
To start a message with a slash, type two.
";

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ChatCommand {
    Help,
    Save(PathBuf),
    Load(PathBuf),
    Reset,
    Regenerate,
    Undo,
    System(String),
    Stats,
    Exit,
}

impl ChatCommand {
    /// Parses a line; None if it is a message.
    pub(crate) fn parse(line: &str) -> Result<Option<ChatCommand>, Failure> {
        if !line.starts_with('/') || line.starts_with("//") {
            return Ok(None);
        }
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let file = || match rest.is_empty() {
            true => Err(Failure::Input(format!("{word}: expected a file: {word} chat.state"))),
            false => Ok(PathBuf::from(rest)),
        };
        Ok(Some(match word {
            "/help" => ChatCommand::Help,
            "/save" => ChatCommand::Save(file()?),
            "/load" => ChatCommand::Load(file()?),
            "/reset" => ChatCommand::Reset,
            "/regenerate" => ChatCommand::Regenerate,
            "/undo" => ChatCommand::Undo,
            "/system" => ChatCommand::System(rest.to_owned()),
            "/stats" => ChatCommand::Stats,
            "/exit" | "/quit" | "/bye" => ChatCommand::Exit,
            _ => {
                return Err(Failure::Input(format!(
                    "found {word}, which is not a command: /help lists commands; // starts a message with a slash"
                )));
            }
        }))
    }
}

/// Statistics of the conversation.
#[derive(Default)]
pub(crate) struct Stats {
    answers: usize,
    prompt_tokens: usize,
    prefill: Duration,
    new_tokens: usize,
    decode_steps: usize,
    decode: Duration,
}

impl Stats {
    /// Adds an answer to a prompt of `n_prompt` tokens that took `prefill`.
    pub(crate) fn add(&mut self, (n_prompt, prefill): (usize, Duration), generated: &Generated) {
        self.answers += 1;
        self.prompt_tokens += n_prompt;
        self.prefill += prefill;
        self.new_tokens += generated.tokens.len();
        self.decode_steps += generated.decode_steps;
        self.decode += generated.decode;
    }

    /// The output of `/stats`; `read` is the number of tokens in the sequence.
    pub(crate) fn report(&self, engine: &Engine, read: u64) -> String {
        let rate = |n: usize, time: Duration| if n == 0 { 0.0 } else { n as f64 / time.as_secs_f64() };
        format!(
            "context  {read} of {} tokens\nread     {} tokens, {:.1} tokens/s\nanswers  {}, {} tokens, {:.1} tokens/s\nmemory   {}\n",
            engine.manifest().limits.max_context,
            self.prompt_tokens,
            rate(self.prompt_tokens, self.prefill),
            self.answers,
            self.new_tokens,
            rate(self.decode_steps, self.decode),
            Memory::of(engine).summary(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_messages() {
        let parse = |line: &str| ChatCommand::parse(line).unwrap();
        assert_eq!(parse("/save a file.state "), Some(ChatCommand::Save("a file.state".into())));
        assert_eq!(parse("/system Be brief."), Some(ChatCommand::System("Be brief.".to_owned())));
        assert_eq!(
            (parse("/system"), parse("/exit")),
            (Some(ChatCommand::System(String::new())), Some(ChatCommand::Exit))
        );
        assert_eq!((parse("Hello /help"), parse("//etc is a folder"), parse("")), (None, None, None));
        let says = |line: &str| match ChatCommand::parse(line) {
            Err(Failure::Input(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(says("/loud and clear").contains("/loud") && says("/loud").contains("/help"));
        assert!(says("/save").contains("expected a file"));
        for word in HELP.split_whitespace().filter(|word| word.starts_with('/')) {
            assert!(parse(&format!("{word} x")).is_some(), "{word}");
        }
    }
}
