//! `jamba run`: generates text from a prompt.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
    /// Load the state from this file; the prompt continues it. Without a prompt the answer goes on where the state ends
    #[arg(long, value_name = "FILE")]
    load_state: Option<PathBuf>,
    /// Save the state after the answer to this file; with `-n 0`, that after the prompt. Ctrl-C leaves an old file as it is
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
    /// The seed of the draws.
    seed: u64,
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
    let given = if args.load_state.is_some() { args.prompt.read_if_given()? } else { Some(args.prompt.read()?) };
    let began = Instant::now();
    let mut engine = args.open.open(args.plan.path())?;
    let open = began.elapsed();
    let (sequence, next) = match &args.load_state {
        Some(path) => {
            let snapshot = Snapshot::load(path, &engine)?;
            (engine.restore(&snapshot)?, snapshot.next().to_vec())
        }
        None => (engine.add_sequence()?, Vec::new()),
    };
    let state_tokens = engine.len(sequence)? + next.len() as u64;
    let is_chat = args.chat || args.system.is_some() || args.generate.has_chat_template();
    let prompt = match given {
        Some(prompt) if is_chat => {
            let template = args.generate.chat_template(&engine)?;
            prompt.chat_tokens(&engine, (&template, args.generate.content()), args.system.as_deref())?
        }
        Some(prompt) => prompt.tokens(&engine, state_tokens)?,
        None if next.is_empty() => return Err(no_next(args.load_state.as_deref())),
        None => Vec::new(),
    };
    let input = [&next[..], &prompt].concat();
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
    // A saved state ends before the last token, whose logits are those of the next one.
    let read = if save.is_some() && options.max_new == 0 { input.len() - 1 } else { input.len() };
    let answered = answer(form, &mut engine, (sequence, &input[..read], &options), printer)?;
    let Answer { generated, first, reports } = answered;
    let timing = Timing::new(open, first, prompt.len(), &generated);
    let memory = Memory::of(&engine);
    if let Some(file) = trace_file {
        file.write(trace::document(&engine).to_string().as_bytes())?;
    }
    let is_cancelled = generated.finish == Finish::Cancelled;
    let saved_tokens = match save.filter(|_| !is_cancelled) {
        Some(save) => {
            let next = [&input[read..], &generated.tokens[generated.tokens.len().saturating_sub(1)..]].concat();
            engine.snapshot(sequence)?.with_next(&next).save_to(save)?;
            Some(engine.len(sequence)? + next.len() as u64)
        }
        None => None,
    };
    if form == Form::Text {
        if let Some(cut) = Cut::of(&generated, &engine) {
            cut.show(if Lowered::current().lowers_context() { "" } else { LONGER });
        }
        if std::io::stderr().is_terminal() {
            let line = timing.summary(prompt.len(), &generated, &engine);
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
            seed: generated.seed,
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
    let on_token = |token| {
        first.get_or_insert_with(timing::since_beginning);
        match form {
            Form::Text => printer.push(&token),
            Form::Lines => printer.hold(print_line(&Event::Token(TokenReport::new(token, tokenizer.as_deref())))),
            Form::Document => {
                reports.push(TokenReport::new(token, tokenizer.as_deref()));
                ControlFlow::Continue(())
            }
        }
    };
    let generated = match prompt {
        [] => nothing(options),
        _ => engine.generate_in(sequence, prompt, options, on_token)?,
    };
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

/// The result of no tokens.
fn nothing(options: &GenerateOptions) -> Generated {
    Generated {
        tokens: Vec::new(),
        text: String::new(),
        rest: String::new(),
        finish: Finish::Length,
        seed: options.sampler.seed.unwrap_or_default(),
        prefill: Duration::ZERO,
        decode: Duration::ZERO,
        decode_steps: 0,
    }
}

/// The failure of a state without the token that an answer would follow.
fn no_next(path: Option<&Path>) -> Failure {
    let path = path.unwrap_or(Path::new("the state")).display();
    Failure::Usage(format!("{path}: found no token to read next, expected one or a prompt: add --prompt TEXT"))
}
