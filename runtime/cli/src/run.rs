//! `jamba run`: generates text from a prompt.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jamba_plan::output::Output;
use jamba_program::say;
use jamba_runtime::{
    Engine, Finish, GenerateOptions, Generated, NewToken, RuntimeError, SequenceId, Snapshot, Tokenizer,
};
use serde::Serialize;

use crate::failure::{Failure, Lowered, print_json, print_line};
use crate::generate::GenerateArgs;
use crate::open::{OpenArgs, PlanArg};
use crate::outputs::{ForceArg, TRACE, claim_file};
use crate::printer::{Cut, Printer};
use crate::prompt::PromptArgs;
use crate::timing::{self, Memory, Timing};
use crate::{interrupt, style, trace};

/// Arguments of `jamba run`.
#[derive(clap::Args)]
#[command(after_help = EVENTS)]
pub(crate) struct Args {
    #[command(flatten)]
    plan: PlanArg,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    generate: GenerateArgs,
    /// Apply the chat template with the prompt as user message
    #[arg(long, conflicts_with_all = ["tokens", "load_state"])]
    chat: bool,
    /// System message; applies the chat template with the prompt as user message
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["tokens", "load_state"])]
    system: Option<String>,
    /// Load the state from this file; the prompt continues it
    #[arg(long, value_name = "FILE")]
    load_state: Option<PathBuf>,
    /// Save the state after the answer to this file. Ctrl-C leaves an old file as it is
    #[arg(long, value_name = "FILE")]
    save_state: Option<PathBuf>,
    /// Continue after end tokens
    #[arg(long)]
    ignore_eos: bool,
    /// Print one JSON document at the end
    #[arg(long, group = "json_output")]
    json: bool,
    /// Print one JSON object per line, as tokens come; see below
    #[arg(long, group = "json_output")]
    jsonl: bool,
    /// Print the log probability of each token and of the N most likely tokens
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "0", requires = "json_output")]
    logprobs: Option<usize>,
    /// Write the time of every step and wait on every thread in Chrome's trace format, for ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    #[command(flatten)]
    force: ForceArg,
    #[command(flatten)]
    open: OpenArgs,
}

/// What gives a longer context than the plan has.
const LONGER: &str = ": jambac limits PLAN --context N -o OUT.plan makes a longer one";

/// The lines of `--jsonl`.
const EVENTS: &str = "\
With --jsonl, every line is one object with an \"event\":
  begin   device, target, state_tokens, prompt_tokens; before the prompt is read
  token   token, text; with --logprobs also logprob and top. The text is whole characters, possibly none
  end     rest (text that no token event had), and all that --json prints";

/// A line of `--jsonl`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Begin {
        device: &'a str,
        target: &'a str,
        state_tokens: u64,
        prompt_tokens: &'a [u32],
    },
    Token(TokenReport),
    End {
        /// Text that no token event had.
        rest: &'a str,
        #[serde(flatten)]
        report: Report<'a>,
    },
}

/// The output of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    /// `cpu`, or the GPU's name.
    device: &'a str,
    /// Number of tokens in the loaded state.
    state_tokens: u64,
    prompt_tokens: &'a [u32],
    tokens: &'a [u32],
    /// None if the plan has no tokenizer.
    text: Option<&'a String>,
    finish: &'static str,
    /// Number of tokens in the saved state; None without `--save-state`.
    saved_tokens: Option<u64>,
    /// With `--logprobs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<TokenReport>>,
    timing: Timing,
    memory: Memory,
}

/// One token of the answer.
#[derive(Serialize)]
struct TokenReport {
    token: u32,
    /// The text that became final with this token.
    text: String,
    /// Natural logarithm of its probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprob: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<Vec<TopToken>>,
}

/// One of the most likely tokens.
#[derive(Serialize)]
struct TopToken {
    token: u32,
    /// None without a tokenizer.
    text: Option<String>,
    /// The bytes of the text, which may be a part of a character.
    bytes: Option<Vec<u8>>,
    logprob: f32,
}

impl TokenReport {
    /// `logprob` and `top` are absent where they were not requested.
    fn new(token: NewToken, tokenizer: Option<&Tokenizer>) -> TokenReport {
        let top = token.top.into_iter().map(|(token, logprob)| {
            let bytes = tokenizer.and_then(|tokenizer| tokenizer.token_bytes(token));
            let text = bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            TopToken { token, text, bytes, logprob }
        });
        let top = top.collect();
        let top = token.logprob.is_some().then_some(top);
        TokenReport { token: token.token, text: token.text, logprob: token.logprob, top }
    }
}

