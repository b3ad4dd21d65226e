//! `jambac opt`: passes over a graph in its text form.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use jambac_graph::text;
use jambac_passes::{Fusion, PIPELINE, PassManager};

use crate::report::{Ours, print};

/// What to run and print.
pub struct What {
    /// Names of fusions; none means all.
    pub passes: Vec<String>,
    /// Print the difference instead of the result.
    pub diff: bool,
    /// Stop after so many rewrites.
    pub bisect: Option<u64>,
    /// Print the graph after every pass that changed it, on stderr.
    pub print_after_all: bool,
}

/// Prints every pass with its ordering constraints.
pub fn list() -> Result<()> {
    PIPELINE.iter().try_for_each(|planned| print(&format!("{planned}\n")))
}

/// Runs passes over the graph in a file and prints the result.
pub fn run(path: &Path, what: &What) -> Result<()> {
    let source = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let before = text::read(&source).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    let fusion = match what.passes.as_slice() {
        [] => Fusion::All,
        names => names.join(",").parse().context("--pass")?,
    };
    let mut manager = PassManager::new(&fusion);
    if let Some(rewrites) = what.bisect {
        manager = manager.stop_after(rewrites);
    }
    if what.print_after_all {
        manager = manager.dump(|pass, graph| eprintln!("// after {pass}\n{}", text::print(graph)));
    }
    let mut after = before.clone();
    let report = manager.run(&mut after).ours("passes")?;
    for pass in &report.passes {
        eprintln!("{:<22} {:>5} rewrites {:>8.3} ms", pass.name, pass.rewrites, pass.time.as_secs_f64() * 1e3);
    }
    if what.bisect.is_some() {
        eprintln!("last rewrite: {}", report.last_rewrite.as_deref().unwrap_or("none"));
    }
    print(&if what.diff { text::diff(&before, &after) } else { text::print(&after) })
}
