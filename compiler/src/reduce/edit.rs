//! Edits of a graph. Applying one rebuilds the graph, so that types are inferred anew and dead nodes fall away.

use std::collections::{BTreeMap, BTreeSet};

use jambac_graph::verify::verify;
use jambac_graph::{Dim, Graph, NodeId, Op, Type, ValueId};

/// One step towards a smaller graph.
pub(super) enum Edit {
    /// Removes outputs.
    DropOutputs(BTreeSet<String>),
    /// Removes nodes. Their results become inputs of the graph where other nodes read them, and their operands become outputs.
    Cut(BTreeSet<NodeId>),
    /// Readers of a value read another one of the same type.
    Forward { from: ValueId, to: ValueId },
    /// Replaces a size, in the types of sources and in attributes.
    Resize { from: usize, to: usize },
}

impl Edit {
    /// The edited graph, or `None` where that is not a sound graph.
    pub(super) fn apply(&self, graph: &Graph) -> Option<Graph> {
        let mut outputs = graph.outputs().clone();
        match self {
            Edit::DropOutputs(names) => outputs.retain(|name, _| !names.contains(name)),
            Edit::Cut(nodes) => {
                outputs.retain(|_, value| !nodes.contains(&value.node));
                expose_operands(graph, nodes, &mut outputs);
            }
            Edit::Forward { .. } | Edit::Resize { .. } => {}
        }
        if outputs.is_empty() {
            return None;
        }
        let mut rebuilt = Graph::new(graph.name.clone());
        rebuilt.one_token = graph.one_token;
        let live = self.live(graph, &outputs);
        let mut values: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let mut inputs = new_inputs(graph);
        for node in graph.order().into_iter().filter(|node| live.contains(node)) {
            let results = (0..graph.node(node).results.len()).map(|result| ValueId { node, result });
            if self.cuts(node) {
                for value in results {
                    let input = Op::Input { name: inputs.next()?, ty: graph.ty(value).clone() };
                    let input = rebuilt.add(input, &[], "").ok()?;
                    values.insert(value, ValueId { node: input, result: 0 });
                }
                continue;
            }
            let operands = graph.operands(node).into_iter().map(|operand| values.get(&self.target(operand)).copied());
            let operands: Vec<ValueId> = operands.collect::<Option<_>>()?;
            let copy = rebuilt.add(self.resized(graph.op(node)), &operands, graph.node(node).source.clone()).ok()?;
            values.extend(results.map(|value| (value, ValueId { node: copy, ..value })));
        }
        for (name, value) in outputs {
            rebuilt.set_output(name, *values.get(&self.target(value))?);
        }
        let rebuilt = without_unused_inputs(rebuilt);
        verify(&rebuilt).ok()?;
        Some(rebuilt)
    }

    fn cuts(&self, node: NodeId) -> bool {
        matches!(self, Edit::Cut(nodes) if nodes.contains(&node))
    }

    /// The value that the readers of a value read.
    fn target(&self, value: ValueId) -> ValueId {
        match *self {
            Edit::Forward { from, to } if value == from => to,
            _ => value,
        }
    }

    /// The nodes that the outputs depend on.
    fn live(&self, graph: &Graph, outputs: &BTreeMap<String, ValueId>) -> BTreeSet<NodeId> {
        let mut live = BTreeSet::new();
        let mut waiting: Vec<NodeId> = outputs.values().map(|&value| self.target(value).node).collect();
        while let Some(node) = waiting.pop() {
            if live.insert(node) && !self.cuts(node) {
                waiting.extend(graph.operands(node).into_iter().map(|operand| self.target(operand).node));
            }
        }
        live
    }

    fn resized(&self, op: &Op) -> Op {
        let Edit::Resize { from, to } = *self else { return op.clone() };
        let size = |found: &mut usize| *found = if *found == from { to } else { *found };
        let shape = |ty: &mut Type| {
            for dim in ty.shape.iter_mut().filter(|dim| dim.fixed() == Some(from)) {
                *dim = Dim::from(to);
            }
        };
        let mut op = op.clone();
        match &mut op {
            Op::Input { ty, .. } | Op::Parameter { ty, .. } | Op::State { ty, .. } => shape(ty),
            Op::SplitLinear { sizes } | Op::NormSplitLinear { sizes, .. } => sizes.iter_mut().for_each(size),
            Op::Slice { start, len } => [start, len].into_iter().for_each(size),
            Op::Attention { n_heads, .. } | Op::AppendAttention { n_heads, .. } => size(n_heads),
            Op::TopK { k } | Op::MoeRoute { k } => size(k),
            Op::MoePermute { n_experts } => size(n_experts),
            _ => {}
        }
        op
    }
}

/// Adds the operands of nodes to the outputs, except sources and results of these nodes.
fn expose_operands(graph: &Graph, nodes: &BTreeSet<NodeId>, outputs: &mut BTreeMap<String, ValueId>) {
    let taken: BTreeSet<String> = outputs.keys().cloned().collect();
    let mut names = new_names(taken);
    for operand in nodes.iter().flat_map(|&node| graph.operands(node)) {
        let inner = nodes.contains(&operand.node) || graph.op(operand.node).is_source();
        if !inner && outputs.values().all(|output| *output != operand) {
            outputs.extend(names.next().map(|name| (name, operand)));
        }
    }
}

/// Names for the inputs that replace results.
fn new_inputs(graph: &Graph) -> impl Iterator<Item = String> {
    new_names(graph.order().into_iter().filter_map(|node| graph.op(node).source_name().map(str::to_owned)).collect())
}

/// `cut0`, `cut1`, …, without those that are taken.
fn new_names(taken: BTreeSet<String>) -> impl Iterator<Item = String> {
    (0..).map(|n| format!("cut{n}")).filter(move |name| !taken.contains(name))
}

/// Removes inputs that nothing reads: of a cut node with several results, those of the unused ones.
fn without_unused_inputs(mut graph: Graph) -> Graph {
    for node in graph.order() {
        let value = ValueId { node, result: 0 };
        let is_input = matches!(graph.op(node), Op::Input { .. });
        if is_input && graph.users(value).is_empty() && !graph.is_output(value) {
            graph.remove(node);
        }
    }
    graph
}