/// Generates text from a prompt.
pub(crate) fn run(mut args: Args) -> Result<(), Failure> {
    if args.generate.has_chat_template() && args.load_state.is_some() {
        return Err(Failure::Usage("--chat-template begins a new chat and cannot continue --load-state".to_owned()));
    }
    args.prompt = args.prompt.after(&mut args.plan)?;
    // A state may replace the one that it continues: that one has been read by then.
    let inputs = std::iter::once(args.plan.path()).chain(args.prompt.file()).chain(args.generate.files());
    let mut outputs = args.force.outputs(inputs);
    let trace_file = claim_file(&mut outputs, "--trace", args.trace.as_deref(), TRACE)?;
    let save = claim_file(&mut outputs, "--save-state", args.save_state.as_deref(), Snapshot::FILE)?;
    let prompt = args.prompt.read()?;
    let began = Instant::now();
    let mut engine = args.open.open(args.plan.path())?;
    let open = began.elapsed();
    let sequence = match &args.load_state {
        Some(path) => {
            let snapshot = Snapshot::load(path, &engine)?;
            engine.restore(&snapshot)?
        }
        None => engine.add_sequence()?,
    };
    let state_tokens = engine.len(sequence)?;
    let is_chat = args.chat || args.system.is_some() || args.generate.has_chat_template();
    let prompt = match is_chat {
        true => {
            let template = args.generate.chat_template(&engine)?;
            prompt.chat_tokens(&engine, (&template, args.generate.content()), args.system.as_deref())?
        }
        false => prompt.tokens(&engine, state_tokens)?,
    };
    let mut options = args.generate.options(&engine, &interrupt::catch())?;
    options.ignore_eos = args.ignore_eos;
    options.logprobs = args.logprobs;
    let has_text = match engine.tokenizer() {
        Ok(_) => true,
        Err(RuntimeError::NoSection(_)) => false,
        Err(error) => return Err(error.into()),
    };
    engine.set_trace(args.trace.is_some());
    let form = match (args.json, args.jsonl) {
        (true, _) => Form::Document,
        (_, true) => Form::Lines,
        _ => Form::Text,
    };
    if form == Form::Lines {
        let (device, target) = (engine.device(), engine.target());
        print_line(&Event::Begin { device, target, state_tokens, prompt_tokens: &prompt })?;
    }
    let printer = if is_chat { Printer::for_message() } else { Printer::new(has_text) };
    let Answer { generated, first, reports } = answer(form, &mut engine, (sequence, &prompt, &options), printer)?;
    let timing = Timing::new(open, first, prompt.len(), &generated);
    let memory = Memory::of(&engine);
    if let Some(file) = trace_file {
        file.write(trace::document(&engine).to_string().as_bytes())?;
    }
    let is_cancelled = generated.finish == Finish::Cancelled;
    let saved_tokens = match save.filter(|_| !is_cancelled) {
        Some(save) => Some(save_state(&mut engine, sequence, &generated, save)?),
        None => None,
    };
    if form == Form::Text {
        if let Some(cut) = Cut::of(&generated, &engine) {
            cut.show(if Lowered::current().lowers_context() { "" } else { LONGER });
        }
        if std::io::stderr().is_terminal() {
            let line = timing.summary(prompt.len(), generated.tokens.len(), memory);
            say!("{}", style::on_stderr(style::Kind::Quiet, &line));
        }
    } else {
        let report = Report {
            device: engine.device(),
            state_tokens,
            prompt_tokens: &prompt,
            tokens: &generated.tokens,
            text: has_text.then_some(&generated.text),
            finish: generated.finish.name(),
            saved_tokens,
            logprobs: args.logprobs.filter(|_| form == Form::Document).map(|_| reports),
            timing,
            memory,
        };
        match form {
            Form::Lines => print_line(&Event::End { rest: &generated.rest, report })?,
            _ => print_json(&report)?,
        }
    }
    if is_cancelled { Err(interrupted(args.save_state.as_deref())) } else { Ok(()) }
}

/// The form of the output.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    /// `--json`.
    Document,
    /// `--jsonl`.
    Lines,
}

/// A generated answer.
struct Answer {
    generated: Generated,
    /// Time from the start of the program to the first token.
    first: Option<Duration>,
    /// For a document.
    reports: Vec<TokenReport>,
}

/// Generates an answer and prints its tokens as they come, except in a document.
fn answer(
    form: Form,
    engine: &mut Engine,
    (sequence, prompt, options): (SequenceId, &[u32], &GenerateOptions),
    mut printer: Printer,
) -> Result<Answer, Failure> {
    let (mut first, mut reports) = (None, Vec::new());
    let tokenizer = engine.tokenizer().ok();
    let generated = engine.generate_in(sequence, prompt, options, |token| {
        first.get_or_insert_with(timing::since_beginning);
        match form {
            Form::Text => printer.push(&token),
            Form::Lines => printer.hold(print_line(&Event::Token(TokenReport::new(token, tokenizer.as_deref())))),
            Form::Document => {
                reports.push(TokenReport::new(token, tokenizer.as_deref()));
                ControlFlow::Continue(())
            }
        }
    })?;
    match form {
        Form::Text => printer.finish(&generated)?,
        Form::Lines | Form::Document => printer.fail()?,
    }
    Ok(Answer { generated, first, reports })
}

/// Says what became of the state after Ctrl-C.
fn interrupted(save_state: Option<&Path>) -> Failure {
    Failure::Interrupted(match save_state {
        Some(path) if path.exists() => format!("; {} is unchanged", path.display()),
        Some(path) => format!("; {} was not written", path.display()),
        None => String::new(),
    })
}

/// Saves the state after all tokens and returns their number. Processes the last token first, if there is room for it.
fn save_state(engine: &mut Engine, sequence: SequenceId, generated: &Generated, save: Output) -> Result<u64, Failure> {
    if let (Some(&last), false) = (generated.tokens.last(), generated.finish == Finish::NoRoom) {
        match engine.prefill(sequence, &[last], None, None).map(|_| ()) {
            Ok(()) | Err(RuntimeError::ContextFull { .. } | RuntimeError::PoolExhausted { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    engine.snapshot(sequence)?.save_to(save)?;
    Ok(engine.len(sequence)?)
}
