//! `jambac graph`: the layer graph of a model, as text, as a drawing, or for Graphviz. Weights are not needed.

use anyhow::Result;
use jamba_plan::format::TargetKind;
use jambac_checkpoint::JambaConfig;
use jambac_graph::DType;
use jambac_kernels::target::Target;

use crate::build::{fusion, graphs, optimize, targets};
use crate::manifest::ModelFile;
use crate::report::print;

/// How the graph is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The text form, which can be read back.
    Text,
    /// Graphviz.
    Dot,
    /// A drawing.
    Svg,
}

/// Which graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// As Hugging Face computes it, op by op.
    Unfused,
    /// After the passes.
    Optimized,
}

/// Prints the prefill graph. Parameters are shown as bf16, as config.json does not say.
pub fn run(model: &ModelFile, form: Form, stage: Stage) -> Result<()> {
    let config = JambaConfig::read(&model.checkpoint.join("config.json"))?;
    let kind = targets(&model.build.targets)?.first().map_or(TargetKind::Cpu, Target::kind);
    let mut entries = graphs(model, &config, &|_| DType::Bf16, kind)?;
    if stage == Stage::Optimized {
        optimize(&mut entries, &fusion(model, kind)?)?;
    }
    let graph = &entries.prefill;
    print(&match form {
        Form::Text => jambac_graph::text::print(graph),
        Form::Dot => jambac_graph::dot::dot(graph),
        Form::Svg => jambac_graph::svg::svg(graph),
    })
}
