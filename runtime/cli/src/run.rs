//! `jamba run`: text from a prompt.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jamba_runtime::{
    Engine, Finish, GenerateOptions, Generated, RuntimeError, SamplerOptions, SequenceId, Snapshot, TraceStep,
};
use serde::Serialize;
use serde_json::json;

use crate::failure::{Failure, print_json};
use crate::open::{OpenArgs, PlanArg};
use crate::printer::Printer;
use crate::prompt::PromptArgs;

/// Arguments of `jamba run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    plan: PlanArg,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    generate: GenerateArgs,
    /// Go on from the state in this file: the prompt follows what was read there
    #[arg(long, value_name = "FILE")]
    load_state: Option<PathBuf>,
    /// Write the state to this file: all that was read or generated, to go on from
    #[arg(long, value_name = "FILE")]
    save_state: Option<PathBuf>,
    /// Go on after a token that ends the text
    #[arg(long)]
    ignore_eos: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Write the time of every step, in Chrome's trace format
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    #[command(flatten)]
    open: OpenArgs,
}

/// How tokens are generated.
#[derive(clap::Args)]
pub(crate) struct GenerateArgs {
    /// Most tokens to generate
    #[arg(short = 'n', long, value_name = "MAX_NEW", default_value_t = 256)]
    max_new: usize,
    /// Draw tokens at this temperature; greedy, unless given
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Draw from the k likeliest tokens
    #[arg(long, value_name = "K", requires = "temperature")]
    top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", requires = "temperature")]
    top_p: Option<f32>,
    /// Draw from tokens with at least this share of the likeliest one's probability
    #[arg(long, value_name = "P", requires = "temperature")]
    min_p: Option<f32>,
    /// Make tokens that occurred less likely: 1.1
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Tokens of one prefill step; the plan's largest, unless given
    #[arg(long, value_name = "N")]
    chunk: Option<usize>,
}

impl GenerateArgs {
    pub(crate) fn options(&self, ignore_eos: bool) -> GenerateOptions {
        let default = SamplerOptions::default();
        let sampler = SamplerOptions {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            seed: self.seed,
            ..default
        };
        GenerateOptions { max_new: self.max_new, sampler, ignore_eos, chunk: self.chunk, ..GenerateOptions::default() }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    /// Tokens that came from the state, before the prompt.
    state_tokens: u64,
    prompt_tokens: &'a [u32],
    tokens: &'a [u32],
    /// None when the plan has no tokenizer.
    text: Option<String>,
    finish: &'static str,
    /// Tokens of the state that was written; None when none was asked for.
    saved_tokens: Option<u64>,
    timing: Timing,
}

/// Times in seconds; rates in tokens per second, None where nothing ran.
#[derive(Serialize)]
struct Timing {
    open_s: f64,
    prefill_s: f64,
    prefill_tokens_per_s: Option<f64>,
    decode_s: f64,
    decode_tokens_per_s: Option<f64>,
}

impl Timing {
    fn new(open: Duration, n_prompt: usize, generated: &Generated) -> Timing {
        let rate = |n: usize, time: Duration| (n > 0).then(|| n as f64 / time.as_secs_f64());
        Timing {
            open_s: open.as_secs_f64(),
            prefill_s: generated.prefill.as_secs_f64(),
            prefill_tokens_per_s: rate(n_prompt, generated.prefill),
            decode_s: generated.decode.as_secs_f64(),
            decode_tokens_per_s: rate(generated.decode_steps, generated.decode),
        }
    }

