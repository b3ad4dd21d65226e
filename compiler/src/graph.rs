//! `jambac graph`: the layer graph of a model, as text or for Graphviz. Weights are not needed.

use anyhow::Result;
use jambac_checkpoint::JambaConfig;
use jambac_graph::DType;

use crate::build::{fusion, graphs, optimize};
use crate::manifest::ModelFile;
use crate::report::print;

/// Prints the prefill graph, after the passes unless `unfused`. Parameters are shown as bf16, as config.json does not say.
pub fn run(model: &ModelFile, dot: bool, unfused: bool) -> Result<()> {
    let config = JambaConfig::read(&model.checkpoint.join("config.json"))?;
    let mut entries = graphs(model, &config, &|_| DType::Bf16)?;
    if !unfused {
        optimize(&mut entries, &fusion(model)?)?;
    }
    let graph = &entries.prefill;
    print(&if dot { jambac_graph::dot::dot(graph) } else { jambac_graph::text::print(graph) })
}
