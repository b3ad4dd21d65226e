//! `jambac reduce`: the smallest graph on which a command still fails, by delta debugging (Zeller & Hildebrandt, "Simplifying and
//! Isolating Failure-Inducing Input", 2002).
//!
//! Every candidate is a verified graph. The edits, repeated until none of them helps: drop outputs, cut runs of nodes out of the
//! graph, replace a node by one of its operands, shrink a dimension everywhere.

mod edit;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use jamba_plan::output::unfinished;
use jambac_graph::{Dim, Graph, NodeId, Op, ValueId, text};
use regex::Regex;

use crate::outputs::{ForceArg, GRAPH, claim};
use crate::report::{beginning, print, tell};
use edit::Edit;

/// The options of `jambac reduce`.
#[derive(Args)]
pub struct Reduce {
    /// A graph in its text form.
    graph: PathBuf,
    /// A shell command that fails on the graph. {} is replaced by the path of a smaller graph. A non-zero exit status is a
    /// failure.
    #[arg(long = "while", value_name = "COMMAND")]
    command: String,
    /// The command fails when its output matches this regular expression, whatever the exit status.
    #[arg(long, value_name = "REGEX")]
    matches: Option<Regex>,
    /// The file for the reduced graph; - is stdout, the default.
    #[arg(short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    force: ForceArg,
}

/// Runs the subcommand.
///
/// # Errors
/// A graph that is broken or on which the command does not fail; a command that cannot be run.
pub fn run(options: &Reduce) -> Result<()> {
    let path = &options.graph;
    ensure!(options.command.contains("{}"), "--while: found {:?}, expected a command with {{}}", options.command);
    let mut outputs = options.force.outputs([path.as_path()]);
    let output = claim(&mut outputs, "-o", options.output.as_deref(), GRAPH)?;
    let source = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let graph =
        text::read(&source).map_err(|error| anyhow!("{}: {}", path.display(), beginning(&error.to_string())))?;
    let folder = unfinished::Entry::folder().context("a temporary folder for candidates")?;
    let candidate = folder.path().join("candidate.graph");
    let mut tries = 0;
    let mut fails = |graph: &Graph| {
        tries += 1;
        std::fs::write(&candidate, text::print(graph)).with_context(|| format!("writing {}", candidate.display()))?;
        command_fails(&options.command, options.matches.as_ref(), &candidate)
    };
    ensure!(fails(&graph)?, "{}: the command does not fail on it", path.display());
    let reduced = reduce(&graph, &mut fails)?;
    tell(&format!("{} of {} nodes left after {tries} runs of the command", reduced.len(), graph.len()));
    match output {
        Some(output) => Ok(output.write(text::print(&reduced).as_bytes())?),
        None => print(&text::print(&reduced)),
    }
}

fn command_fails(command: &str, matches: Option<&Regex>, candidate: &Path) -> Result<bool> {
    let file = format!("'{}'", candidate.display().to_string().replace('\'', r"'\''"));
    let command = command.replace("{}", &file);
    let output = Command::new("sh").args(["-c", &command]).output().context("running sh")?;
    if let Some(code @ (126 | 127)) = output.status.code() {
        bail!("--while: exit status {code}, the command cannot be run: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(match matches {
        Some(regex) => [output.stdout, output.stderr].iter().any(|text| regex.is_match(&String::from_utf8_lossy(text))),
        None => !output.status.success(),
    })
}

/// Reduces a graph on which `fails` holds to one on which it holds too and from which none of the edits can be made.
///
/// # Errors
/// Those of `fails`.
pub fn reduce(graph: &Graph, fails: &mut dyn FnMut(&Graph) -> Result<bool>) -> Result<Graph> {
    let mut graph = graph.clone();
    loop {
        let before = text::print(&graph);
        drop_outputs(&mut graph, fails)?;
        cut_nodes(&mut graph, fails)?;
        forward_operands(&mut graph, fails)?;
        shrink_dims(&mut graph, fails)?;
        if text::print(&graph) == before {
            return Ok(graph);
        }
    }
}

/// Makes an edit where the result is a sound graph that is not the same and still fails.
fn try_edit(graph: &mut Graph, edit: &Edit, fails: &mut dyn FnMut(&Graph) -> Result<bool>) -> Result<bool> {
    let Some(candidate) = edit.apply(graph) else { return Ok(false) };
    if text::print(&candidate) == text::print(graph) || !fails(&candidate)? {
        return Ok(false);
    }
    *graph = candidate;
    Ok(true)
}

/// Drops runs of items, of half of them first, then of fewer, as long as `drop` says that it worked. `items` lists them afresh after
/// each success.
fn by_halves<T: Clone>(
    graph: &mut Graph,
    items: impl Fn(&Graph) -> Vec<T>,
    mut drop: impl FnMut(&mut Graph, &[T]) -> Result<bool>,
) -> Result<()> {
    let mut size = items(graph).len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        loop {
            let all = items(graph);
            if at >= all.len() {
                break;
            }
            // A success moves the next items to this place.
            if !drop(graph, &all[at..(at + size).min(all.len())])? {
                at += size;
            }
        }
        size /= 2;
    }
    Ok(())
}

fn drop_outputs(graph: &mut Graph, fails: &mut dyn FnMut(&Graph) -> Result<bool>) -> Result<()> {
    let names = |graph: &Graph| graph.outputs().keys().cloned().collect::<Vec<String>>();
    by_halves(graph, names, |graph, dropped| {
        try_edit(graph, &Edit::DropOutputs(dropped.iter().cloned().collect()), fails)
    })
}

