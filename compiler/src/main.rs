//! `jambac`, the compiler's command line. Its subcommands are in `commands.rs`.

mod random;

use std::process::ExitCode;

use jamba_program::say::Log;
use jamba_runtime::faults::{ReportingAllocator, report_bus_errors};
use jambac::{commands, interrupt};
use tracing_subscriber::EnvFilter;

/// Logs to stderr with the filter in `JAMBAC_LOG`; without it, does not log.
fn log() {
    if let Ok(filter) = EnvFilter::try_from_env("JAMBAC_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(|| Log).init();
    }
}

/// Too little memory is an error of the machine.
#[global_allocator]
static ALLOCATOR: ReportingAllocator = ReportingAllocator::new("jambac");

fn main() -> ExitCode {
    report_bus_errors("jambac");
    let cli = commands::parse();
    log();
    interrupt::begin();
    jambac::report::guard(|| commands::run(cli))
}
