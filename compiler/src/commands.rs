//! The subcommands, and the definition of the command line.

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    build, compare, doctor, fit, graph, inspect, limits, manual, opt, predict, reduce, usage, verify, version,
};

/// Compiles AI21's Jamba models ahead of time into one plan file that `jamba` runs.
#[derive(Parser)]
#[command(
    name = "jambac",
    version = version::SHORT,
    long_version = version::long(),
    after_help = "Exit codes: 0 success; 1 error in the input; 2 usage error; 3 internal error;\n\
                  130 ended by Ctrl-C; 143 by SIGTERM. No unfinished output is left behind then.\n\
                  JAMBAC_LOG=info logs phases on stderr; its syntax is that of RUST_LOG."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compile a model file or a checkpoint's folder into a plan.
    Build(build::Build),
    /// Print the contents of a plan.
    Inspect(inspect::Inspect),
    /// Check that a plan is undamaged and, with --code, that its code is what this jambac compiles.
    Verify(verify::VerifyPlan),
    /// Print which contexts and numbers of sequences fit a memory size. Needs config.json only.
    Fit(fit::Fit),
    /// Predict how long a plan's steps take on a GPU, by kernel, and compare with what was measured.
    Predict(predict::Predict),
    /// Change the limits of a plan: context and sequences. Weights are copied, not packed again.
    Limits(limits::ChangeLimits),
    /// Print the layer graph of a model.
    Graph(graph::PrintGraph),
    /// Run passes over a graph in its text form.
    Opt(opt::Opt),
    /// Find the first step whose output differs between two plans of a model, on the CPU.
    Compare(compare::Compare),
    /// Find the smallest graph on which a command still fails.
    Reduce(reduce::Reduce),
    /// Check what building and running plans needs on this machine, and print how to install what is missing.
    Doctor(doctor::Doctor),
    /// Print the completion script of a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page of jambac or of a subcommand.
    Man(manual::ManArgs),
}

/// Parses the arguments of the program. Usage errors end it with exit code 2.
pub fn parse() -> Cli {
    usage::parse()
}

/// A function that says whether arguments, without the program's name, are a command line. It runs nothing.
pub fn acceptor() -> impl FnMut(&[OsString]) -> bool {
    usage::acceptor::<Cli>()
}

/// Runs a subcommand.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Build(options) => build::run(options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Verify(options) => verify::run(&options),
        Command::Fit(options) => fit::run(options),
        Command::Predict(options) => predict::run(&options),
        Command::Limits(options) => limits::run(&options),
        Command::Graph(options) => graph::run(options),
        Command::Opt(options) => opt::run(&options),
        Command::Compare(options) => compare::run(&options),
        Command::Reduce(options) => reduce::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Completions { shell } => manual::completions(Cli::command(), shell),
        Command::Man(options) => manual::run(Cli::command(), &options),
    }
}
