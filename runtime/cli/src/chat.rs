//! `jamba chat`: an interactive conversation. The sequence is kept between turns, so each turn prefills only new tokens.

mod commands;
mod conversation;
mod input;

use std::path::{Path, PathBuf};

use jamba_runtime::{Cancel, Engine, Finish, GenerateOptions};
use serde_json::Value;

use crate::failure::Failure;
use crate::generate::{GenerateArgs, read_text};
use crate::open::{OpenArgs, PlanArg};
use crate::printer::Printer;
use crate::{interrupt, style};
use commands::{ChatCommand, Stats};
use conversation::Conversation;
use input::Input;

/// Arguments of `jamba chat`.
#[derive(clap::Args)]
#[command(after_help = commands::HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    plan: PlanArg,
    /// System message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// File with functions that the model may call: a JSON array in the form that the chat template expects
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// File with documents for the model: a JSON array in the form that the chat template expects
    #[arg(long, value_name = "FILE")]
    documents: Option<PathBuf>,
    #[command(flatten)]
    generate: GenerateArgs,
    #[command(flatten)]
    open: OpenArgs,
}

/// The state of the program.
struct Chatting {
    engine: Engine,
    conversation: Conversation,
    options: GenerateOptions,
    cancel: Cancel,
    stats: Stats,
}

/// Runs until the input ends.
pub(crate) fn chat(args: Args) -> Result<(), Failure> {
    let (tools, documents) = (read_array(args.tools.as_deref())?, read_array(args.documents.as_deref())?);
    let mut engine = args.open.open(&args.plan.plan)?;
    let mut conversation = Conversation::new(&mut engine, tools, documents)?;
    conversation.set_system(args.system.as_deref());
    let cancel = interrupt::catch()?;
    let options = args.generate.options(&cancel)?;
    let mut chatting = Chatting { engine, conversation, options, cancel, stats: Stats::default() };
    let mut input = Input::new()?;
    if input.is_interactive() {
        let hint = "/help lists commands; Ctrl-C stops an answer, Ctrl-D ends the chat";
        eprintln!("{}", style::on_stderr(style::Kind::Quiet, hint));
    }
    while let Some(text) = input.next()? {
        let done = match ChatCommand::parse(&text) {
            Ok(None) => chatting.say(text),
            Ok(Some(ChatCommand::Exit)) => break,
            Ok(Some(command)) => chatting.run(command),
            Err(failure) => Err(failure),
        };
        match done {
            Ok(()) => {}
            Err(Failure::Closed) => return Err(Failure::Closed),
            Err(failure @ Failure::Ours(_)) => return Err(failure),
            // On a terminal the user can correct the input; the conversation is unchanged.
            Err(failure) if input.is_interactive() => {
                failure.report();
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

impl Chatting {
    fn say(&mut self, text: String) -> Result<(), Failure> {
        if text.trim().is_empty() {
            return Ok(());
        }
        self.conversation.push("user", text);
        self.answer()
    }

    /// Answers the last message. Removes the message if there is no answer.
    fn answer(&mut self) -> Result<(), Failure> {
        let answered = self.try_to_answer();
        if !matches!(answered, Ok(true)) {
            self.conversation.pop("user");
        }
        answered.map(|_| ())
    }

    /// Generates an answer. Returns false if it has no tokens.
    fn try_to_answer(&mut self) -> Result<bool, Failure> {
        self.cancel.reset();
        let tokens = self.conversation.unread(&mut self.engine)?;
        let mut printer = Printer::new(true);
        let sequence = self.conversation.sequence();
        let generated = self.engine.generate_in(sequence, &tokens, &self.options, |token| printer.push(&token))?;
        printer.finish(&generated)?;
        self.cancel.reset();
        self.stats.add(tokens.len(), &generated);
        let said = !generated.tokens.is_empty();
        if said {
            self.conversation.push("assistant", generated.text);
        }
        match generated.finish {
            Finish::NoRoom => Err(Failure::Input(
                "the context or the KV pool of the plan is full: /reset starts a new conversation".to_owned(),
            )),
            _ => Ok(said),
        }
    }

    fn run(&mut self, command: ChatCommand) -> Result<(), Failure> {
        let Chatting { engine, conversation, .. } = self;
        match command {
            ChatCommand::Help => crate::failure::print(commands::HELP),
            ChatCommand::Save(path) => conversation.save(engine, &path),
            ChatCommand::Load(path) => conversation.load(engine, &path),
            ChatCommand::Reset => conversation.reset(engine),
            ChatCommand::System(text) => {
                conversation.set_system(Some(&text).filter(|text| !text.is_empty()).map(String::as_str));
                Ok(())
            }
            ChatCommand::Regenerate => {
                if !conversation.pop("assistant") {
                    return Err(Failure::Input("/regenerate: there is no answer yet".to_owned()));
                }
                self.options.sampler.seed += 1; // draws another answer
                self.answer()
            }
            ChatCommand::Stats => {
                let read = engine.len(conversation.sequence())?;
                crate::failure::print(&self.stats.report(engine, read))
            }
            ChatCommand::Exit => Ok(()),
        }
    }
}

fn read_array(path: Option<&Path>) -> Result<Option<Vec<Value>>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let array = serde_json::from_str(&read_text(path)?);
    array.map(Some).map_err(|error| Failure::Input(format!("{}: expected a JSON array: {error}", path.display())))
}
