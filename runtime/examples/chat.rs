//! A conversation on standard input and output. The sequence keeps its state: each turn prefills only new tokens.
//!
//! ```text
//! cargo run --release --example chat -- jamba.plan
//! ```

use std::error::Error;
use std::io::{self, BufRead, Write};
use std::ops::ControlFlow;
use std::path::Path;

use jamba_runtime::{Chat, Engine, GenerateOptions, Message, OpenOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let plan = std::env::args().nth(1).ok_or("usage: chat PLAN")?;
    run(plan.as_ref(), &mut io::stdin().lock(), &mut io::stdout())
}

/// Answers each line of the input.
pub(crate) fn run(plan: &Path, input: &mut dyn BufRead, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let mut engine = Engine::open(plan, OpenOptions::default())?;
    let (tokenizer, template) = (engine.tokenizer()?, engine.chat_template()?);
    let options = GenerateOptions { max_new: 20, ..GenerateOptions::default() };
    let say = |role: &str, content: String| Message { role: role.to_owned(), content };
    let mut sequence = engine.add_sequence()?;
    let mut messages = Vec::new();
    for line in input.lines() {
        messages.push(say("user", line?));
        let tokens = tokenizer.encode_chat(&template.render_parts(&Chat::new(&messages))?)?.tokens;
        let mut n_read = engine.tokens(sequence)?.len();
        if !tokens.starts_with(engine.tokens(sequence)?) {
            // The rendered answer has other tokens than the generated ones: start a new sequence.
            engine.remove_sequence(sequence)?;
            (sequence, n_read) = (engine.add_sequence()?, 0);
        }
        let generated = engine.generate_in(sequence, &tokens[n_read..], &options, |token| {
            let written = write!(out, "{}", token.text).and_then(|()| out.flush());
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        writeln!(out, "{} [read {} of {} tokens]", generated.rest, tokens.len() - n_read, tokens.len())?;
        messages.push(say("assistant", generated.text));
    }
    Ok(())
}
