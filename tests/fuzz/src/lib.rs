//! Fuzz targets for everything that reads what strangers wrote. A target is a plain function of bytes, which panics, or never ends, or
//! fills the memory where there is a fault.
//!
//! - `cargo test` runs every target on its seeds, on `regressions/TARGET/`, and on some thousand mutations of them ([`mutate`]).
//! - `tests/fuzz/run MINUTES` runs them longer: with libFuzzer (`libfuzzer/`, a crate outside of the workspace), or without it.
//!
//! An input that was a fault becomes a file in `regressions/TARGET/` in the change that mends it.

pub mod checkpoints;
#[cfg(feature = "programs")]
pub mod commands;
pub mod gpu;
pub mod graphs;
pub mod library;
pub mod mutate;
pub mod plans;
pub mod quantized;
pub mod soak;
pub mod texts;

use std::alloc::System;
use std::path::PathBuf;

use cap::Cap;

/// Most bytes that are allocated at a time, in every program with these targets. An input that takes more ends the process, which is a finding.
const MOST_BYTES: usize = 1 << 30;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, MOST_BYTES);

/// A parser, or something else that strangers give inputs to.
pub struct Target {
    pub name: &'static str,
    /// Takes any bytes.
    pub check: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "config", check: checkpoints::config, seeds: checkpoints::configs },
    Target { name: "safetensors", check: checkpoints::safetensors, seeds: checkpoints::safetensors_files },
    Target { name: "index", check: checkpoints::index, seeds: checkpoints::indexes },
    Target { name: "small_texts", check: checkpoints::small_texts, seeds: checkpoints::some_small_texts },
    Target { name: "gguf", check: checkpoints::gguf, seeds: checkpoints::gguf_files },
    Target { name: "quantized", check: quantized::quantized, seeds: quantized::seeds },
    #[cfg(feature = "programs")]
    Target { name: "model_toml", check: commands::model_toml, seeds: commands::model_tomls },
    #[cfg(feature = "programs")]
    Target { name: "arguments", check: commands::arguments, seeds: commands::command_lines },
    Target { name: "graph_text", check: graphs::graph_text, seeds: graphs::graphs },
    Target { name: "graph_passes", check: graphs::graph_passes, seeds: graphs::graphs },
    Target { name: "plan_frame", check: plans::frame, seeds: plans::no_edits },
    Target { name: "plan_sections", check: plans::sections, seeds: plans::no_edits },
    Target { name: "plan_records", check: plans::records, seeds: plans::no_edits },
    Target { name: "plan_run", check: plans::run, seeds: plans::no_edits },
    Target { name: "gpu", check: gpu::gpu, seeds: gpu::acts },
    Target { name: "state", check: plans::state, seeds: plans::no_edits },
    Target { name: "ptx", check: texts::ptx, seeds: texts::ptx_texts },
    Target { name: "template", check: texts::template, seeds: texts::templates },
    Target { name: "tokenizer", check: texts::tokenizer, seeds: texts::tokenizers },
    Target { name: "constraint", check: texts::constraint, seeds: texts::constraints },
    Target { name: "stream", check: texts::stream, seeds: texts::token_lists },
    Target { name: "sampler", check: texts::sampler, seeds: texts::token_lists },
    Target { name: "library", check: library::library, seeds: library::calls },
];

/// Writes seeds to `seeds/TARGET` in the current folder.
///
/// # Panics
/// If they cannot be written.
pub fn keep(target: &str, seeds: &[Vec<u8>]) {
    let folder = PathBuf::from("seeds").join(target);
    std::fs::create_dir_all(&folder).expect("the folder is writable");
    for (number, seed) in seeds.iter().enumerate() {
        std::fs::write(folder.join(number.to_string()), seed).expect("the folder is writable");
    }
}

/// The target of this name.
///
/// # Panics
/// If there is none.
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("there is no target {name}"))
}

/// The files of inputs that were faults.
pub fn regressions(target: &str) -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target);
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder is readable").path()).collect();
    files.sort();
    files
}

/// A file of the repository, by its path from the root.
fn file(path: &str) -> Vec<u8> {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    std::fs::read(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
