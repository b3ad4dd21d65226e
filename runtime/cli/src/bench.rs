//! `jamba bench`: tokens per second of prefill and decode, and the times to the first token and per token, for each batch
//! size. Several plans run in turn, so that changes of the machine's speed affect all of them equally. One more traced run per
//! plan gives the time per kind of kernel, compared with the machine's peak rates.

mod report;

use std::path::PathBuf;
use std::time::Instant;

use jamba_plan::format::KV_PAGE_TOKENS;
use jamba_runtime::{
    DeviceId, Engine, Feed, Outputs, Peaks, Progress, RuntimeError, Sampler, SamplerOptions, SequenceId, Unit,
};

use crate::failure::{Failure, Lowered, print, print_json};
use crate::open::{Bar, OpenArgs};
use report::{BatchReport, Kind, Measured, Percentiles, Rates, Report};

/// Arguments of `jamba bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Plans to measure; ratios are relative to the first
    #[arg(required = true, value_name = "PLAN")]
    plans: Vec<PathBuf>,
    /// Prompt tokens per sequence
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = positive())]
    prompt: u64,
    /// New tokens per sequence
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive())]
    generate: u64,
    /// Number of sequences; several numbers measure each: `1,2,4`
    #[arg(long, value_name = "N", default_value = "1", value_delimiter = ',', value_parser = positive())]
    batch: Vec<u64>,
    /// Measured runs per plan, after one warm-up run
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = positive())]
    runs: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    open: OpenArgs,
}

fn positive() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

/// A plan and its measurements.
struct Subject {
    engine: Engine,
    open_s: f64,
    /// One for each batch size.
    batches: Vec<Times>,
}

/// The measurements of one batch size, over all runs.
#[derive(Clone, Default)]
struct Times {
    /// Tokens per second of each run.
    prefill: Vec<f64>,
    decode: Vec<f64>,
    /// Seconds from the start of the run to the first token of each sequence.
    first_token: Vec<f64>,
    /// Seconds of each decode step.
    token: Vec<f64>,
}

/// Measures all plans.
pub(crate) fn bench(args: Args) -> Result<(), Failure> {
    let mut subjects = Vec::with_capacity(args.plans.len());
    for path in &args.plans {
        let began = Instant::now();
        let engine = args.open.open(path)?;
        let open_s = began.elapsed().as_secs_f64();
        check(&engine, &args)?;
        subjects.push(Subject { engine, open_s, batches: vec![Times::default(); args.batch.len()] });
    }
    let bar = Bar::new();
    let per_sequence = args.prompt + args.generate;
    let per_run = per_sequence * args.batch.iter().sum::<u64>() * subjects.len() as u64;
    let total = per_run.saturating_mul(args.runs.saturating_add(1));
    let mut done = 0;
    let of_cpu = subjects.iter().filter(|subject| subject.engine.device() == DeviceId::Cpu.to_string());
    let threads = of_cpu.map(|subject| subject.engine.threads()).max();
    let mut peaks = Vec::new();
    for run in 0..=args.runs {
        // Between the runs: a shared machine's peaks change as its plans' rates do.
        peaks.extend(threads.map(Peaks::measure));
        for (index, &batch) in args.batch.iter().enumerate() {
            for subject in &mut subjects {
                bar.tell(Progress { what: "measuring", done, total, unit: Unit::Tokens });
                done += per_sequence * batch;
                let mut warm_up = Times::default();
                let times = if run > 0 { &mut subject.batches[index] } else { &mut warm_up };
                measure(&mut subject.engine, (batch, &args), times)?;
            }
        }
    }
    drop(bar);
    let batch = args.batch[0];
    for subject in &mut subjects {
        subject.engine.set_trace(true);
        measure(&mut subject.engine, (batch, &args), &mut Times::default())?;
    }
    let first = subjects[0].batches.clone();
    let plans = subjects.into_iter().map(|subject| subject.measured(&args.batch, &first)).collect();
    let Args { prompt, generate, runs, .. } = args;
    let peaks = Peaks::median(&peaks).map(Into::into);
    let report = Report { prompt, generate, batch, runs, peaks, plans };
    if args.json { print_json(&report) } else { print(&report.table()) }
}

/// Refuses sizes for which the plan has no room.
fn check(engine: &Engine, args: &Args) -> Result<(), Failure> {
    engine.check_head()?;
    let limits = &engine.manifest().limits;
    let (path, Lowered { context, sequences, .. }) = (engine.path().display(), Lowered::current());
    let limit = |option: &str, given: Option<u64>, of_plan: String| match given {
        Some(given) => format!("the limit of {option} {given}"),
        None => format!("{of_plan} of {path}"),
    };
    let tokens = args.prompt.saturating_add(args.generate);
    if tokens > limits.max_context {
        return Err(Failure::Input(format!(
            "--prompt {} and --generate {}: found {tokens} tokens of a sequence, expected at most {}, {}; lower them, \
             or make a plan with a longer context: jambac limits PLAN --context N -o OUT.plan",
            args.prompt,
            args.generate,
            limits.max_context,
            limit("-c", context, "the context".to_owned())
        )));
    }
    let most = args.batch.iter().copied().max().unwrap_or(1);
    if most > limits.max_sequences {
        return Err(Failure::Input(format!(
            "--batch: found {most}, expected at most {}, {}; more: jambac limits PLAN --sequences {most} -o OUT.plan",
            limits.max_sequences,
            limit("--sequences", sequences, "the sequences".to_owned())
        )));
    }
    let kv_tokens = tokens.next_multiple_of(KV_PAGE_TOKENS).saturating_mul(most);
    if kv_tokens > limits.kv_tokens {
        return Err(Failure::Input(format!(
            "--batch {most} of {tokens} tokens each: found {kv_tokens} tokens of keys and values, expected at most {}, those of \
             {path}; lower --batch, --prompt or --generate, or: jambac limits PLAN --kv-tokens {kv_tokens} -o OUT.plan",
            limits.kv_tokens
        )));
    }
    Ok(())
}

