//! Errors of the program and their exit codes.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use jamba_plan::PlanError;
use jamba_plan::identify::{FileKind, identify};
use jamba_plan::printable::printable;
use jamba_program::say;
use jamba_runtime::{Pool, RuntimeError, TextLimit};

use crate::{echo, interrupt, style};

/// The current phase, for reports of internal errors.
static PHASE: Mutex<&str> = Mutex::new("start");

/// The reason why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error in the input, the plan or the machine: exit code 1.
    Input(String),
    /// An error in the command line: exit code 2.
    Usage(String),
    /// An internal error: exit code 3.
    Ours(String),
    /// Ctrl-C ended the work; the text says what became of the outputs: exit code 130.
    Interrupted(String),
    /// Another program has reported the error; the exit code is its.
    Reported(u8),
    /// The reader of standard output closed it: exit code 0.
    Closed,
}

/// Sets the current phase.
pub(crate) fn phase(name: &'static str) {
    if let Ok(mut phase) = PHASE.lock() {
        *phase = name;
    }
}

fn current_phase() -> &'static str {
    PHASE.lock().map_or("unknown", |phase| *phase)
}

fn ours(message: &str) -> String {
    format!(
        "jamba: internal error while in phase \"{}\": {message}\n\
         This is a bug in jamba {}. Please report it with this message and the command line.",
        current_phase(),
        env!("CARGO_PKG_VERSION"),
    )
}

/// True for threads of the server that handle requests: a panic there ends the request only.
fn is_contained() -> bool {
    #[cfg(feature = "serve")]
    return std::thread::current().name() == Some(jamba_serve::THREAD);
    #[cfg(not(feature = "serve"))]
    return false;
}

/// Reports panics of any thread as internal errors and exits with code 3, unless they become errors of a call.
pub(crate) fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        if jamba_runtime::is_contained() {
            return;
        }
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let message = text.unwrap_or("panic");
        let place = info.location().map(|place| format!(" ({place})")).unwrap_or_default();
        let report = ours(&format!("{message}{place}"));
        if is_contained() {
            say!("{}", printable(&report));
            return;
        }
        echo::restore();
        say!("{}", printable(&report));
        std::process::exit(3);
    }));
}

fn name() -> String {
    style::on_stderr(style::Kind::Fault, "jamba")
}

impl Failure {
    /// Prints the error and returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let (message, code) = match self {
            Failure::Closed => return ExitCode::SUCCESS,
            Failure::Reported(code) => return ExitCode::from(code),
            Failure::Input(message) => (format!("{}: {}", name(), printable(&message)), 1),
            Failure::Usage(message) => {
                let message = printable(&message);
                (format!("{}: {message}\nFor more information, try '--help'.", name()), 2)
            }
            Failure::Ours(message) => (printable(&ours(&message)).into_owned(), 3),
            Failure::Interrupted(message) => {
                (format!("{}: stopped by Ctrl-C{}", name(), printable(&message)), interrupt::INTERRUPTED)
            }
        };
        say!("{message}");
        ExitCode::from(code)
    }

    /// A failed file operation.
    pub(crate) fn file(path: &Path, action: &str, error: impl std::fmt::Display) -> Failure {
        Failure::Input(format!("{}: cannot {action}: {error}", path.display()))
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        match error {
            RuntimeError::Option { .. } => Failure::Usage(error.to_string()),
            RuntimeError::Cancelled => Failure::Interrupted(String::new()),
            _ if error.is_ours() => Failure::Ours(error.to_string()),
            _ => Failure::Input(match help(&error) {
                Some(help) => format!("{error}\n{help}"),
                None => error.to_string(),
            }),
        }
    }
}

/// The limits of the plan that is open, and the options that lowered them. Errors name what set a limit.
#[derive(Clone, Copy)]
pub(crate) struct Lowered {
    /// The value of `-c`.
    pub(crate) context: Option<u64>,
    /// The value of `--sequences`.
    pub(crate) sequences: Option<u64>,
    /// Limits of the plan: context, sequences.
    pub(crate) plan: (u64, u64),
}

static LOWERED: Mutex<Lowered> = Mutex::new(Lowered { context: None, sequences: None, plan: (0, 0) });

