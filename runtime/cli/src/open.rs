//! Opening plans, as every command does it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use jamba_plan::printable::printable;
use jamba_program::say;
use jamba_runtime::{
    DebugOptions, DeviceId, Engine, OpenOptions, PlanFile, Progress, RuntimeError, TrustedKeys, Unit, Verify,
};

use crate::checkpoint;
use crate::failure::{Failure, Lowered, phase};

/// Operations that take less time show no progress bar.
const LONG: Duration = Duration::from_secs(1);

/// Options for opening plans.
#[derive(clap::Args)]
pub(crate) struct OpenArgs {
    /// Device: `cpu`, or `cuda:N` for GPU N
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: DeviceId,
    /// Number of threads [default: one per core]
    #[arg(short = 't', long)]
    threads: Option<usize>,
    /// Maximum tokens of a sequence, prompt and answer together, if less than the plan's: saves memory
    #[arg(short = 'c', long, value_name = "N", alias = "ctx-size")]
    context: Option<u64>,
    /// Number of sequences, if less than the plan's: saves memory
    #[arg(long, value_name = "N")]
    sequences: Option<u64>,
    /// Target to run, for example `x86-64-v3` [default: the best that the device supports]
    #[arg(long)]
    isa: Option<String>,
    /// Do not verify the digest of the weights; opens large plans faster. Not with a required signature
    #[arg(long, conflicts_with_all = ["trusted_keys", "require_signature"])]
    trust_weights: bool,
    /// Refuse plans with another digest, before any of their code is loaded; `jamba verify` prints it. With --trust-weights it
    /// does not cover the weights
    #[arg(long, value_name = "HEX", value_parser = digest)]
    require_digest: Option<blake3::Hash>,
    /// Refuse plans that none of the keys in this file signed, before any of their code is loaded. The file has a public key of
    /// ssh-keygen in each line; the signature is in PLAN.sig
    #[arg(long, value_name = "FILE")]
    trusted_keys: Option<PathBuf>,
    /// As --trusted-keys, with the keys in $XDG_CONFIG_HOME/jamba/trusted_keys (~/.config)
    #[arg(long, conflicts_with = "trusted_keys")]
    require_signature: bool,
    /// Make all memory resident when the plan is opened
    #[arg(long)]
    prefault: bool,
    /// Synchronize after every step and check for out-of-bounds writes and logits that are not finite (slow)
    #[arg(long)]
    check: bool,
    /// Draw synthetic weights on the host instead of the GPU (bit-identical, slower)
    #[arg(long)]
    draw_on_host: bool,
    /// Launch every step of a GPU separately instead of replaying graphs (bit-identical, slower)
    #[arg(long)]
    launch_each: bool,
    /// Copy all logits from the GPU and pick tokens on the host (same tokens, slower)
    #[arg(long)]
    pick_on_host: bool,
}

fn digest(text: &str) -> Result<blake3::Hash, String> {
    blake3::Hash::from_hex(text).map_err(|_| "expected 64 hexadecimal digits, as `jamba verify` prints them".to_owned())
}

impl OpenArgs {
    /// Opens a plan, or builds it from the model that the path names. Shows progress bars for opening and for prompts.
    pub(crate) fn open(&self, path: &Path) -> Result<Engine, Failure> {
        phase("open");
        let plan = checkpoint::plan_of(path, self.device)?;
        let bar = Bar::new();
        let mut engine = match self.open_plan(&plan.path, &bar) {
            Ok(engine) => engine,
            Err(error) => match plan.built_again(&error)? {
                Some(path) => self.open_plan(&path, &bar)?,
                None => return Err(error.into()),
            },
        };
        engine.on_prefill(move |progress| bar.tell(progress));
        phase("execution");
        Ok(engine)
    }

