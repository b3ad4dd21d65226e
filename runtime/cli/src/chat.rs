//! `jamba chat`: a conversation, line by line. The model keeps its state from turn to turn and reads only what is new.

mod conversation;
mod input;
mod orders;

use std::path::{Path, PathBuf};

use jamba_runtime::{Cancel, Engine, Finish, GenerateOptions};
use serde_json::Value;

use crate::failure::Failure;
use crate::generate::{GenerateArgs, read_text};
use crate::open::{OpenArgs, PlanArg};
use crate::printer::Printer;
use crate::{interrupt, style};
use conversation::Conversation;
use input::Input;
use orders::{Order, Stats};

/// Arguments of `jamba chat`.
#[derive(clap::Args)]
#[command(after_help = orders::HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    plan: PlanArg,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// A file with functions that the model may call: a JSON array, as the chat template knows it
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// A file with documents that the model may use: a JSON array, as the chat template knows it
    #[arg(long, value_name = "FILE")]
    documents: Option<PathBuf>,
    #[command(flatten)]
    generate: GenerateArgs,
    #[command(flatten)]
    open: OpenArgs,
}

/// Who talks, and with what.
struct Chatting {
    engine: Engine,
    conversation: Conversation,
    options: GenerateOptions,
    cancel: Cancel,
    stats: Stats,
}

/// Talks until the input ends.
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
        let hint = "/help lists what can be done beside talking; Ctrl-C stops an answer, Ctrl-D ends the chat";
        eprintln!("{}", style::on_stderr(style::Kind::Quiet, hint));
    }
    while let Some(text) = input.next()? {
        let done = match Order::parse(&text) {
            Ok(None) => chatting.say(text),
            Ok(Some(Order::Exit)) => break,
            Ok(Some(order)) => chatting.obey(order),
            Err(failure) => Err(failure),
        };
        match done {
            Ok(()) => {}
            Err(Failure::Closed) => return Err(Failure::Closed),
            Err(failure @ Failure::Ours(_)) => return Err(failure),
            // The conversation goes on as it was, where somebody is there to mend it.
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

    /// Lets the model answer what was said last. Where it says nothing, what was said is forgotten.
    fn answer(&mut self) -> Result<(), Failure> {
        let answered = self.try_to_answer();
        if !matches!(answered, Ok(true)) {
            self.conversation.pop("user");
        }
        answered.map(|_| ())
    }

    /// True where the model said something, perhaps not all of it.
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
                "the context or the KV pool of the plan is full: /reset begins a new conversation".to_owned(),
            )),
            _ => Ok(said),
        }
    }

    fn obey(&mut self, order: Order) -> Result<(), Failure> {
        let Chatting { engine, conversation, .. } = self;
        match order {
            Order::Help => crate::failure::print(orders::HELP),
            Order::Save(path) => conversation.save(engine, &path),
            Order::Load(path) => conversation.load(engine, &path),
            Order::Reset => conversation.reset(engine),
            Order::System(text) => {
                conversation.set_system(Some(&text).filter(|text| !text.is_empty()).map(String::as_str));
                Ok(())
            }
            Order::Regenerate => {
                if !conversation.pop("assistant") {
                    return Err(Failure::Input("/regenerate: there is no answer yet".to_owned()));
                }
                self.options.sampler.seed += 1; // another draw
                self.answer()
            }
            Order::Stats => {
                let read = engine.len(conversation.sequence())?;
                crate::failure::print(&self.stats.report(engine, read))
            }
            Order::Exit => Ok(()),
        }
    }
}

fn read_array(path: Option<&Path>) -> Result<Option<Vec<Value>>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let array = serde_json::from_str(&read_text(path)?);
    array.map(Some).map_err(|error| Failure::Input(format!("{}: expected a JSON array: {error}", path.display())))
}
