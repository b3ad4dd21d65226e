//! The graph as Graphviz input, for `jambac graph`.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::graph::{Graph, NodeId};
use crate::infer::operand_names;
use crate::op::Op;
use crate::tensor::Type;

/// A drawing in the DOT language: a box per op, grouped by layer, an arrow per operand labelled with its type. Parameters are named
/// inside the op that reads them; inputs, states and outputs have nodes of their own.
pub fn dot(graph: &Graph) -> String {
    let mut text = format!("digraph {} {{\n  rankdir=TB;\n", quote(&graph.name));
    text += "  node [shape=box, style=rounded, fontname=\"sans-serif\", fontsize=10];\n";
    text += "  edge [fontname=\"sans-serif\", fontsize=8];\n";

    let order = graph.order();
    let numbers: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(number, &node)| (node, number)).collect();
    let mut groups: BTreeMap<Vec<Part>, Vec<NodeId>> = BTreeMap::new();
    for &node in order.iter().filter(|&&node| !matches!(graph.op(node), Op::Parameter { .. })) {
        groups.entry(group(&graph.node(node).source)).or_default().push(node);
    }
    // Writing to a String cannot fail.
    for (n, (name, nodes)) in groups.iter().enumerate() {
        let indent = if name.is_empty() { "  " } else { "    " };
        if !name.is_empty() {
            let name: Vec<&str> = name.iter().map(|part| part.text.as_str()).collect();
            let _ = writeln!(text, "  subgraph cluster_{n} {{\n    label={};", quote(&name.join(".")));
        }
        for &node in nodes {
            let _ = writeln!(text, "{indent}n{} [label={}];", numbers[&node], quote(&label(graph, node)));
        }
        if !name.is_empty() {
            text += "  }\n";
        }
    }
    for &node in &order {
        for operand in
            graph.operands(node).iter().filter(|operand| !matches!(graph.op(operand.node), Op::Parameter { .. }))
        {
            let ty = quote(&graph.ty(*operand).to_string());
            let _ = writeln!(text, "  n{} -> n{} [label={ty}];", numbers[&operand.node], numbers[&node]);
        }
    }
    for (n, (name, value)) in graph.outputs().iter().enumerate() {
        let ty = quote(&graph.ty(*value).to_string());
        let _ = writeln!(text, "  out{n} [label={}, shape=oval];", quote(name));
        let _ = writeln!(text, "  n{} -> out{n} [label={ty}];", numbers[&value.node]);
    }
    text + "}\n"
}

/// A part of a source, ordered by number if it is one.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    number: Option<u64>,
    pub(crate) text: String,
}

/// A source up to its first number: `layers.3` of `layers.3.mamba`; the first part if there is no number.
pub(crate) fn group(source: &str) -> Vec<Part> {
    let parts = source.split('.').filter(|part| !part.is_empty());
    let parts: Vec<Part> = parts.map(|part| Part { number: part.parse().ok(), text: part.to_string() }).collect();
    let len = parts.iter().position(|part| part.number.is_some()).map_or(1, |number| number + 1);
    parts.into_iter().take(len).collect()
}

/// The op, its name, and the parameters that it reads.
pub(crate) fn label(graph: &Graph, node: NodeId) -> String {
    let mut label = graph.op(node).name().to_string();
    if let Some(name) = graph.op(node).source_name() {
        label += &format!("\n{name}");
    }
    let operands = graph.operands(node);
    let types: Vec<&Type> = operands.iter().map(|&value| graph.ty(value)).collect();
    for (operand, name) in operands.iter().zip(operand_names(graph.op(node), &types)) {
        if let Op::Parameter { name: parameter, ty } = graph.op(operand.node) {
            label += &format!("\n{name} = {parameter} {ty}");
        }
    }
    label
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::text::read;

    #[test]
    fn draws_groups_parameters_and_outputs() {
        let graph = read(
            r#"graph @prefill {
                %0 = input "x" : f32[tokens, 4] loc "embed"
                %1 = parameter "w" : bf16[8, 4] loc "layers.0.mlp"
                %2 = linear %0, %1 : f32[tokens, 8] loc "layers.0.mlp"
                %3 = silu %2 : f32[tokens, 8] loc "layers.0.mlp"
                output "y" = %3
            }"#,
        );
        expect![[r#"
            digraph "prefill" {
              rankdir=TB;
              node [shape=box, style=rounded, fontname="sans-serif", fontsize=10];
              edge [fontname="sans-serif", fontsize=8];
              subgraph cluster_0 {
                label="embed";
                n0 [label="input\nx"];
              }
              subgraph cluster_1 {
                label="layers.0";
                n2 [label="linear\nweight = w bf16[8, 4]"];
                n3 [label="silu"];
              }
              n0 -> n2 [label="f32[tokens, 4]"];
              n2 -> n3 [label="f32[tokens, 8]"];
              out0 [label="y", shape=oval];
              n3 -> out0 [label="f32[tokens, 8]"];
            }
        "#]]
        .assert_eq(&dot(&graph.unwrap()));
    }
}
