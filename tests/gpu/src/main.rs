//! `gpu-bench`: checks kernels and plans on a GPU, and times them. `run.py` calls it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use gpu_bench::cases::Cases;
use gpu_bench::checks::{CHECKS, Subject, Tolerance};
use gpu_bench::{draws, times};
use jamba_runtime::{DebugOptions, DeviceId, Engine, OpenOptions, gpu};
use serde::Serialize;

/// Checks kernels and plans on a GPU, and times them; prints a JSON document a line.
#[derive(Parser)]
struct Args {
    /// The number of the GPU.
    #[arg(long, default_value_t = 0)]
    device: u32,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What the device is, and how fast it copies memory.
    Device,
    /// Run recorded launches of kernels.
    Kernels {
        /// Files of cases.
        files: Vec<PathBuf>,
    },
    /// Check a plan against itself on the CPU.
    Plan {
        /// A plan for both.
        plan: PathBuf,
        /// Token ids of a text, JSON.
        #[arg(long)]
        text: PathBuf,
        /// Largest difference of a logit, for nearly all rows.
        #[arg(long, default_value_t = 0.15)]
        tolerance: f32,
        /// One check instead of all.
        #[arg(long)]
        check: Option<String>,
    },
    /// Draw the synthetic weights of a plan on the GPU, compare them with the host's, and time it.
    Draw {
        /// The plan.
        plan: PathBuf,
    },
    /// Time a plan, whole steps and each kernel.
    Time {
        /// The plan.
        plan: PathBuf,
        /// Sequences at once.
        #[arg(long, default_value_t = 1)]
        sequences: usize,
        /// Tokens of each sequence before the measured ones.
        #[arg(long, default_value_t = 1024)]
        context: usize,
        /// Steps that are measured.
        #[arg(long, default_value_t = 32)]
        steps: usize,
        /// Launch every kernel by itself, without graphs.
        #[arg(long)]
        launch_each: bool,
    },
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gpu-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let device = args.device;
    let open = |plan: &Path, options: OpenOptions<'_>| {
        let options = OpenOptions { device: DeviceId::Cuda(device), ..options };
        Engine::open(plan, options).with_context(|| format!("opening {}", plan.display()))
    };
    match &args.command {
        Command::Device => print(&times::copies(gpu::open(device)?)?),
        Command::Kernels { files } => {
            ensure!(!files.is_empty(), "no files of cases were given");
            files.iter().try_for_each(|file| {
                let verdicts = Cases::read(file)?.run(gpu::open(device)?);
                verdicts.with_context(|| file.display().to_string())?.iter().try_for_each(print)
            })
        }
        Command::Plan { plan, text, tolerance, check } => {
            let text = std::fs::read_to_string(text).with_context(|| format!("reading {}", text.display()))?;
            let text: Vec<u32> = serde_json::from_str(&text).context("--text is no list of token ids")?;
            let on_gpu = |options: OpenOptions<'_>| open(plan, options);
            let tolerance = Tolerance { of_a_row: *tolerance, rows_beyond: 0.02 };
            let subject = Subject { plan, on_gpu: &on_gpu, text: &text, tolerance };
            let wanted = |name: &str| check.as_deref().is_none_or(|wanted| wanted == name);
            let mut checks = CHECKS.iter().filter(|(name, _)| wanted(name)).peekable();
            ensure!(checks.peek().is_some(), "--check: expected one of {:?}", CHECKS.map(|(name, _)| name));
            checks.try_for_each(|(name, check)| print(&check(&subject).with_context(|| (*name).to_owned())?))
        }
        Command::Draw { plan } => {
            print(&draws::draw(plan, gpu::open(device)?).with_context(|| plan.display().to_string())?)
        }
        Command::Time { plan, sequences, context, steps, launch_each } => {
            let mut engine = open(
                plan,
                OpenOptions {
                    debug: DebugOptions { launch_each: *launch_each, ..DebugOptions::default() },
                    ..OpenOptions::default()
                },
            )?;
            // A second context of the device sees what the first one takes.
            let free = || Ok::<u64, anyhow::Error>(gpu::open(device)?.info().free_bytes);
            let before = free()?;
            let mut times = times::time(&mut engine, *sequences, *context, *steps)?;
            times.driver_bytes = Some(before.saturating_sub(free()?));
            print(&times)
        }
    }
}

fn print(document: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(document)?);
    Ok(())
}
