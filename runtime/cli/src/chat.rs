//! `jamba chat`: an interactive conversation. The sequence is kept between turns, so each turn prefills only new tokens.

mod commands;
mod conversation;
mod input;

use std::path::{Path, PathBuf};
use std::time::Instant;

use jamba_program::say;
use jamba_runtime::{Cancel, Engine, GenerateOptions, Generated};
use serde_json::Value;

use crate::echo::NoEcho;
use crate::failure::Failure;
use crate::generate::{GenerateArgs, read_json};
use crate::open::{OpenArgs, PlanArg};
use crate::printer::{Cut, Printer, full};
use crate::{echo, interrupt, style, timing};
use commands::{ChatCommand, Stats};
use conversation::{Conversation, capacity};
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
    let mut engine = args.open.open(args.plan.only()?)?;
    engine.check_head()?;
    let template = args.generate.chat_template(&engine)?;
    let mut conversation = Conversation::new(&mut engine, (template, args.generate.content()), tools, documents)?;
    conversation.set_system(args.system.as_deref());
    let cancel = interrupt::catch();
    let options = args.generate.chat_options(&engine, &cancel)?;
    let mut chatting = Chatting { engine, conversation, options, cancel, stats: Stats::default() };
    echo::remember();
    let mut input = Input::new()?;
    if input.is_interactive() {
        note(&headline(&chatting.engine));
        note("/help lists commands; Ctrl-C stops an answer, Ctrl-D ends the chat");
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
        let before = self.conversation.messages().to_vec();
        self.conversation.push("user", text);
        self.answer_or(before)
    }

    /// Answers the last message. Without an answer, the messages become `before` again.
    fn answer_or(&mut self, before: Vec<Value>) -> Result<(), Failure> {
        let answered = self.answer();
        if !matches!(answered, Ok(true)) {
            self.conversation.set_messages(before);
        }
        answered.map(|_| ())
    }

    /// Generates an answer. Returns false if it has no tokens.
    fn answer(&mut self) -> Result<bool, Failure> {
        let _quiet = NoEcho::begin();
        self.cancel.reset();
        let began = Instant::now();
        let n_reserved = (self.options.max_new as u64).min(capacity(&self.engine) / 8).max(1);
        let unread = self.conversation.unread(&mut self.engine, n_reserved)?;
        if unread.n_removed > 0 {
            let context = capacity(&self.engine);
            note(&format!("[{}: the oldest {} messages give way]", full(context), unread.n_removed));
        }
        let Some(&last) = unread.tokens.last() else { return Ok(false) };
        if !self.conversation.read(&mut self.engine, &unread, self.options.chunk, &self.cancel)? {
            self.cancel.reset();
            return Ok(false);
        }
        let mut printer = Printer::for_message();
        let sequence = self.conversation.sequence();
        let generated = self.engine.generate_in(sequence, &[last], &self.options, |token| printer.push(&token))?;
        let prefill = began.elapsed().saturating_sub(generated.decode);
        printer.finish(&generated)?;
        self.cancel.reset();
        self.stats.add((unread.tokens.len(), prefill), &generated);
        if let Some(cut) = Cut::of(&generated, &self.engine) {
            cut.show("; the oldest messages give way to the next one");
        }
        let Generated { tokens, text, .. } = generated;
        if !tokens.is_empty() {
            self.conversation.push_answer(text);
        }
        Ok(!tokens.is_empty())
    }

    fn run(&mut self, command: ChatCommand) -> Result<(), Failure> {
        let Chatting { engine, conversation, .. } = self;
        let done = match command {
            ChatCommand::Help => return crate::failure::print(commands::HELP),
            ChatCommand::Regenerate => return self.regenerate(),
            ChatCommand::Stats => {
                let read = engine.len(conversation.sequence())?;
                return crate::failure::print(&self.stats.report(engine, read));
            }
            ChatCommand::Exit => return Ok(()),
            ChatCommand::Save(path) => {
                conversation.save(engine, &path)?;
                format!("saved {} to {}", contents(engine, conversation)?, path.display())
            }
            ChatCommand::Load(path) => {
                conversation.load(engine, &path)?;
                format!("loaded {} from {}", contents(engine, conversation)?, path.display())
            }
            ChatCommand::Reset => {
                conversation.reset(engine)?;
                let system = if conversation.has_system() { "; the system message stays" } else { "" };
                format!("new conversation{system}")
            }
            ChatCommand::Undo => match conversation.undo(engine)? {
                Some(text) => format!("removed the last message, {:?}, and its answer", beginning(&text)),
                None => return Err(Failure::Input("/undo: there is no message yet".to_owned())),
            },
            ChatCommand::System(text) => {
                let had = conversation.has_system();
                conversation.set_system(Some(&text).filter(|text| !text.is_empty()).map(String::as_str));
                match (text.is_empty(), had) {
                    (false, _) => "the system message is set".to_owned(),
                    (true, true) => "the system message is removed".to_owned(),
                    (true, false) => "there is no system message: /system TEXT sets one".to_owned(),
                }
            }
        };
        crate::failure::print(&format!("{done}\n"))
    }

    fn regenerate(&mut self) -> Result<(), Failure> {
        let before = self.conversation.messages().to_vec();
        if !self.conversation.pop("assistant") {
            return Err(Failure::Input("/regenerate: there is no answer yet".to_owned()));
        }
        if self.options.sampler.temperature == 0.0 {
            note("[sampling is greedy, so the answer is the same: --temperature T draws others]");
        }
        let seed = self.options.sampler.seed.get_or_insert(0);
        *seed = seed.wrapping_add(1); // draws another answer
        self.answer_or(before)
    }
}

/// Prints a line of the program, not of the model.
fn note(text: &str) {
    say!("{}", style::on_stderr(style::Kind::Quiet, text));
}

/// The model, its limits and where it runs.
fn headline(engine: &Engine) -> String {
    let model = &engine.manifest().model;
    let size = match model.n_parameters as f64 {
        n if n >= 1e9 => format!("{:.1} B", n / 1e9),
        n => format!("{:.1} M", n / 1e6),
    };
    let (name, context) = (&model.name, capacity(engine));
    format!("{name}: {size} parameters, context of {context} tokens, {}", timing::place(engine))
}

/// The size of a conversation: `4 messages, 97 tokens`.
fn contents(engine: &Engine, conversation: &Conversation) -> Result<String, Failure> {
    let (messages, tokens) = (conversation.messages().len(), engine.len(conversation.sequence())?);
    let s = if messages == 1 { "" } else { "s" };
    Ok(format!("{messages} message{s}, {tokens} tokens"))
}

/// The beginning of a text, at most 40 characters.
fn beginning(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn read_array(path: Option<&Path>) -> Result<Option<Vec<Value>>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let array = serde_json::from_str(&read_json(path)?);
    array.map(Some).map_err(|error| Failure::Input(format!("{}: expected a JSON array: {error}", path.display())))
}