fn cut_nodes(graph: &mut Graph, fails: &mut dyn FnMut(&Graph) -> Result<bool>) -> Result<()> {
    let nodes = |graph: &Graph| {
        let order = graph.order().into_iter();
        order.filter(|&node| !graph.op(node).is_source()).collect::<Vec<NodeId>>()
    };
    by_halves(graph, nodes, |graph, cut| try_edit(graph, &Edit::Cut(cut.iter().copied().collect()), fails))
}

fn forward_operands(graph: &mut Graph, fails: &mut dyn FnMut(&Graph) -> Result<bool>) -> Result<()> {
    let mut at = 0;
    loop {
        let order = graph.order();
        let Some(&node) = order.get(at) else { return Ok(()) };
        let result = ValueId { node, result: 0 };
        let operands = graph.operands(node).into_iter().filter(|&operand| graph.ty(operand) == graph.ty(result));
        let edits: Vec<Edit> = operands.map(|to| Edit::Forward { from: result, to }).collect();
        let mut changed = false;
        for edit in &edits {
            changed = changed || try_edit(graph, edit, fails)?;
        }
        at += usize::from(!changed);
    }
}

fn shrink_dims(graph: &mut Graph, fails: &mut dyn FnMut(&Graph) -> Result<bool>) -> Result<()> {
    for from in dims(graph).into_iter().rev() {
        for to in [1, 2, 4, from / 2].into_iter().filter(|&to| to > 0 && to < from) {
            if try_edit(graph, &Edit::Resize { from, to }, fails)? {
                break;
            }
        }
    }
    Ok(())
}

/// The fixed dimensions above 1 of inputs, parameters and states.
fn dims(graph: &Graph) -> BTreeSet<usize> {
    let types = graph.order().into_iter().filter_map(|node| match graph.op(node) {
        Op::Input { ty, .. } | Op::Parameter { ty, .. } | Op::State { ty, .. } => Some(ty.shape.clone()),
        _ => None,
    });
    types.flatten().filter_map(Dim::fixed).filter(|&dim| dim > 1).collect()
}

#[cfg(test)]
mod tests {
    use jambac_graph::DType;
    use jambac_graph::verify::verify;
    use jambac_models::jamba;
    use jambac_models::tiny::Tiny;

    use super::*;

    /// A graph of every layer type, unfused.
    fn model() -> Graph {
        let config = Tiny { layers: 2, attention: (2, 1), ..Tiny::odd() }.config().unwrap();
        jamba::prefill(&config, &|_| DType::F32, &jamba::Options { kv_dtype: DType::F32 })
    }

    fn ops(graph: &Graph) -> Vec<&'static str> {
        graph.order().into_iter().map(|node| graph.op(node).name()).collect()
    }

    #[test]
    fn one_op_remains_of_a_model_when_that_op_is_at_fault() {
        let mut tries = 0;
        let mut has_softplus = |graph: &Graph| {
            tries += 1;
            verify(graph).expect("candidates are sound");
            Ok(ops(graph).contains(&"softplus"))
        };
        let reduced = reduce(&model(), &mut has_softplus).unwrap();
        assert_eq!(ops(&reduced), ["input", "softplus"], "{}", text::print(&reduced));
        assert!(text::print(&reduced).contains("f32[tokens, 1]"), "{}", text::print(&reduced));
        assert!(tries < 200, "{tries} runs");
    }

    #[test]
    fn a_pair_of_ops_keeps_what_connects_them() {
        // An add that reads a linear of a silu.
        let mut fails = |graph: &Graph| {
            let reads = |node: NodeId, name: &str| {
                let operands = graph.operands(node).into_iter().map(|operand| operand.node);
                operands.filter(|&operand| graph.op(operand).name() == name).collect::<Vec<_>>()
            };
            let adds = graph.order().into_iter().filter(|&node| *graph.op(node) == Op::Add);
            let linears = adds.flat_map(|node| reads(node, "linear")).collect::<Vec<_>>();
            Ok(linears.into_iter().any(|linear| !reads(linear, "mul").is_empty()))
        };
        let reduced = reduce(&model(), &mut fails).unwrap();
        let mut ops = ops(&reduced);
        ops.sort_unstable();
        let inputs = ops.iter().filter(|op| **op == "input").count();
        ops.retain(|op| *op != "input");
        assert_eq!(ops, ["add", "linear", "mul", "parameter"], "{}", text::print(&reduced));
        assert!(inputs <= 3, "{}", text::print(&reduced));
    }

    #[test]
    fn commands_fail_by_status_or_by_output() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("it's a.graph");
        std::fs::write(&file, "softplus").unwrap();
        let fails = |command: &str, regex: Option<&str>| {
            command_fails(command, regex.map(|regex| Regex::new(regex).unwrap()).as_ref(), &file)
        };
        assert!(fails("grep -q silu {}", None).unwrap());
        assert!(!fails("grep -q softplus {}", None).unwrap());
        assert!(fails("cat {} >&2", Some("soft.*us")).unwrap());
        assert!(!fails("cat {}; exit 3", Some("silu")).unwrap());
        let error = fails("no-such-command {}", None).unwrap_err().to_string();
        assert!(error.contains("exit status 127"), "{error}");
    }
}
