//! `jamba bench`: tokens per second of prefill and decode. Several plans run in turn, so that a machine that becomes
//! slower or faster meanwhile changes all of them alike.

use std::path::PathBuf;
use std::time::Instant;

use jamba_runtime::{Engine, Feed, Outputs, Progress, RuntimeError, SequenceId, Unit, sample};
use serde::Serialize;

use crate::failure::{Failure, print, print_json};
use crate::open::{Bar, OpenArgs};

/// Arguments of `jamba bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The plans; ratios are to the first
    #[arg(required = true, value_name = "PLAN")]
    plans: Vec<PathBuf>,
    /// Tokens of each sequence's prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = positive())]
    prompt: u64,
    /// Tokens that each sequence generates
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive())]
    generate: u64,
    /// Sequences at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive())]
    batch: u64,
    /// Measured runs of each plan; one more goes before them
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = positive())]
    runs: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    open: OpenArgs,
}

fn positive() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    prompt: u64,
    generate: u64,
    batch: u64,
    runs: u64,
    plans: Vec<Measured>,
}

/// One plan's rates.
#[derive(Serialize)]
struct Measured {
    plan: String,
    target: String,
    threads: usize,
    open_s: f64,
    prefill_tokens_per_s: Rates,
    decode_tokens_per_s: Rates,
}

/// Tokens per second over the runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Rates {
    min: f64,
    median: f64,
    max: f64,
    /// Median over the first plan's.
    ratio: f64,
}

impl Rates {
    fn new(mut rates: Vec<f64>) -> Rates {
        rates.sort_by(f64::total_cmp);
        let (n, middle) = (rates.len(), rates.len() / 2);
        let median = if n % 2 == 1 { rates[middle] } else { (rates[middle - 1] + rates[middle]) / 2.0 };
        Rates { min: rates[0], median, max: rates[n - 1], ratio: 1.0 }
    }
}

/// A plan under measurement.
struct Subject {
    engine: Engine,
    open_s: f64,
    prefill: Vec<f64>,
    decode: Vec<f64>,
}

/// Measures all plans.
pub(crate) fn bench(args: Args) -> Result<(), Failure> {
    let mut subjects = Vec::with_capacity(args.plans.len());
    for path in &args.plans {
        let began = Instant::now();
        let engine = args.open.open(path)?;
        let open_s = began.elapsed().as_secs_f64();
        subjects.push(Subject { engine, open_s, prefill: Vec::new(), decode: Vec::new() });
    }
    let bar = Bar::new();
    let tokens = (args.prompt + args.generate) * args.batch;
    let total = tokens * (args.runs + 1) * subjects.len() as u64;
    let mut done = 0;
    for run in 0..=args.runs {
        for subject in &mut subjects {
            bar.tell(Progress { what: "measuring", done, total, unit: Unit::Tokens });
            done += tokens;
            let (prefill, decode) = measure(&mut subject.engine, &args)?;
            if run > 0 {
                subject.prefill.push(prefill);
                subject.decode.push(decode);
            }
        }
    }
    drop(bar);
    let mut plans: Vec<Measured> = subjects.into_iter().map(Subject::measured).collect();
    let first = plans.first().map(|first| (first.prefill_tokens_per_s.median, first.decode_tokens_per_s.median));
    for plan in &mut plans {
        let (prefill, decode) = first.unwrap_or((1.0, 1.0));
        plan.prefill_tokens_per_s.ratio = plan.prefill_tokens_per_s.median / prefill;
        plan.decode_tokens_per_s.ratio = plan.decode_tokens_per_s.median / decode;
    }
    let Args { prompt, generate, batch, runs, .. } = args;
    let report = Report { prompt, generate, batch, runs, plans };
    if args.json { print_json(&report) } else { print(&report.table()) }
}

impl Subject {
    fn measured(self) -> Measured {
        Measured {
            plan: self.engine.path().display().to_string(),
            target: self.engine.target().to_owned(),
            threads: self.engine.threads(),
            open_s: self.open_s,
            prefill_tokens_per_s: Rates::new(self.prefill),
            decode_tokens_per_s: Rates::new(self.decode),
        }
    }
}

/// One run: tokens per second of prefill and of decode.
fn measure(engine: &mut Engine, args: &Args) -> Result<(f64, f64), Failure> {
    let mut sequences = Vec::new();
    for _ in 0..args.batch {
        match engine.add_sequence() {
            Ok(sequence) => sequences.push(sequence),
            Err(error) => {
                release(engine, &sequences)?;
                return Err(error.into());
            }
        }
    }
    let measured = measure_in(engine, &sequences, args);
    release(engine, &sequences)?;
    Ok(measured?)
}

