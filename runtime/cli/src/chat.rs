//! `jamba chat`: a conversation, line by line. The model keeps its state from turn to turn and reads only what is new.

use std::io::{self, BufRead, IsTerminal, Write};

use jamba_runtime::{Engine, Finish, Message, SequenceId};

use crate::failure::Failure;
use crate::open::{OpenArgs, PlanArg};
use crate::printer::Printer;
use crate::run::GenerateArgs;

/// Arguments of `jamba chat`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    plan: PlanArg,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    generate: GenerateArgs,
    #[command(flatten)]
    open: OpenArgs,
}

/// Talks until the input ends.
pub(crate) fn chat(args: Args) -> Result<(), Failure> {
    let mut engine = args.open.open(&args.plan.plan)?;
    let (tokenizer, template) = (engine.tokenizer()?, engine.chat_template()?);
    let options = args.generate.options(false);
    let say = |role: &str, content: String| Message { role: role.to_owned(), content };
    let mut messages: Vec<Message> = args.system.map(|text| say("system", text)).into_iter().collect();
    let mut conversation = Conversation { sequence: engine.add_sequence()?, taken: Vec::new() };
    while let Some(line) = ask()? {
        if line.trim().is_empty() {
            continue;
        }
        messages.push(say("user", line));
        let tokens = tokenizer.encode_plain(&template.render(&messages)?)?;
        let new = conversation.continue_with(&mut engine, &tokens)?;
        let mut printer = Printer::new(Some(&tokenizer));
        let generated =
            engine.generate_in(conversation.sequence, &tokens[new..], &options, |token| printer.push(token))?;
        let text = printer.finish()?;
        conversation.taken = tokens;
        conversation.taken.extend(&generated.tokens);
        conversation.taken.truncate(engine.len(conversation.sequence)? as usize);
        messages.push(say("assistant", text));
        if generated.finish == Finish::NoRoom {
            return Err(Failure::Input("the context or the KV pool of the plan is full".to_owned()));
        }
    }
    Ok(())
}

/// The next line; None at the end of the input.
fn ask() -> Result<Option<String>, Failure> {
    if io::stdin().is_terminal() {
        let _ = write!(io::stderr(), "> ");
    }
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned())),
        Err(error) => Err(Failure::Input(format!("cannot read standard input: {error}"))),
    }
}

/// A sequence, and the tokens that it has taken.
struct Conversation {
    sequence: SequenceId,
    taken: Vec<u32>,
}

impl Conversation {
    /// Where `tokens` go on from what was taken; begins again where they do not.
    fn continue_with(&mut self, engine: &mut Engine, tokens: &[u32]) -> Result<usize, Failure> {
        if tokens.len() > self.taken.len() && tokens.starts_with(&self.taken) {
            return Ok(self.taken.len());
        }
        engine.remove_sequence(self.sequence)?;
        self.sequence = engine.add_sequence()?;
        self.taken.clear();
        Ok(0)
    }
}
