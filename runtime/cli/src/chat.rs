//! `jamba chat`: a conversation, line by line. The model keeps its state from turn to turn and reads only what is new.
//! `/save FILE` keeps the conversation with its state, `/load FILE` goes on from there.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use jamba_runtime::{Engine, Finish, Message, SequenceId, Snapshot};

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
    let messages = args.system.map(|text| say("system", text)).into_iter().collect();
    let mut conversation = Conversation { sequence: engine.add_sequence()?, messages };
    while let Some(line) = ask()? {
        if line.trim().is_empty() {
            continue;
        }
        if let Some(obeyed) = conversation.obey(&mut engine, &line) {
            if let Err(failure) = obeyed {
                failure.report(); // the conversation goes on as it was
            }
            continue;
        }
        conversation.messages.push(say("user", line));
        let tokens = tokenizer.encode_plain(&template.render(&conversation.messages)?)?;
        let new = conversation.continue_with(&mut engine, &tokens)?;
        let mut printer = Printer::new(true);
        let generated =
            engine.generate_in(conversation.sequence, &tokens[new..], &options, |token| printer.push(&token))?;
        printer.finish(&generated)?;
        conversation.messages.push(say("assistant", generated.text));
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

/// What was said, and the sequence that has read it.
struct Conversation {
    sequence: SequenceId,
    messages: Vec<Message>,
}

impl Conversation {
    /// Where `tokens` go on from what was read; begins again where they do not.
    fn continue_with(&mut self, engine: &mut Engine, tokens: &[u32]) -> Result<usize, Failure> {
        let read = engine.tokens(self.sequence)?;
        if tokens.len() > read.len() && tokens.starts_with(read) {
            return Ok(read.len());
        }
        engine.remove_sequence(self.sequence)?;
        self.sequence = engine.add_sequence()?;
        Ok(0)
    }

    /// Does what a line asks for; None where it is something to say.
    fn obey(&mut self, engine: &mut Engine, line: &str) -> Option<Result<(), Failure>> {
        let (word, path) = line.split_once(' ')?;
        let path = Path::new(path.trim());
        match word {
            "/save" => Some(self.save(engine, path)),
            "/load" => Some(self.load(engine, path)),
            _ => None,
        }
    }

    fn save(&self, engine: &Engine, path: &Path) -> Result<(), Failure> {
        let note = serde_json::to_string(&self.messages).map_err(|error| Failure::Ours(error.to_string()))?;
        Ok(engine.snapshot(self.sequence)?.with_note(&note).save(path)?)
    }

    fn load(&mut self, engine: &mut Engine, path: &Path) -> Result<(), Failure> {
        let snapshot = Snapshot::load(path, engine)?;
        let messages = serde_json::from_str(snapshot.note()).map_err(|error| {
            Failure::Input(format!("{}: note: expected the messages of a chat: {error}", path.display()))
        })?;
        // What fitted an engine of this plan fits one without other sequences.
        engine.remove_sequence(self.sequence)?;
        self.sequence = engine.restore(&snapshot)?;
        self.messages = messages;
        Ok(())
    }
}

#[cfg(test)]
#[path = "../../tests/fixture/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod fixture;

#[cfg(test)]
mod tests {
    use jamba_runtime::OpenOptions;

    use super::*;

    #[test]
    fn a_conversation_is_saved_with_its_state() {
        let folder = tempfile::tempdir().unwrap();
        let plan = fixture::Toy::new().write(folder.path(), "toy.plan");
        let mut engine = Engine::open(&plan, OpenOptions::default()).unwrap();
        let said = |text: &str| vec![Message { role: "user".to_owned(), content: text.to_owned() }];
        let mut conversation = Conversation { sequence: engine.add_sequence().unwrap(), messages: said("Hello") };
        engine.prefill(conversation.sequence, &[1, 2, 3], None).unwrap();
        let path = folder.path().join("a chat.state");
        let tell = |conversation: &mut Conversation, engine: &mut Engine, word: &str| {
            conversation.obey(engine, &format!("{word} {}", path.display())).unwrap()
        };
        tell(&mut conversation, &mut engine, "/save").unwrap();
        assert_eq!(conversation.continue_with(&mut engine, &[1, 2, 4]).unwrap(), 0);
        conversation.messages = said("Something else");
        tell(&mut conversation, &mut engine, "/load").unwrap();
        assert_eq!((&conversation.messages, engine.free().0), (&said("Hello"), 2));
        assert_eq!(conversation.continue_with(&mut engine, &[1, 2, 3, 4]).unwrap(), 3);
        assert!(conversation.obey(&mut engine, "/loud and clear").is_none());
        // A state without a conversation changes nothing.
        engine.snapshot(conversation.sequence).unwrap().save(&path).unwrap();
        let refused = tell(&mut conversation, &mut engine, "/load");
        assert!(matches!(refused, Err(Failure::Input(text)) if text.contains("a chat.state: note")));
        assert_eq!(engine.tokens(conversation.sequence).unwrap(), [1, 2, 3]);
    }
}