    /// One line for people.
    fn summary(&self, n_prompt: usize, n_new: usize) -> String {
        let rate = |rate: Option<f64>| rate.map(|rate| format!(", {rate:.1} tokens/s")).unwrap_or_default();
        format!(
            "[open {:.2} s; prompt {n_prompt} tokens, {:.2} s{}; {n_new} new, {:.2} s{}]",
            self.open_s,
            self.prefill_s,
            rate(self.prefill_tokens_per_s),
            self.decode_s,
            rate(self.decode_tokens_per_s),
        )
    }
}

/// Generates text from a prompt.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let began = Instant::now();
    let mut engine = args.open.open(&args.plan.plan)?;
    let open = began.elapsed();
    let sequence = match &args.load_state {
        Some(path) => {
            let snapshot = Snapshot::load(path, &engine)?;
            engine.restore(&snapshot)?
        }
        None => engine.add_sequence()?,
    };
    let state_tokens = engine.len(sequence)?;
    let prompt = args.prompt.tokens(&engine, state_tokens)?;
    let options = args.generate.options(args.ignore_eos);
    let tokenizer = match engine.tokenizer() {
        Ok(tokenizer) => Some(tokenizer),
        Err(RuntimeError::NoSection(_)) => None,
        Err(error) => return Err(error.into()),
    };
    engine.set_trace(args.trace.is_some());
    let generated = if args.json {
        engine.generate_in(sequence, &prompt, &options, |_| ControlFlow::Continue(()))?
    } else {
        let mut printer = Printer::new(tokenizer.is_some());
        let generated = engine.generate_in(sequence, &prompt, &options, |token| printer.push(&token))?;
        printer.finish(&generated)?;
        generated
    };
    let timing = Timing::new(open, prompt.len(), &generated);
    if let Some(path) = &args.trace {
        write_trace(&engine, path)?;
    }
    let saved_tokens = match &args.save_state {
        Some(path) => Some(save_state(&mut engine, sequence, &generated, path)?),
        None => None,
    };
    if args.json {
        let text = tokenizer.map(|tokenizer| tokenizer.decode(&generated.tokens)).transpose()?;
        let finish = generated.finish.name();
        let (prompt_tokens, tokens) = (&prompt[..], &generated.tokens[..]);
        let report = Report { state_tokens, prompt_tokens, tokens, text, finish, saved_tokens, timing };
        return print_json(&report);
    }
    if generated.finish == Finish::NoRoom {
        eprintln!("jamba: stopped: the context or the KV pool of the plan is full");
    }
    if std::io::stderr().is_terminal() {
        eprintln!("{}", timing.summary(prompt.len(), generated.tokens.len()));
    }
    Ok(())
}

/// Writes the state after all tokens; the last one is read first, unless there is no room for it. How many it holds.
fn save_state(engine: &mut Engine, sequence: SequenceId, generated: &Generated, path: &Path) -> Result<u64, Failure> {
    if let (Some(&last), false) = (generated.tokens.last(), generated.finish == Finish::NoRoom) {
        match engine.prefill(sequence, &[last], None).map(|_| ()) {
            Ok(()) | Err(RuntimeError::ContextFull { .. } | RuntimeError::PoolExhausted { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    engine.snapshot(sequence)?.save(path)?;
    Ok(engine.len(sequence)?)
}

/// Writes what every step of the first thread took, for chrome://tracing or Perfetto. Times in microseconds.
fn write_trace(engine: &Engine, path: &Path) -> Result<(), Failure> {
    let program = engine.program();
    let steps = engine.trace().map(|trace| trace.steps()).unwrap_or_default();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let event = |traced: &TraceStep| {
        let step = program.entries.get(traced.entry)?.steps.get(traced.step)?;
        let kernel = program.kernels.get(step.kernel as usize)?;
        Some(json!({
            "name": kernel.symbol, "cat": program.entries[traced.entry].kind.name(), "ph": "X", "pid": 0, "tid": 0,
            "ts": micros(traced.begin), "dur": micros(traced.share),
            "args": { "step": traced.step, "source": step.source },
        }))
    };
    let events: Vec<_> = steps.iter().filter_map(event).collect();
    let text = json!({ "traceEvents": events, "displayTimeUnit": "ms" }).to_string();
    std::fs::write(path, text).map_err(|error| Failure::file(path, "write it", error))
}
