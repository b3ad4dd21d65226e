//! Opening plans, as every command does it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use jamba_runtime::{DeviceId, Engine, OpenOptions, Progress, Unit, Verify};

use crate::failure::{Failure, phase};

/// Work that is over sooner shows no bar.
const LONG: Duration = Duration::from_secs(1);

/// How plans are opened.
#[derive(clap::Args)]
pub(crate) struct OpenArgs {
    /// Device: `cpu`, or `cuda:N` for the GPU of that number
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: DeviceId,
    /// Threads; one for every core, unless given
    #[arg(long)]
    threads: Option<usize>,
    /// Target whose code is run: `x86-64-v3`; the best that the device runs, unless given
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
    /// Draw synthetic weights on the host, where a GPU would draw them itself (the same bits, slower)
    #[arg(long)]
    draw_on_host: bool,
    /// Launch every step of a GPU by itself, not as graphs that were recorded (the same bits, slower)
    #[arg(long)]
    launch_each: bool,
    /// Bring every row of logits from a GPU and pick tokens on the CPU (the same tokens, slower)
    #[arg(long)]
    pick_on_host: bool,
}

impl OpenArgs {
    /// Opens a plan; a bar shows how far that is, and later how far each prompt is.
    pub(crate) fn open(&self, path: &Path) -> Result<Engine, Failure> {
        phase("open");
        let bar = Bar::new();
        let tell = |progress: Progress| bar.tell(progress);
        let mut engine = Engine::open(
            path,
            OpenOptions {
                device: self.device,
                draw_on_host: self.draw_on_host,
                launch_each: self.launch_each,
                pick_on_host: self.pick_on_host,
                threads: self.threads,
                isa: self.isa.clone(),
                verify: if self.trust_weights { Verify::AllButWeights } else { Verify::Everything },
                check: self.check,
                prefault: self.prefault,
                progress: Some(&tell),
            },
        )?;
        engine.on_prefill(move |progress| bar.tell(progress));
        phase("execution");
        Ok(engine)
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
    current: Mutex<Option<Work>>,
}

/// Work under way, and its bar when it takes long enough for one.
struct Work {
    what: &'static str,
    began: Instant,
    bar: Option<ProgressBar>,
}

impl Bar {
    pub(crate) fn new() -> Bar {
        Bar { shown: std::io::stderr().is_terminal(), current: Mutex::new(None) }
    }

    /// Shows how far the work is.
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

/// A bar with what is done, how fast, and the time left.
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
