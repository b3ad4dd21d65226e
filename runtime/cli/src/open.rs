//! Opening plans, as every command does it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};
use jamba_runtime::{Engine, OpenOptions, Progress, Verify};

use crate::failure::{Failure, phase};

/// Work below this many bytes is over before a bar could be read.
const LONG_BYTES: u64 = 1 << 28;

/// How plans are opened.
#[derive(clap::Args)]
pub(crate) struct OpenArgs {
    /// Device: `cpu` or `cuda:N`
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads; one for every core, unless given
    #[arg(long)]
    threads: Option<usize>,
    /// Target whose code is run: `x86-64-v3`; the best that this CPU runs, unless given
    #[arg(long)]
    isa: Option<String>,
    /// Do not compare the weights with their digest: opens large plans sooner
    #[arg(long)]
    trust_weights: bool,
    /// Take all of the plan's memory now, not as it is first used
    #[arg(long)]
    prefault: bool,
    /// Run every step alone and look for writes outside its memory and for logits that are not numbers (slow)
    #[arg(long)]
    check: bool,
}

impl OpenArgs {
    /// Opens a plan.
    pub(crate) fn open(&self, path: &Path) -> Result<Engine, Failure> {
        phase("open");
        check_device(&self.device)?;
        let bar = Bar::new();
        let tell = |progress: Progress| bar.tell(progress);
        let engine = Engine::open(
            path,
            OpenOptions {
                threads: self.threads,
                isa: self.isa.clone(),
                verify: if self.trust_weights { Verify::AllButWeights } else { Verify::Everything },
                check: self.check,
                prefault: self.prefault,
                progress: Some(&tell),
            },
        )?;
        phase("execution");
        Ok(engine)
    }
}

fn check_device(device: &str) -> Result<(), Failure> {
    match device.strip_prefix("cuda:").map(str::parse::<u32>) {
        _ if device == "cpu" => Ok(()),
        Some(Ok(_)) => {
            Err(Failure::Input(format!("device {device}: this build has no CUDA runtime yet; use --device cpu")))
        }
        _ => Err(Failure::Usage(format!("device {device:?}: expected cpu or cuda:N"))),
    }
}

/// The path of a plan, as an argument.
#[derive(clap::Args)]
pub(crate) struct PlanArg {
    /// The plan
    #[arg(value_name = "PLAN")]
    pub(crate) plan: PathBuf,
}

/// A progress bar for long work, where somebody sees it.
pub(crate) struct Bar {
    shown: bool,
    current: Mutex<Option<(&'static str, ProgressBar)>>,
}

impl Bar {
    pub(crate) fn new() -> Bar {
        Bar { shown: std::io::stderr().is_terminal(), current: Mutex::new(None) }
    }

    /// Shows how far the work is.
    pub(crate) fn tell(&self, progress: Progress) {
        let Progress { what, done, total } = progress;
        if !self.shown || total < LONG_BYTES {
            return;
        }
        let Ok(mut current) = self.current.lock() else { return };
        if current.as_ref().is_none_or(|(shown, _)| *shown != what) {
            let bar = ProgressBar::new(total);
            if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}") {
                bar.set_style(style);
            }
            bar.set_message(what);
            if let Some((_, old)) = current.replace((what, bar)) {
                old.finish_and_clear();
            }
        }
        if let Some((_, bar)) = current.as_ref() {
            bar.set_position(done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Ok(current) = self.current.get_mut()
            && let Some((_, bar)) = current.take()
        {
            bar.finish_and_clear();
        }
    }
}
