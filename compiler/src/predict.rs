//! `jambac predict`: how long a plan's steps take on a GPU by a model of the card, and how far each kernel is from what the card
//! allows; for a plan on a CPU, what the peaks of a `jamba bench` run allow beside what it measured.
//!
//! A prediction is a claim that a run can refute: `--measured` shows by which kernels it is off, and fits the constants that the
//! run shows.

mod card;
mod cpu;
mod measured;
mod step;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use jamba_plan::Plan;
use jamba_plan::format::{EntryKind, Program, TargetKind};
use jamba_runtime::{PlanFile, Verify};
use jambac_kernels::kernel::Launch;
use serde_json::json;

pub use card::{Card, Model};
pub use step::{Bound, Load, Predicted, Prediction, predict};

use crate::report::{check_plan, print};
use crate::verify;
use measured::{Measured, OnCpu, fit};

/// The machine of a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum On {
    /// H100 SXM, 80 GB.
    H100,
    /// H200 SXM, 141 GB.
    H200,
    /// The CPU of a `jamba bench --json` run; needs --measured.
    Cpu,
}

/// The options of `jambac predict`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    jambac predict my.plan --card h100 --sequences 8 --context 4096\n  \
    jambac predict my.plan --card h200 --prefill 8192\n  \
    jamba bench my.plan --json > bench.json && jambac predict my.plan --card cpu --measured bench.json")]
pub struct Predict {
    /// The plan.
    plan: PathBuf,
    /// The machine.
    #[arg(long, value_enum, default_value_t = On::H100)]
    card: On,
    /// Sequences that decode at once.
    #[arg(long, value_name = "N", default_value_t = 1)]
    sequences: u64,
    /// Tokens of each sequence before the step.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    context: u64,
    /// Predict a prompt of N tokens instead of a decode step.
    #[arg(long, value_name = "N", conflicts_with_all = ["sequences", "context"])]
    prefill: Option<u64>,
    /// A row of `gpu-bench time`, or the output of `jamba bench --json`: prints what it measured beside the prediction.
    #[arg(long, value_name = "FILE")]
    measured: Option<PathBuf>,
    /// Print one JSON document with every launch.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// A plan that is damaged, has no program for the machine, takes no such step, or whose kernels this compiler does not know; a file of
/// measurements that is none.
pub fn run(options: &Predict) -> Result<()> {
    check_plan(&options.plan)?;
    let file = PlanFile::open(&options.plan)?;
    let plan = file.plan(Verify::AllButWeights, &mut |_, _| ())?;
    let model = match options.card {
        On::H100 => Model::H100,
        On::H200 => Model::H200,
        On::Cpu => return on_cpu(options, &plan),
    };
    let (kernels, program) = of_kind(options, &plan, TargetKind::Sm90a)?;
    let (card, loads) = (Card::of(model), loads(options, program)?);
    let predict = |card: &Card| {
        let step =
            |&load: &Load| predict(&kernels, program, card, load).with_context(|| too_large(options, program, load));
        loads.iter().map(step).collect::<Result<Vec<_>>>()
    };
    let steps = predict(&card)?;
    if options.json {
        let launches: Vec<&[Predicted]> = steps.iter().map(|step| step.launches.as_slice()).collect();
        let seconds: f64 = steps.iter().map(|step| step.seconds).sum();
        return print(&format!("{}\n", json!({ "card": card, "seconds": seconds, "steps": launches })));
    }
    let mut text = table(&model.to_string(), &card, &loads, &steps);
    if let Some(path) = &options.measured {
        let measured = Measured::read(path)?;
        let entry = loads[0].kind.name();
        let launches: Vec<Predicted> = steps.iter().flat_map(|step| step.launches.clone()).collect();
        let fitted = fit(&card, &launches, &measured, entry);
        text += &residuals(&launches, &predict(&fitted)?, &measured, entry);
        writeln!(
            text,
            "\nfitted: {:.2} µs between launches, {:.2} TB/s, {:.0} GB/s a block",
            fitted.gap * 1e6,
            fitted.bandwidth / 1e12,
            fitted.block_bandwidth / 1e9
        )?;
    }
    print(&text)
}

/// The kernels and the program of a kind of target.
fn of_kind<'a>(options: &Predict, plan: &'a Plan<'_>, kind: TargetKind) -> Result<(Vec<Launch>, &'a Program)> {
    let path = options.plan.display();
    let Some((_, program)) = plan.programs().find(|(info, _)| info.kind == kind) else {
        let found: Vec<&str> = plan.programs().map(|(info, _)| info.kind.name()).collect();
        bail!(
            "{path}: found a program for {}, expected one for {}: jambac build --target {}",
            found.join(", "),
            kind.name(),
            kind.name()
        );
    };
    let kernels = program.kernels.iter().map(|record| verify::launch(kind, record)).collect::<Result<_>>();
    Ok((kernels.with_context(|| path.to_string())?, program))
}

/// The steps to predict: one decode step, or the chunks of a prompt.
fn loads(options: &Predict, program: &Program) -> Result<Vec<Load>> {
    let Some(tokens) = options.prefill else { return Ok(vec![Load::decode(options.sequences, options.context)]) };
    let prefill = program.entries.iter().find(|entry| entry.kind == EntryKind::Prefill);
    let chunk = prefill.context("the plan has no prefill entry")?.max_tokens;
    let starts = (0..tokens).step_by(usize::try_from(chunk)?);
    Ok(starts.map(|at| Load::prefill(chunk.min(tokens - at), at)).collect())
}

