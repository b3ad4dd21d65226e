//! `jamba` runs plans. Exit codes: 0 success, 1 error in the input or the plan, 2 usage error, 3 internal error, 128 + N ended by
//! signal N.

mod bench;
mod chat;
mod checkpoint;
mod doctor;
mod echo;
mod failure;
mod generate;
mod heads;
mod health;
mod info;
mod interrupt;
mod log;
mod logits;
mod manual;
#[cfg(feature = "serve")]
mod notify;
mod open;
mod outputs;
mod perplexity;
mod printer;
mod prompt;
mod run;
#[cfg(feature = "serve")]
mod serve;
mod style;
mod timing;
mod tokenize;
mod trace;
mod usage;
mod verify;
mod version;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use jamba_runtime::faults::{before_exit, report_bus_errors};

/// Runs plans: compiled Jamba models in one file, built by `jambac`.
#[derive(Parser)]
#[command(
    name = "jamba",
    version = version::SHORT,
    long_version = version::long(),
    after_help = "A plan is a program. Run only plans that you built, or whose digest you have from somebody you trust\n\
                  (--require-digest).\n\n\
                  Exit codes: 0 success; 1 error in the input or the plan; 2 usage error; 3 internal error;\n\
                  130 ended by Ctrl-C; 143 by SIGTERM. No file that the command was writing is changed then.\n\
                  JAMBA_LOG=debug logs the phases of opening a plan to stderr, JAMBA_LOG=trace also every step."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate text from a prompt.
    Run(run::Args),
    /// Serve a plan over HTTP, with OpenAI's API.
    #[cfg(feature = "serve")]
    Serve(serve::Args),
    /// Ask a server whether it takes requests.
    Health(health::Args),
    /// Chat with a model that has a chat template.
    Chat(chat::Args),
    /// Classify a text with a plan of a classification model.
    Classify(heads::ClassifyArgs),
    /// Print the embedding of a text with a plan that gives hidden states.
    Embed(heads::EmbedArgs),
    /// Measure prefill and decode of one or more plans.
    Bench(bench::Args),
    /// Convert text to tokens and tokens to text.
    Tokenize(tokenize::Args),
    /// Measure how well a model predicts a text.
    Perplexity(perplexity::Args),
    /// Write the logits of every position as safetensors.
    Logits(logits::Args),
    /// Show the model, targets and memory of a plan.
    Info(info::Args),
    /// Verify every byte of a plan against its digests.
    Verify(verify::Args),
    /// Check what running plans needs on this machine, and print how to install what is missing.
    Doctor(doctor::Args),
    /// Print a shell completion script.
    Completions(manual::CompletionsArgs),
    /// Print the manual page of jamba or of a subcommand.
    Man(manual::ManArgs),
}

/// A function that says whether arguments, without the program's name, are a command line. It runs nothing.
#[doc(hidden)]
pub fn acceptor() -> impl FnMut(&[OsString]) -> bool {
    usage::acceptor::<Cli>()
}

/// The program.
pub fn main() -> ExitCode {
    timing::begin();
    report_bus_errors("jamba");
    before_exit(echo::restore);
    failure::report_panics();
    interrupt::begin();
    let command = match usage::parse::<Cli>() {
        Ok(cli) => cli.command,
        Err(failure) => return failure.report(),
    };
    let logged = match &command {
        #[cfg(feature = "serve")]
        Command::Serve(_) => Some(serve::LOGGED),
        _ => None,
    };
    if let Err(failure) = log::begin(logged) {
        return failure.report();
    }
    let result = match command {
        Command::Run(args) => run::run(args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::serve(args),
        Command::Health(args) => health::health(args),
        Command::Chat(args) => chat::chat(args),
        Command::Classify(args) => heads::classify(args),
        Command::Embed(args) => heads::embed(args),
        Command::Bench(args) => bench::bench(args),
        Command::Tokenize(args) => tokenize::tokenize(args),
        Command::Perplexity(args) => perplexity::perplexity(args),
        Command::Logits(args) => logits::logits(args),
        Command::Info(args) => info::info(args),
        Command::Verify(args) => verify::verify(args),
        Command::Doctor(args) => doctor::doctor(args),
        Command::Completions(args) => manual::completions(Cli::command(), args),
        Command::Man(args) => manual::man(Cli::command(), args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
