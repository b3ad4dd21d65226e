//! The text form of a graph: print, parse, compare.
//!
//! ```text
//! graph @prefill {
//!   %0 = input "ids" : i32[tokens]
//!   %1 = parameter "model.embed_tokens.weight" : bf16[512, 128]
//!   %2 = embed %0, %1 : f32[tokens, 128] loc "embed"
//!   %3 = rms_norm %2, %4 {eps = 1e-6} : f32[tokens, 128] loc "layers.0"
//!   output "logits" = %3
//! }
//! ```
//!
//! `graph @decode one_token {` starts a graph whose steps take one token of each sequence ([`Graph::one_token`]).
//! A line is results, op, operands, attributes, result types, and source location. An attribute is a word, or a list of words in
//! brackets. `//` starts a comment. Values may have any name and may be read above the line that defines them; [`print()`] numbers
//! them in [`Graph::order`]. [`parse`] accepts invalid graphs; [`read`] also verifies.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::error::Error;
use crate::graph::{Graph, NodeId, ValueId};
use crate::verify::{VerifyError, verify};

mod diff;
mod parse;

pub use diff::diff;
pub use parse::{ParseError, parse};

/// The graph in its text form; parsing gives the same text back. Prints broken graphs too, cycles last.
pub fn print(graph: &Graph) -> String {
    lines(graph, &number(graph)).join("\n") + "\n"
}

/// The graph in its text form with `// error: …` on the line of the node at fault.
pub fn print_error(graph: &Graph, error: &VerifyError) -> String {
    let mut lines = lines(graph, &number(graph));
    let line = error.node.and_then(|node| listed(graph).iter().position(|&id| id == node)).map_or(0, |node| node + 1);
    // Writing to a String cannot fail.
    let _ = write!(lines[line], "  // error: {}", error.message);
    lines.join("\n") + "\n"
}

/// Parses and verifies.
///
/// # Errors
/// Text that is not a graph, or a graph that breaks an invariant.
pub fn read(text: &str) -> Result<Graph, Error> {
    let graph = parse(text)?;
    verify(&graph)?;
    Ok(graph)
}

/// Names of values, without the `%`.
type Names = BTreeMap<ValueId, String>;

/// Every node in printing order: [`Graph::order`], then nodes on a cycle.
fn listed(graph: &Graph) -> Vec<NodeId> {
    let mut nodes = graph.order();
    if nodes.len() < graph.len() {
        let ordered: std::collections::BTreeSet<NodeId> = nodes.iter().copied().collect();
        nodes.extend(graph.by_position().into_iter().filter(|id| !ordered.contains(id)));
    }
    nodes
}

fn results(graph: &Graph, node: NodeId) -> impl Iterator<Item = ValueId> {
    (0..graph.node(node).results.len()).map(move |result| ValueId { node, result })
}

fn number(graph: &Graph) -> Names {
    let values = listed(graph).into_iter().flat_map(|node| results(graph, node));
    values.enumerate().map(|(n, value)| (value, n.to_string())).collect()
}

/// `graph @name {`, a line per node, a line per output, `}`.
fn lines(graph: &Graph, names: &Names) -> Vec<String> {
    let one_token = if graph.one_token { " one_token" } else { "" };
    let mut lines = vec![format!("graph @{}{one_token} {{", symbol(&graph.name))];
    lines.extend(listed(graph).into_iter().map(|node| format!("  {}", node_line(graph, node, names))));
    for (name, value) in graph.outputs() {
        lines.push(format!("  output {} = {}", quote(name), value_name(value, names)));
    }
    lines.push("}".into());
    lines
}

fn node_line(graph: &Graph, id: NodeId, names: &Names) -> String {
    let results: Vec<String> = results(graph, id).map(|value| value_name(&value, names)).collect();
    let operands: Vec<String> = graph.operands(id).iter().map(|value| value_name(value, names)).collect();
    let mut line = format!("{} = {}", results.join(", "), head(graph, id));
    if !operands.is_empty() {
        line += &format!(" {}", operands.join(", "));
    }
    line + &tail(graph, id)
}

/// The part of a line before the operands: the op, and the name of a source.
fn head(graph: &Graph, id: NodeId) -> String {
    let op = graph.op(id);
    op.source_name().map_or(op.name().to_string(), |name| format!("{} {}", op.name(), quote(name)))
}

/// The part of a line after the operands. Like the head, it does not depend on the names of values.
fn tail(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    let types: Vec<String> = node.results.iter().map(|ty| ty.to_string()).collect();
    let mut tail = String::new();
    let attributes = node.op.attributes();
    if !attributes.is_empty() {
        let attributes: Vec<String> = attributes.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        tail += &format!(" {{{}}}", attributes.join(", "));
    }
    tail += &format!(" : {}", types.join(", "));
    if !node.source.is_empty() {
        tail += &format!(" loc {}", quote(&node.source));
    }
    tail
}

/// `%7`; `%?` for a result that its node does not have.
fn value_name(value: &ValueId, names: &Names) -> String {
    format!("%{}", names.get(value).map_or("?", String::as_str))
}

/// The name, quoted unless it is one word.
fn symbol(name: &str) -> String {
    if !name.is_empty() && name.chars().all(is_word) { name.to_string() } else { quote(name) }
}

/// A character of a name, a keyword or a number.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-' | '?')
}

fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted += "\\n",
            '\r' => quoted += "\\r",
            '\t' => quoted += "\\t",
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests;