fn too_large(options: &Predict, program: &Program, load: Load) -> String {
    let most = program.entries.iter().map(|entry| entry.max_sequences).max().unwrap_or(0);
    format!(
        "{}: found {} sequences, expected at most {most}: jambac limits --sequences",
        options.plan.display(),
        load.sequences
    )
}

/// Launches of a kernel, added up.
#[derive(Default)]
struct Sum {
    launches: usize,
    bytes: f64,
    seconds: f64,
    floor: f64,
    blocks: f64,
    bound: Option<Bound>,
}

/// The launches of each kernel together, longest first.
fn by_symbol<'a>(launches: impl Iterator<Item = &'a Predicted>) -> Vec<(&'a str, Sum)> {
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for launch in launches {
        let sum = sums.entry(&launch.symbol).or_default();
        sum.launches += 1;
        sum.bytes += launch.bytes;
        sum.seconds += launch.seconds;
        sum.floor += launch.floor;
        sum.blocks = launch.blocks;
        sum.bound = Some(launch.bound);
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    sums
}

fn table(name: &str, card: &Card, loads: &[Load], steps: &[Prediction]) -> String {
    let launches = || steps.iter().flat_map(|step| &step.launches);
    let seconds: f64 = steps.iter().map(|step| step.seconds).sum();
    let (bytes, floor) = steps.iter().fold((0.0, 0.0), |sum, step| (sum.0 + step.bytes, sum.1 + step.floor));
    let tokens: u64 = loads.iter().map(|load| load.tokens * load.sequences).sum();
    let what = match loads[0].kind {
        EntryKind::Prefill => format!("a prompt of {tokens} tokens in {} steps", loads.len()),
        EntryKind::Decode => {
            format!("one token for each of {} sequences after {}", loads[0].sequences, loads[0].context)
        }
    };
    let mut text = format!(
        "{name}, {what}: {:.3} ms, {:.0} tokens/s, {} launches, {:.2} GB; {:.0} % of the card's limit ({:.3} ms at {:.1} TB/s)\n\n",
        seconds * 1e3,
        tokens as f64 / seconds,
        launches().count(),
        bytes / 1e9,
        100.0 * floor / seconds,
        floor * 1e3,
        card.bandwidth / 1e12,
    );
    let _ = writeln!(
        text,
        "{:>8} {:>9} {:>9} {:>8} {:>7} {:>8}  kernel",
        "launches", "µs", "MB", "blocks", "limit", "bound"
    );
    for (symbol, sum) in by_symbol(launches()) {
        let _ = writeln!(
            text,
            "{:>8} {:>9.1} {:>9.2} {:>8.0} {:>5.0} % {:>8}  {symbol}",
            sum.launches,
            sum.seconds * 1e6,
            sum.bytes / 1e6,
            sum.blocks,
            100.0 * sum.floor / sum.seconds,
            sum.bound.map_or("", Bound::name),
        );
    }
    let host = card.host * steps.len() as f64;
    let _ = writeln!(text, "{:>8} {:>9.1} {:>9} {:>8} {:>7} {:>8}  the host", steps.len(), host * 1e6, "", "", "", "");
    text
}

/// Measured times of kernels beside predicted ones, before and after fitting.
fn residuals(launches: &[Predicted], fitted: &[Prediction], measured: &Measured, entry: &str) -> String {
    let times = measured.launches(entry);
    let after = by_symbol(fitted.iter().flat_map(|step| &step.launches));
    let mut text =
        format!("\n{:>9} {:>9} {:>7} {:>7}  kernel, µs a launch\n", "measured", "predicted", "off", "fitted");
    for (symbol, sum) in by_symbol(launches.iter()) {
        let Some(time) = times.get(symbol) else {
            let _ = writeln!(
                text,
                "{:>9} {:>9.2} {:>7} {:>7}  {symbol}",
                "none",
                sum.seconds * 1e6 / sum.launches as f64,
                "",
                ""
            );
            continue;
        };
        let predicted = sum.seconds / sum.launches as f64;
        let after =
            after.iter().find(|(other, _)| *other == symbol).map_or(0.0, |(_, sum)| sum.seconds / sum.launches as f64);
        let off = |predicted: f64| 100.0 * (predicted / time - 1.0);
        let _ = writeln!(
            text,
            "{:>9.2} {:>9.2} {:>5.0} % {:>5.0} %  {symbol}",
            time * 1e6,
            predicted * 1e6,
            off(predicted),
            off(after)
        );
    }
    text
}

/// What the peaks of a CPU allow beside what was measured.
fn on_cpu(options: &Predict, plan: &Plan<'_>) -> Result<()> {
    let Some(path) = &options.measured else {
        bail!("--card cpu: found no --measured, expected the output of jamba bench {} --json", options.plan.display());
    };
    let run = OnCpu::read(path, plan.digest().to_hex().as_str())?;
    let (_, program) = of_kind(options, plan, TargetKind::Cpu)?;
    let prediction = cpu::predict(program, &run);
    if options.json {
        return print(&format!("{}\n", json!(prediction)));
    }
    print(&prediction.table())
}
