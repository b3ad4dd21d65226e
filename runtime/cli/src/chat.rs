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
    let mut sequence = engine.add_sequence()?;
    while let Some(line) = ask()? {
        if line.trim().is_empty() {
            continue;
        }
        messages.push(say("user", line));
        let tokens = tokenizer.encode_plain(&template.render(&messages)?)?;
        if !goes_on(&engine, sequence, &tokens)? {
            engine.remove_sequence(sequence)?;
            sequence = engine.add_sequence()?;
        }
        let new = &tokens[engine.len(sequence)? as usize..];
        let mut printer = Printer::new(Some(&tokenizer));
        let generated = engine.generate_in(sequence, new, &options, |token| printer.push(token))?;
        let text = printer.finish()?;
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

/// True when `tokens` go on from what the sequence has read.
fn goes_on(engine: &Engine, sequence: SequenceId, tokens: &[u32]) -> Result<bool, Failure> {
    let read = engine.tokens(sequence)?;
    Ok(tokens.len() > read.len() && tokens.starts_with(read))
}
