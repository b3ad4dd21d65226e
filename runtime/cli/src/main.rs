//! `jamba`, the program: see the library of this crate.

use std::process::ExitCode;

use jamba_runtime::faults::ReportingAllocator;

/// Too little memory is an error of the machine.
#[global_allocator]
static ALLOCATOR: ReportingAllocator = ReportingAllocator::new("jamba");

fn main() -> ExitCode {
    jamba_cli::main()
}