impl Subject {
    /// The results for these batch sizes, relative to the rates of the first plan.
    fn measured(self, sizes: &[u64], first: &[Times]) -> Measured {
        let engine = self.engine;
        let kinds = engine.trace().map(|trace| trace.by_kind(engine.program())).unwrap_or_default();
        let kernels = engine.trace().map(|trace| trace.by_symbol(engine.program())).unwrap_or_default();
        let of_batch = |((times, first), &batch): ((&Times, &Times), &u64)| BatchReport {
            batch,
            prefill_tokens_per_s: Rates::new(&times.prefill, &first.prefill),
            decode_tokens_per_s: Rates::new(&times.decode, &first.decode),
            first_token_s: Percentiles::new(&times.first_token),
            token_s: Percentiles::new(&times.token),
        };
        let batches: Vec<BatchReport> = self.batches.iter().zip(first).zip(sizes).map(of_batch).collect();
        Measured {
            plan: engine.path().display().to_string(),
            digest: engine.plan_digest().to_hex().to_string(),
            device: engine.device().to_owned(),
            target: engine.target().to_owned(),
            threads: engine.threads(),
            open_s: self.open_s,
            prefill_tokens_per_s: batches[0].prefill_tokens_per_s,
            decode_tokens_per_s: batches[0].decode_tokens_per_s,
            batches,
            kinds: kinds.into_iter().map(Kind::from).collect(),
            kernels: kernels.into_iter().map(Kind::from).collect(),
        }
    }
}

/// One run of `batch` sequences; adds its times.
fn measure(engine: &mut Engine, (batch, args): (u64, &Args), times: &mut Times) -> Result<(), Failure> {
    let mut sequences = Vec::new();
    for _ in 0..batch {
        match engine.add_sequence() {
            Ok(sequence) => sequences.push(sequence),
            Err(error) => {
                release(engine, &sequences)?;
                return Err(error.into());
            }
        }
    }
    let measured = measure_in(engine, &sequences, args, times);
    release(engine, &sequences)?;
    Ok(measured?)
}

fn release(engine: &mut Engine, sequences: &[SequenceId]) -> Result<(), RuntimeError> {
    sequences.iter().try_for_each(|&sequence| engine.remove_sequence(sequence))
}

fn measure_in(
    engine: &mut Engine,
    sequences: &[SequenceId],
    args: &Args,
    times: &mut Times,
) -> Result<(), RuntimeError> {
    let vocab = engine.manifest().model.vocab as u32;
    let prompts: Vec<Vec<u32>> = (0..).zip(sequences).map(|(index, _)| prompt(args.prompt, index, vocab)).collect();
    let sampler = |_| Sampler::new(SamplerOptions::GREEDY, vocab as usize);
    let mut samplers = sequences.iter().map(sampler).collect::<Result<Vec<_>, _>>()?;
    let batch = sequences.len() as u64;
    let began = Instant::now();
    let mut next = prefill(engine, (sequences, &mut samplers), &prompts, &mut times.first_token)?;
    times.prefill.push((args.prompt * batch) as f64 / began.elapsed().as_secs_f64());
    let began = Instant::now();
    for _ in 0..args.generate {
        let step = Instant::now();
        let feed = |(&sequence, token)| Feed { sequence, tokens: std::slice::from_ref(token), outputs: Outputs::Last };
        let feeds: Vec<Feed<'_>> = sequences.iter().zip(&next).map(feed).collect();
        next = engine.step_and_pick(&feeds, &mut samplers)?;
        times.token.push(step.elapsed().as_secs_f64());
    }
    times.decode.push((args.generate * batch) as f64 / began.elapsed().as_secs_f64());
    Ok(())
}

/// Prefills all prompts in ragged steps of the plan's maximum size. Returns the most likely token after each prompt; adds the
/// seconds until each to `first_token`.
fn prefill(
    engine: &mut Engine,
    (sequences, samplers): (&[SequenceId], &mut [Sampler]),
    prompts: &[Vec<u32>],
    first_token: &mut Vec<f64>,
) -> Result<Vec<u32>, RuntimeError> {
    let began = Instant::now();
    let (most_tokens, most_rows) = (engine.max_step_tokens(), engine.max_step_outputs());
    let mut next = Vec::with_capacity(sequences.len());
    let mut taken = 0; // tokens done of the first unfinished prompt
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
        let picking = next.len()..next.len() + through;
        next.extend(engine.step_and_pick(&feeds, &mut samplers[picking])?);
        first_token.extend(std::iter::repeat_n(began.elapsed().as_secs_f64(), through));
    }
    Ok(next)
}

/// Pseudo-random tokens, different for each sequence, so that MoE routers spread them as they do for text.
fn prompt(n: u64, sequence: u64, vocab: u32) -> Vec<u32> {
    let mut state = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut token = || {
        // Knuth's MMIX generator
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(vocab)) as u32
    };
    (0..n).map(|_| token()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_stay_inside_the_vocabulary_and_differ() {
        assert!(prompt(1000, 0, 7).iter().all(|&token| token < 7));
        assert_ne!(prompt(20, 0, 1000), prompt(20, 1, 1000));
    }
}
