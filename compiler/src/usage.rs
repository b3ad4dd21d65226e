//! Parses the command line. Words of other programs get one sentence that names ours.

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory, FromArgMatches};
use jamba_plan::identify::hub_id;
use jamba_plan::printable::printable;
use jamba_program::say;
use jamba_program::usage::{self, Hint, Hints};

/// Exit code of usage errors.
const USAGE: i32 = 2;

/// Words of llama.cpp's and other converters, and of runtimes.
const HINTS: Hints = Hints { options: OPTIONS, commands: COMMANDS, no_command, unexpected: |_, _| None };

const OPTIONS: &[Hint] = &[
    (
        &["--outtype", "--quantize", "--quantization", "--dtype", "--qtype"],
        "--weights FORMAT sets the format of linear layers, --experts FORMAT that of experts: f32, bf16, fp8, int8, int4 or int3",
    ),
    (&["--outfile"], "-o OUT.plan names the plan"),
    (&["--ctx-size", "--max-model-len", "--max-seq-len"], "--max-context N sets the tokens of a sequence"),
    (&["--max-num-seqs", "--parallel"], "--max-sequences N sets the number of sequences"),
];

const COMMANDS: &[Hint] = &[
    (&["convert", "quantize", "compile", "create"], "jambac build MODEL -o OUT.plan --weights int8"),
    (
        &["run", "chat", "bench", "generate"],
        "the runtime runs plans: jamba run PLAN, jamba chat PLAN, jamba bench PLAN",
    ),
    (&["serve", "server"], "the runtime serves plans: jamba serve PLAN"),
    (&["pull", "download"], "hf download ORG/NAME gets a model, and jambac build ORG/NAME -o OUT.plan compiles it"),
    (&["show", "info", "dump"], "jambac inspect PLAN shows a plan"),
];

/// A command line that begins with an option or with a model.
fn no_command(first: &str) -> Option<String> {
    if first.starts_with('-') {
        return Some(format!("{first}: the command comes first: jambac build MODEL -o OUT.plan"));
    }
    let is_model = hub_id(first).is_some() || Path::new(first).exists();
    is_model.then(|| format!("{first}: the command comes first: jambac build {first} -o OUT.plan"))
}

/// Parses the arguments. Prints help, version and usage errors, and exits.
pub fn parse<T: CommandFactory + FromArgMatches>() -> T {
    usage::parse(&HINTS).unwrap_or_else(|message| {
        say!("{}", printable(&format!("error: {message}\n\nFor more information, try '--help'.")));
        std::process::exit(USAGE)
    })
}

/// As [`usage::acceptor`], with the hints of this program.
pub fn acceptor<T: CommandFactory + FromArgMatches>() -> impl FnMut(&[OsString]) -> bool {
    usage::acceptor::<T>(&HINTS)
}
