//! `gpu-bench`: checks kernels and plans on a GPU, and times them. `run.py` calls it. Every result is printed as soon as it is found.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use gpu_bench::cases::Cases;
use gpu_bench::checks::{CHECKS, Subject, Tolerance};
use gpu_bench::constants::{self, Amount};
use gpu_bench::variants::{self, Variant};
use gpu_bench::{draws, times};
use jamba_runtime::{DebugOptions, DeviceId, Engine, OpenOptions, gpu};
use ptxsim::driver::{Device, Downloads, Simulated};
use serde::Serialize;

/// Exit code after a fault of the device.
const FAULT: u8 = 2;

/// Checks kernels and plans on a GPU, and times them; prints a JSON document a line.
#[derive(Parser)]
struct Args {
    /// The number of the GPU.
    #[arg(long, default_value_t = 0)]
    device: u32,
    /// Use the PTX simulator: times mean nothing then.
    #[arg(long)]
    simulated: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What the device is, and how fast it copies memory.
    Device,
    /// The constants that `jambac predict` assumes of a device.
    Constants,
    /// Run recorded launches of kernels. A wrong result does not end it; a fault of the device does, with exit code 2.
    Kernels {
        /// A file of cases.
        file: PathBuf,
        /// Number of the first case.
        #[arg(long, default_value_t = 0)]
        from: usize,
        /// Run the first case of each kernel only.
        #[arg(long)]
        smoke: bool,
        /// Run another text of the kernels: bounded, bounded:WAIT or cautious.
        #[arg(long)]
        variant: Option<Variant>,
    },
    /// The lines of a file's PTX that wait for an mbarrier, by number.
    Waits {
        /// A file of cases.
        file: PathBuf,
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
        Ok(code) => code,
        Err(error) => {
            eprintln!("gpu-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let device = args.device;
    let driver = || -> Result<Box<dyn gpu::Driver>> {
        match args.simulated {
            true => Ok(Box::new(Simulated::new(&Device { downloads: Downloads::Anything, ..Device::default() }))),
            false => Ok(gpu::open(device)?),
        }
    };
    let open = |plan: &Path, options: OpenOptions<'_>| {
        let options = match args.simulated {
            true => OpenOptions { driver: Some(driver()?), ..options },
            false => OpenOptions { device: DeviceId::Cuda(device), ..options },
        };
        Engine::open(plan, options).with_context(|| format!("opening {}", plan.display()))
    };
    match &args.command {
        Command::Device => print(&times::copies(driver()?, if args.simulated { 1 << 16 } else { times::COPY_BYTES })?)?,
        Command::Constants => {
            print(&constants::measure(driver()?, if args.simulated { Amount::SMALL } else { Amount::WHOLE })?)?;
        }
        Command::Waits { file } => print(&variants::waits(&Cases::read(file)?.ptx))?,
        Command::Kernels { file, from, smoke, variant } => {
            let mut cases = Cases::read(file)?;
            if let Some(variant) = variant {
                let variant = if args.simulated { variant.with_fewer_tries() } else { *variant };
                cases.ptx = variant.apply(&cases.ptx);
            }
            let chosen: Vec<usize> = if *smoke { cases.first_of_each() } else { (0..cases.cases.len()).collect() };
            let chosen: Vec<usize> = chosen.into_iter().filter(|index| index >= from).collect();
            let context = || file.display().to_string();
            let faulted = cases.run_some(driver()?, &chosen, &mut |outcome| print(&outcome)).with_context(context)?;
            if faulted {
                return Ok(ExitCode::from(FAULT));
            }
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
            checks.try_for_each(|(name, check)| print(&check(&subject).with_context(|| (*name).to_owned())?))?;
        }
        Command::Draw { plan } => {
            print(&draws::draw(plan, driver()?).with_context(|| plan.display().to_string())?)?;
        }
        Command::Time { plan, sequences, context, steps, launch_each } => {
            let mut engine = open(
                plan,
                OpenOptions {
                    debug: DebugOptions { launch_each: *launch_each, ..DebugOptions::default() },
                    ..OpenOptions::default()
                },
            )?;
            // A second driver of the device sees what the first one takes.
            let free = || Ok::<u64, anyhow::Error>(driver()?.info().free_bytes);
            let before = free()?;
            let mut times = times::time(&mut engine, *sequences, *context, *steps)?;
            times.driver_bytes = Some(before.saturating_sub(free()?));
            print(&times)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(document: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(document)?)?;
    Ok(out.flush()?)
}