fn release(engine: &mut Engine, sequences: &[SequenceId]) -> Result<(), RuntimeError> {
    sequences.iter().try_for_each(|&sequence| engine.remove_sequence(sequence))
}

fn measure_in(engine: &mut Engine, sequences: &[SequenceId], args: &Args) -> Result<(f64, f64), RuntimeError> {
    let vocab = engine.manifest().model.vocab as u32;
    let prompts: Vec<Vec<u32>> = (0..).zip(sequences).map(|(index, _)| prompt(args.prompt, index, vocab)).collect();
    let began = Instant::now();
    let mut next = prefill(engine, sequences, &prompts)?;
    let prefill = (args.prompt * args.batch) as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    for _ in 0..args.generate {
        let feed = |(&sequence, token)| Feed { sequence, tokens: std::slice::from_ref(token), outputs: Outputs::Last };
        let feeds: Vec<Feed<'_>> = sequences.iter().zip(&next).map(feed).collect();
        let picked: Result<Vec<u32>, RuntimeError> = engine.step(&feeds)?.rows().map(sample::greedy).collect();
        next = picked?;
    }
    let decode = (args.generate * args.batch) as f64 / began.elapsed().as_secs_f64();
    Ok((prefill, decode))
}

/// Feeds every sequence its prompt, all of them in ragged steps that are as large as the plan allows; the likeliest
/// token after each prompt.
fn prefill(engine: &mut Engine, sequences: &[SequenceId], prompts: &[Vec<u32>]) -> Result<Vec<u32>, RuntimeError> {
    let (most_tokens, most_rows) = (engine.max_step_tokens(), engine.max_step_outputs());
    let mut next = Vec::with_capacity(sequences.len());
    let mut taken = 0; // tokens of the first prompt that is not through
    while next.len() < sequences.len() {
        let (mut room, mut through) = (most_tokens, 0);
        let mut feeds = Vec::new();
        for (&sequence, prompt) in sequences.iter().zip(prompts).skip(next.len()) {
            let rest = &prompt[taken..];
            if room == 0 || through == most_rows {
                break;
            }
            let tokens = &rest[..rest.len().min(room)];
            let last = tokens.len() == rest.len();
            feeds.push(Feed { sequence, tokens, outputs: if last { Outputs::Last } else { Outputs::None } });
            room -= tokens.len();
            through += usize::from(last);
            taken = if last { 0 } else { taken + tokens.len() };
        }
        for row in engine.step(&feeds)?.rows() {
            next.push(sample::greedy(row)?);
        }
    }
    Ok(next)
}

/// Tokens that look like text to a router: all over the vocabulary, other ones in every sequence.
fn prompt(n: u64, sequence: u64, vocab: u32) -> Vec<u32> {
    let mut state = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut token = || {
        // Knuth's MMIX generator
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(vocab)) as u32
    };
    (0..n).map(|_| token()).collect()
}

impl Report {
    fn table(&self) -> String {
        let Report { prompt, generate, batch, runs, .. } = self;
        let mut out =
            format!("{runs} runs: {batch} × {prompt} tokens of prompt, {batch} × {generate} generated; tokens/s\n");
        for plan in &self.plans {
            out.push_str(&format!("{} ({}, {} threads)\n", plan.plan, plan.target, plan.threads));
            for (name, rates) in [("prefill", plan.prefill_tokens_per_s), ("decode", plan.decode_tokens_per_s)] {
                let Rates { min, median, max, ratio } = rates;
                out.push_str(&format!("  {name:<8} {median:>10.2}  ({min:.2} … {max:.2})  × {ratio:.3}\n"));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_ordered() {
        let rates = Rates::new(vec![3.0, 1.0, 2.0, 10.0]);
        assert_eq!(rates, Rates { min: 1.0, median: 2.5, max: 10.0, ratio: 1.0 });
        assert_eq!(Rates::new(vec![4.0]).median, 4.0);
    }

    #[test]
    fn prompts_stay_inside_the_vocabulary_and_differ() {
        assert!(prompt(1000, 0, 7).iter().all(|&token| token < 7));
        assert_ne!(prompt(20, 0, 1000), prompt(20, 1, 1000));
    }
}