    fn open_plan(&self, path: &Path, bar: &Bar) -> Result<Engine, RuntimeError> {
        // Errors of the file are those of opening it.
        if let Ok(jamba_plan::format::Manifest { limits, .. }) = jamba_plan::peek::manifest(path) {
            let plan = (limits.max_context, limits.max_sequences);
            Lowered { context: self.context, sequences: self.sequences, plan }.keep();
        }
        let tell = |progress: Progress| bar.tell(progress);
        let file = PlanFile::open(path)?;
        if let Some(exposed) = file.exposed() {
            let plan = file.path().display();
            let message =
                format!("jamba: warning: {plan}: {exposed}: open only plans that nobody else can write (chmod go-w)");
            say!("{}", printable(&message));
        }
        Engine::open(
            file,
            OpenOptions {
                device: self.device,
                driver: None,
                threads: self.threads,
                isa: self.isa.clone(),
                max_context: self.context,
                max_sequences: self.sequences,
                verify: if self.trust_weights { Verify::AllButWeights } else { Verify::Everything },
                require_digest: self.require_digest,
                trusted_keys: match &self.trusted_keys {
                    Some(path) => Some(TrustedKeys::read(path)?),
                    None if self.require_signature => Some(TrustedKeys::of_user()?),
                    None => None,
                },
                prefault: self.prefault,
                debug: DebugOptions {
                    check: self.check,
                    draw_on_host: self.draw_on_host,
                    launch_each: self.launch_each,
                    pick_on_host: self.pick_on_host,
                },
                progress: Some(&tell),
                ..OpenOptions::default()
            },
        )
    }
}

/// The path of a plan, as an argument.
#[derive(clap::Args)]
pub(crate) struct PlanArg {
    /// The plan. Commands that run it also take a checkpoint's folder or an id such as `ai21labs/AI21-Jamba-Reasoning-3B`
    /// from the Hugging Face cache; `jambac` then builds a plan into its own cache, once
    #[arg(value_name = "PLAN", required_unless_present = "model")]
    plan: Option<PathBuf>,
    /// The plan, as an option
    #[arg(short = 'm', long, value_name = "PLAN")]
    model: Option<PathBuf>,
}

impl PlanArg {
    /// The plan.
    pub(crate) fn path(&self) -> &Path {
        self.model.as_ref().or(self.plan.as_ref()).map_or(Path::new(""), PathBuf::as_path)
    }

    /// Refuses a first argument beside `-m`, for commands that take nothing but a plan.
    pub(crate) fn only(&self) -> Result<&Path, Failure> {
        match (&self.model, &self.plan) {
            (Some(_), Some(first)) => Err(Failure::Usage(format!(
                "found {} and -m, expected the plan once and nothing else",
                first.display()
            ))),
            _ => Ok(self.path()),
        }
    }

    /// With `-m`, the first argument, which is no plan then.
    pub(crate) fn take_first(&mut self) -> Option<PathBuf> {
        if self.model.is_some() { self.plan.take() } else { None }
    }
}

/// A progress bar for long operations, shown if stderr is a terminal.
pub(crate) struct Bar {
    shown: bool,
    current: Mutex<Option<Work>>,
}

/// An operation in progress. It has a bar once it takes long.
struct Work {
    what: &'static str,
    began: Instant,
    bar: Option<ProgressBar>,
}

impl Bar {
    pub(crate) fn new() -> Bar {
        Bar { shown: std::io::stderr().is_terminal(), current: Mutex::new(None) }
    }

    /// Updates the bar.
    pub(crate) fn tell(&self, progress: Progress) {
        let Progress { what, done, total, unit } = progress;
        if !self.shown {
            return;
        }
        let Ok(mut current) = self.current.lock() else { return };
        if current.as_ref().is_none_or(|work| work.what != what) {
            clear(&mut current);
            *current = Some(Work { what, began: Instant::now(), bar: None });
        }
        let Some(work) = current.as_mut() else { return };
        if work.bar.is_none() && work.began.elapsed() > LONG {
            work.bar = Some(bar(what, total, unit).with_elapsed(work.began.elapsed()));
        }
        if let Some(bar) = &work.bar {
            bar.set_position(done);
        }
        if done >= total {
            clear(&mut current);
        }
    }
}

/// A bar with progress, rate and remaining time.
fn bar(what: &'static str, total: u64, unit: Unit) -> ProgressBar {
    let template = match unit {
        Unit::Bytes => "{msg} {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left",
        Unit::Tokens => "{msg} {wide_bar} {human_pos}/{human_len} tokens, {per_sec}, {eta} left",
    };
    let bar = ProgressBar::new(total).with_message(what);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn clear(current: &mut Option<Work>) {
    if let Some(bar) = current.take().and_then(|work| work.bar) {
        bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Ok(current) = self.current.get_mut() {
            clear(current);
        }
    }
}
