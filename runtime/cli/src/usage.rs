//! Parses the command line. Words of other programs get one sentence that names ours.

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory, FromArgMatches};
use jamba_plan::identify::{help_for_an_address, hub_id};
use jamba_program::usage::{self, Hint, Hints};

use crate::failure::Failure;

/// Words of llama.cpp, Ollama and vLLM that have no counterpart of the same meaning here, and what to use.
const HINTS: Hints = Hints { options: OPTIONS, commands: COMMANDS, no_command, unexpected };

const OPTIONS: &[Hint] = &[
    (
        &["-ngl", "--n-gpu-layers", "--gpu-layers", "--num-gpu"],
        "--device cuda:0 runs the whole model on the first GPU; without it, the CPU does",
    ),
    (
        &["-cnv", "--conversation", "-i", "--interactive", "--interactive-first"],
        "`jamba chat PLAN` is the conversation",
    ),
    (&["-sys", "--system-prompt"], "--system TEXT sets the system message"),
    (&["-b", "-ub", "--batch-size", "--ubatch-size"], "--chunk N sets the tokens of a prefill step"),
    (&["-np", "--parallel", "--max-num-seqs"], "--sequences N sets the number of sequences"),
    (&["--mlock", "--no-mmap"], "--prefault makes all memory resident"),
    (
        &["--gpu-memory-utilization", "--tensor-parallel-size", "-tp"],
        "a plan has fixed memory on one device: `jambac fit`",
    ),
    (&["-hf", "--hf-repo", "--hf"], "name the model as the first argument: jamba run ORG/NAME"),
    (
        &["--outtype", "--quantize", "--quantization", "--dtype"],
        "the format of weights is chosen when the plan is built: jambac build MODEL -o OUT.plan --weights int8",
    ),
];

const COMMANDS: &[Hint] = &[
    (&["serve"], "this jamba was built without its feature serve; `jamba run` answers one prompt"),
    (&["server", "api"], "`jamba serve PLAN` answers over HTTP, with OpenAI's API"),
    (&["pull", "download"], "hf download ORG/NAME gets a model, and `jamba run ORG/NAME` runs it"),
    (
        &["list", "ls"],
        "models are folders, and those of the Hugging Face cache are listed by hf cache ls; plans are files",
    ),
    (&["show", "inspect"], "`jamba info PLAN` shows a plan, `jambac inspect PLAN` all of it"),
    (&["ps", "stop", "load", "unload"], "no process stays when a command ends: ps -C jamba lists those that run"),
    (&["rm", "remove", "delete"], "plans are files: rm PLAN; those that jambac cached are in ~/.cache/jambac"),
    (&["cp", "copy"], "plans are files: cp PLAN COPY"),
    (&["create", "build", "convert", "quantize"], "the compiler builds plans: jambac build MODEL -o OUT.plan"),
    (&["push"], "jamba uploads nothing: hf upload ORG/NAME FILE"),
    (&["generate", "complete", "prompt", "cli"], "`jamba run PLAN TEXT` continues a text"),
    (&["ppl"], "`jamba perplexity PLAN FILE` measures it"),
];

/// A command line that begins with an option or with a plan.
fn no_command(first: &str) -> Option<String> {
    if first.starts_with('-') {
        return Some(format!("{first}: the command comes first: jamba run -m PLAN -p TEXT"));
    }
    let is_model = first.ends_with(".plan") || hub_id(first).is_some() || help_for_an_address(first).is_some();
    (is_model || Path::new(first).exists()).then(|| format!("{first}: the command comes first: jamba run {first} TEXT"))
}

fn unexpected(command: &str, word: &str) -> Option<String> {
    match command {
        "bench" if ["-m", "--model"].contains(&word) => {
            Some(format!("{word}: bench takes its plans as arguments: jamba bench PLAN …"))
        }
        "chat" if !word.starts_with('-') || ["-p", "--prompt", "-f", "--prompt-file"].contains(&word) => Some(format!(
            "{word}: chat takes no prompt: type it when the chat has begun, or pipe it: echo TEXT | jamba chat PLAN; for one \
             answer: jamba run PLAN --chat TEXT"
        )),
        _ => None,
    }
}

/// Parses the arguments. Help and version are printed; the exit code of a usage error is 2.
pub(crate) fn parse<T: CommandFactory + FromArgMatches>() -> Result<T, Failure> {
    usage::parse(&HINTS).map_err(Failure::Usage)
}

/// As [`usage::acceptor`], with the hints of this program.
pub(crate) fn acceptor<T: CommandFactory + FromArgMatches>() -> impl FnMut(&[OsString]) -> bool {
    usage::acceptor::<T>(&HINTS)
}
