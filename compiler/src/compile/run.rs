//! One run of the phases: progress, time and memory of each, and their text forms.

use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jamba_plan::output::Output;
use jambac_checkpoint::Remark;

use super::{Phase, Request};
use crate::outputs::PHASE;
use crate::report::tell;

/// How far the build is, on stderr where it is a terminal, and remarks.
pub struct Progress {
    bar: ProgressBar,
    /// Prints no remarks.
    silent: bool,
}

/// Time between two pictures of the progress.
const TICK: Duration = Duration::from_millis(100);

impl Progress {
    /// On stderr where it is a terminal.
    pub fn on_terminal() -> Progress {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        // Phases report nothing while they run.
        bar.enable_steady_tick(TICK);
        Progress { bar, silent: false }
    }

    /// Silent.
    pub fn hidden() -> Progress {
        Progress { bar: ProgressBar::hidden(), silent: true }
    }

    /// Prints a remark on stderr, above the progress, unless silent.
    pub fn remark(&self, remark: &Remark) {
        if !self.silent {
            self.bar.suspend(|| tell(&format!("jambac: {remark}")));
        }
    }

    fn phase(&self, message: &str) {
        self.bar.set_message(message.to_owned());
        self.bar.tick();
    }

    pub(super) fn weights(&self, done: u64, total: u64) {
        if self.bar.length() != Some(total) {
            let style = ProgressStyle::with_template("packing weights {bar:40} {bytes}/{total_bytes} {eta}");
            self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Time and memory of one piece of work: a phase, or a phase for one target.
#[derive(Clone, Debug)]
pub struct Spent {
    /// `passes`, `code for x86-64-v3`.
    pub work: String,
    pub time: Duration,
    /// Peak resident memory of the process in bytes: while this work ran, or since the process started where Linux does not
    /// let a process reset its peak. `None` without /proc.
    pub peak_bytes: Option<u64>,
}

/// Runs the work of phases and keeps what the request wants to know of them.
pub(super) struct Run<'a> {
    request: &'a Request,
    pub(super) progress: &'a Progress,
    pub(super) spent: Vec<Spent>,
    /// The text of the phase that the request stops at.
    emitted: String,
}

impl<'a> Run<'a> {
    pub(super) fn new(request: &'a Request, progress: &'a Progress) -> Result<Run<'a>> {
        if let Some(folder) = &request.dump_dir {
            fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        Ok(Run { request, progress, spent: Vec::new(), emitted: String::new() })
    }

    /// Does a piece of work within a span, and notes its time and memory.
    pub(super) fn work<T>(&mut self, work: impl Into<String>, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let work = work.into();
        self.progress.phase(&work);
        let span = tracing::info_span!("phase", %work);
        let _entered = span.enter();
        reset_peak();
        let began = Instant::now();
        let result = run();
        let (time, peak_bytes) = (began.elapsed(), peak_bytes());
        tracing::info!(
            ms = time.as_millis() as u64,
            peak_mb = peak_bytes.map(|bytes| bytes >> 20),
            ok = result.is_ok()
        );
        self.spent.push(Spent { work, time, peak_bytes });
        result
    }

    /// Does pieces of work that do not depend on each other on all cores, and notes the time of each. The peak memory is that of all.
    pub(super) fn side_by_side<T: Send>(&mut self, works: Vec<(String, impl FnOnce() -> T + Send)>) -> Vec<T> {
        if let Some((first, _)) = works.first() {
            self.progress.phase(first);
        }
        reset_peak();
        let n_threads = std::thread::available_parallelism().map_or(1, |cores| cores.get()).min(works.len());
        let waiting = Mutex::new(works.into_iter().enumerate());
        let results = Mutex::new(Vec::new());
        let take_all = || {
            let next = || waiting.lock().map_or(None, |mut waiting| waiting.next());
            while let Some((index, (work, run))) = next() {
                let span = tracing::info_span!("phase", %work);
                let _entered = span.enter();
                let began = Instant::now();
                let result = run();
                let time = began.elapsed();
                tracing::info!(ms = time.as_millis() as u64);
                if let Ok(mut results) = results.lock() {
                    results.push((index, work, time, result));
                }
            }
        };
        std::thread::scope(|scope| {
            (1..n_threads).for_each(|_| drop(scope.spawn(take_all)));
            take_all();
        });
        let mut results = results.into_inner().unwrap_or_default();
        results.sort_by_key(|(index, ..)| *index);
        let peak_bytes = peak_bytes();
        let note = |(_, work, time, result)| {
            self.spent.push(Spent { work, time, peak_bytes });
            result
        };
        results.into_iter().map(note).collect()
    }

    /// Whether anyone reads the text of a phase.
    pub(super) fn wants_text(&self, phase: Phase) -> bool {
        self.request.dump_dir.is_some() || self.stops_at(phase)
    }

    /// Writes the text of a phase into the dump folder, and keeps it where the request stops at this phase.
    pub(super) fn text(&mut self, phase: Phase, file: &str, text: impl FnOnce() -> String) -> Result<()> {
        if !self.wants_text(phase) {
            return Ok(());
        }
        let text = text();
        if let Some(folder) = &self.request.dump_dir {
            Output::at(&folder.join(file), PHASE, self.request.replace)?.write(text.as_bytes())?;
        }
        if self.stops_at(phase) {
            self.emitted += &text;
        }
        Ok(())
    }

    /// Whether the request stops after a phase.
    pub(super) fn stops_at(&self, phase: Phase) -> bool {
        self.request.emit == Some(phase)
    }

    /// Whether the request stops at one of the phases that code generation goes through.
    pub(super) fn stops_in_codegen(&self) -> bool {
        self.request.emit.is_some_and(|phase| (Phase::Mlir..=Phase::Assembly).contains(&phase))
    }

    pub(super) fn emitted(self) -> String {
        self.emitted
    }
}

/// Makes Linux forget the peak memory so far. Without the right to do so the peak stays that of the whole process.
fn reset_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// `VmHWM` of /proc/self/status, in bytes.
fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}
