//! What a line asks for beside an answer.

use std::path::PathBuf;
use std::time::Duration;

use jamba_runtime::{Engine, Generated};

use crate::failure::Failure;
use crate::timing::Memory;

/// The list of orders.
pub(crate) const HELP: &str = "\
In a chat:
  /help          this list
  /save FILE     write the conversation and the model's state
  /load FILE     go on from there
  /reset         begin a new conversation
  /regenerate    another answer to what was said last
  /system TEXT   tell the model something else before the conversation; nothing, without TEXT
  /stats         tokens, times and memory so far
  /exit          end the chat
A line that ends with a backslash goes on in the next one; lines between two lines of \"\"\" belong together.
A message that begins with a slash begins with two.
";

/// An order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Help,
    Save(PathBuf),
    Load(PathBuf),
    Reset,
    Regenerate,
    System(String),
    Stats,
    Exit,
}

impl Order {
    /// The order in a line; None where the line is something to say.
    pub(crate) fn parse(line: &str) -> Result<Option<Order>, Failure> {
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
            "/help" => Order::Help,
            "/save" => Order::Save(file()?),
            "/load" => Order::Load(file()?),
            "/reset" => Order::Reset,
            "/regenerate" => Order::Regenerate,
            "/system" => Order::System(rest.to_owned()),
            "/stats" => Order::Stats,
            "/exit" | "/quit" | "/bye" => Order::Exit,
            _ => {
                return Err(Failure::Input(format!(
                    "found {word}, which is no order: /help lists them; // begins a message with a slash"
                )));
            }
        }))
    }
}

/// What the conversation took so far.
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
    /// Adds an answer to so many tokens.
    pub(crate) fn add(&mut self, n_prompt: usize, generated: &Generated) {
        self.answers += 1;
        self.prompt_tokens += n_prompt;
        self.prefill += generated.prefill;
        self.new_tokens += generated.tokens.len();
        self.decode_steps += generated.decode_steps;
        self.decode += generated.decode;
    }

    /// A few lines; `read` is the number of tokens that the model has read of this conversation.
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
    fn lines_are_orders_or_messages() {
        let parse = |line: &str| Order::parse(line).unwrap();
        assert_eq!(parse("/save a file.state "), Some(Order::Save("a file.state".into())));
        assert_eq!(parse("/system Be brief."), Some(Order::System("Be brief.".to_owned())));
        assert_eq!((parse("/system"), parse("/exit")), (Some(Order::System(String::new())), Some(Order::Exit)));
        assert_eq!((parse("Hello /help"), parse("//etc is a folder"), parse("")), (None, None, None));
        let says = |line: &str| match Order::parse(line) {
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
