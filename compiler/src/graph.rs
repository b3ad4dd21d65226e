//! `jambac graph`: the layer graph of a model as text, as a drawing or for Graphviz. Needs config.json only.

use anyhow::Result;
use clap::Args;
use jamba_plan::format::TargetKind;
use jambac_kernels::target::Target;

use crate::compile::{fusion, optimize, stored_graphs};
use crate::manifest::by_preference;
use crate::model::ModelArgs;
use crate::report::print;

/// The options of `jambac graph`.
#[derive(Args)]
pub struct PrintGraph {
    #[command(flatten)]
    model: ModelArgs,
    /// Print Graphviz instead of the text form.
    #[arg(long, conflicts_with = "svg")]
    dot: bool,
    /// Print an SVG drawing instead of the text form.
    #[arg(long)]
    svg: bool,
    /// Print the graph before any pass.
    #[arg(long)]
    unfused: bool,
}

/// Prints the prefill graph.
pub fn run(options: PrintGraph) -> Result<()> {
    let model = options.model.open()?;
    let config = model.read_config()?;
    let kind = by_preference(&model.build.targets).first().map_or(TargetKind::Cpu, Target::kind);
    let mut entries = stored_graphs(&model, &config, kind)?;
    if !options.unfused {
        optimize(&mut entries, &fusion(&model, kind))?;
    }
    let graph = &entries.prefill;
    print(&match options {
        PrintGraph { dot: true, .. } => jambac_graph::dot::dot(graph),
        PrintGraph { svg: true, .. } => jambac_graph::svg::svg(graph),
        _ => jambac_graph::text::print(graph),
    })
}
