//! `jamba`: runs plans. Exit codes: 0; 1 the input or the plan is at fault; 2 usage; 3 our fault.

mod bench;
mod chat;
mod failure;
mod generate;
mod info;
mod interrupt;
mod logits;
mod manual;
mod open;
mod printer;
mod prompt;
mod run;
mod style;
mod timing;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Runs Jamba plans: one file that holds a whole model, compiled by `jambac`.
#[derive(Parser)]
#[command(
    name = "jamba",
    version,
    after_help = "Exit codes: 0 done; 1 the input or the plan is at fault; 2 usage; 3 our fault."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate text from a prompt.
    Run(run::Args),
    /// Talk to a model that has a chat template.
    Chat(chat::Args),
    /// Measure prefill and decode, several plans in turn.
    Bench(bench::Args),
    /// Write the logits of every position as safetensors.
    Logits(logits::Args),
    /// Say what a plan is and what memory it takes.
    Info(info::Args),
    /// Check every byte of a plan.
    Verify(verify::Args),
    /// Print the script that completes jamba's command lines in a shell.
    Completions(manual::CompletionsArgs),
    /// Print jamba's manual page, or a subcommand's.
    Man(manual::ManArgs),
}

fn main() -> ExitCode {
    timing::begin();
    failure::report_panics();
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Chat(args) => chat::chat(args),
        Command::Bench(args) => bench::bench(args),
        Command::Logits(args) => logits::logits(args),
        Command::Info(args) => info::info(args),
        Command::Verify(args) => verify::verify(args),
        Command::Completions(args) => manual::completions(Cli::command(), args),
        Command::Man(args) => manual::man(Cli::command(), args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
