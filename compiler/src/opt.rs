//! `jambac opt`: passes over a graph in its text form.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use jambac_graph::text;
use jambac_passes::{Fusion, PIPELINE, PassManager};

use crate::report::{Ours, beginning, print, tell};

/// The options of `jambac opt`.
#[derive(Args)]
pub struct Opt {
    /// A graph in its text form.
    #[arg(required_unless_present = "list")]
    graph: Option<PathBuf>,
    /// A pass to run; may be repeated. They run in the pipeline's order. Default: all.
    #[arg(long = "pass", value_name = "NAME")]
    passes: Vec<String>,
    /// Print the difference instead of the result.
    #[arg(long)]
    diff: bool,
    /// Stop after this many rewrites and print the last one.
    #[arg(long, value_name = "N")]
    bisect: Option<u64>,
    /// Print the graph after every pass, on stderr.
    #[arg(long)]
    print_after_all: bool,
    /// List the passes with their ordering constraints.
    #[arg(long)]
    list: bool,
}

/// Runs the subcommand.
pub fn run(options: &Opt) -> Result<()> {
    match &options.graph {
        Some(graph) if !options.list => optimize(graph, options),
        _ => list(),
    }
}

/// Prints every pass with its ordering constraints.
fn list() -> Result<()> {
    PIPELINE.iter().try_for_each(|planned| print(&format!("{planned}\n")))
}

/// Runs passes over the graph in a file and prints the result.
fn optimize(path: &Path, options: &Opt) -> Result<()> {
    let source = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let before =
        text::read(&source).map_err(|error| anyhow!("{}: {}", path.display(), beginning(&error.to_string())))?;
    let fusion = match options.passes.as_slice() {
        [] => Fusion::All,
        names => names.join(",").parse().context("--pass")?,
    };
    let mut manager = PassManager::new(&fusion);
    if let Some(rewrites) = options.bisect {
        manager = manager.stop_after(rewrites);
    }
    if options.print_after_all {
        manager = manager.dump(|pass, graph| tell(&format!("// after {pass}\n{}", text::print(graph))));
    }
    let mut after = before.clone();
    let report = manager.run(&mut after).ours("passes")?;
    for pass in &report.passes {
        tell(&format!("{:<22} {:>5} rewrites {:>8.3} ms", pass.name, pass.rewrites, pass.time.as_secs_f64() * 1e3));
    }
    if options.bisect.is_some() {
        tell(&format!("last rewrite: {}", report.last_rewrite.as_deref().unwrap_or("none")));
    }
    print(&if options.diff { text::diff(&before, &after) } else { text::print(&after) })
}