impl Lowered {
    /// Of the plan that was opened last.
    pub(crate) fn current() -> Lowered {
        *LOWERED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the limits for later errors.
    pub(crate) fn keep(self) {
        *LOWERED.lock().unwrap_or_else(PoisonError::into_inner) = self;
    }

    /// True if `-c` makes the context shorter than the plan's.
    pub(crate) fn lowers_context(self) -> bool {
        self.context.is_some_and(|given| given < self.plan.0)
    }

    /// What gives a longer context.
    pub(crate) fn help_for_context(self) -> String {
        match (self.context, self.plan.0) {
            (Some(given), most) if given < most => {
                format!("-c {given} set this limit; the plan has a context of {most} tokens: -c N up to {most}")
            }
            _ => "A longer context: jambac limits PLAN --context N -o OUT.plan".to_owned(),
        }
    }

    /// What gives a larger pool.
    fn help_for_pool(self, pool: Pool) -> String {
        match (self.sequences, self.context, self.plan) {
            (Some(given), _, (_, most)) if given < most => {
                format!("--sequences {given} set this limit; the plan has {most} sequences: --sequences N up to {most}")
            }
            (_, Some(given), (most, _)) if pool == Pool::Kv && given < most => {
                format!("-c {given} set this limit; the plan has a context of {most} tokens: -c N up to {most}")
            }
            _ => "Larger pools: jambac limits PLAN --sequences N --kv-tokens N -o OUT.plan".to_owned(),
        }
    }
}

/// What logits mean that are not finite.
pub(crate) const NOT_FINITE: &str = "The cause is the model, not jamba: the checkpoint gives the same in transformers. Try another prompt or another checkpoint.";

/// A hint how to resolve an error.
fn help(error: &RuntimeError) -> Option<String> {
    let help = match error {
        RuntimeError::NoCodeForCpu { .. } | RuntimeError::CpuLacks { .. } => {
            "Build it for this machine: jambac build MODEL -o OUT.plan --target native"
        }
        RuntimeError::NoSuchTarget { .. } => "`jamba info PLAN` lists the targets of a plan.",
        RuntimeError::ContextFull { .. } | RuntimeError::TextTooLong { limit: TextLimit::Tokens { .. }, .. } => {
            return Some(Lowered::current().help_for_context());
        }
        RuntimeError::PoolExhausted { pool, .. } => return Some(Lowered::current().help_for_pool(*pool)),
        RuntimeError::Limit { .. } => "Higher limits: jambac limits PLAN --context N --sequences N -o OUT.plan",
        RuntimeError::NoDriver { .. } => "The CPU needs no driver: --device cpu. `jamba doctor` lists what is missing.",
        RuntimeError::NoCodeForDevice { .. } => "Other devices: --device cpu or --device cuda:N",
        RuntimeError::Memory { .. } => {
            "`jamba doctor PLAN` compares a plan with this machine's memory; --context and --sequences lower what it takes."
        }
        RuntimeError::Thread { .. } => "Fewer threads: --threads N",
        RuntimeError::NotFinite { .. } => NOT_FINITE,
        RuntimeError::NoSection(_) => "Tokens need no tokenizer: jamba run PLAN --tokens 1,2,3",
        RuntimeError::StateFile { path, field: "magic", .. } => return other_file(path),
        RuntimeError::StateFile { field: "plan", .. } => "A state continues with the plan that saved it.",
        RuntimeError::Plan { source, .. } => match source {
            PlanError::NotAPlan { .. } => "To build a plan: jambac build MODEL -o OUT.plan",
            PlanError::Truncated { .. } | PlanError::Digest { .. } | PlanError::Padding { .. } => {
                "Copy the file again, or build it again: jambac build MODEL -o OUT.plan"
            }
            PlanError::NewerFormat { .. } => "Use the version of jamba that matches the jambac that built the plan.",
            _ => return None,
        },
        _ => return None,
    };
    Some(help.to_owned())
}

/// What a file is that should be a state.
fn other_file(path: &Path) -> Option<String> {
    let kind = identify(path).ok()?;
    let help = match kind {
        FileKind::Plan => ": it comes first: jamba run PLAN --load-state STATE",
        _ => "; a state is written by: jamba run PLAN --save-state FILE",
    };
    Some(format!("It is {}{help}", kind.describe()))
}

/// Writes a report to standard output and flushes it. Names from files may hold control characters: they are shown as escapes.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_raw(&printable(text))
}

/// Writes text of a model to standard output as it is, and flushes it.
pub(crate) fn print_raw(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Closed),
        Err(error) => Err(Failure::Input(format!("cannot write to standard output: {error}"))),
    }
}

/// Writes a JSON document in one line to standard output and flushes it.
pub(crate) fn print_line(value: &impl serde::Serialize) -> Result<(), Failure> {
    match serde_json::to_string(value) {
        Ok(text) => print(&(text + "\n")),
        Err(error) => Err(Failure::Ours(error.to_string())),
    }
}

/// Writes one JSON document to standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&(text + "\n")),
        Err(error) => Err(Failure::Ours(error.to_string())),
    }
}
