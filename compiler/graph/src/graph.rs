//! The graph: a petgraph whose edges carry result and operand slots, addressed by [`NodeId`] and [`ValueId`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use petgraph::Direction::{Incoming, Outgoing};
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;

use crate::infer::{InferError, infer};
use crate::op::Op;
use crate::tensor::Type;

/// A node of one graph; stays valid while other nodes are added and removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) NodeIndex);

/// One result of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId {
    pub node: NodeId,
    pub result: usize,
}

/// An op at a place in the graph.
#[derive(Clone, Debug)]
pub struct Node {
    pub op: Op,
    pub results: Vec<Type>,
    /// Source location for messages: `layers.3.mamba.in_proj`. Rewrites keep it.
    pub source: String,
    /// Order among independent nodes, low first. A replacement takes the position of the node that it replaces.
    pub(crate) position: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    operand: usize,
    result: usize,
}

/// A dataflow graph with named outputs; [`crate::verify::verify`] checks its invariants.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The entry it computes: `prefill` or `decode`.
    pub name: String,
    /// True if a step takes exactly one token of each of its sequences, so that token t belongs to sequence t.
    pub one_token: bool,
    nodes: StableDiGraph<Node, Edge>,
    outputs: BTreeMap<String, ValueId>,
    next_position: u64,
}

impl Graph {
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Adds a node after all others; its result types are inferred from the operands.
    pub fn add(&mut self, op: Op, operands: &[ValueId], source: impl Into<String>) -> Result<NodeId, InferError> {
        let position = self.next_position;
        self.next_position += 1;
        self.add_at(position, op, operands, source.into())
    }

    /// Adds a node at the position of `other`, for rewrites.
    pub fn add_in_place_of(&mut self, other: NodeId, op: Op, operands: &[ValueId]) -> Result<NodeId, InferError> {
        let Node { position, source, .. } = self.node(other).clone();
        self.add_at(position, op, operands, source)
    }

    fn add_at(&mut self, position: u64, op: Op, operands: &[ValueId], source: String) -> Result<NodeId, InferError> {
        let types: Vec<&Type> = operands.iter().map(|&value| self.ty(value)).collect();
        let results = infer(&op, &types)?;
        let index = self.nodes.add_node(Node { op, results, source, position });
        for (operand, value) in operands.iter().enumerate() {
            self.nodes.add_edge(value.node.0, index, Edge { operand, result: value.result });
        }
        Ok(NodeId(index))
    }

    /// Adds a node without inference, to be connected and verified later.
    pub(crate) fn add_unchecked(&mut self, op: Op, results: Vec<Type>, source: String) -> NodeId {
        let position = self.next_position;
        self.next_position += 1;
        NodeId(self.nodes.add_node(Node { op, results, source, position }))
    }

    /// Makes `value` the operand of `reader` in an empty slot.
    pub(crate) fn connect(&mut self, value: ValueId, reader: NodeId, operand: usize) {
        self.nodes.add_edge(value.node.0, reader.0, Edge { operand, result: value.result });
    }

    /// The operand slots of a node that are filled, in order; 0 … n−1 unless the graph is broken.
    pub(crate) fn operand_slots(&self, id: NodeId) -> Vec<usize> {
        let mut slots: Vec<usize> =
            self.nodes.edges_directed(id.0, Incoming).map(|edge| edge.weight().operand).collect();
        slots.sort_unstable();
        slots
    }

    /// Every node by position, also the ones [`Graph::order`] leaves out.
    pub(crate) fn by_position(&self) -> Vec<NodeId> {
        let mut ids: Vec<NodeId> = self.nodes.node_indices().map(NodeId).collect();
        ids.sort_by_key(|&id| (self.node(id).position, id));
        ids
    }

    /// False if the node was removed and its id is not reused.
    pub fn contains(&self, id: NodeId) -> bool {
        self.nodes.contains_node(id.0)
    }

    /// # Panics
    /// If the node was removed: an id must not outlive its node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    pub fn op(&self, id: NodeId) -> &Op {
        &self.node(id).op
    }

    /// Replaces a node's op; operands stay, results are inferred again.
    pub fn set_op(&mut self, id: NodeId, op: Op) -> Result<(), InferError> {
        let operands = self.operands(id);
        let types: Vec<&Type> = operands.iter().map(|&value| self.ty(value)).collect();
        let results = infer(&op, &types)?;
        let node = &mut self.nodes[id.0];
        node.op = op;
        node.results = results;
        Ok(())
    }

    pub fn ty(&self, value: ValueId) -> &Type {
        &self.node(value.node).results[value.result]
    }

    pub fn len(&self) -> usize {
        self.nodes.node_count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `result`-th result of a node.
    pub fn result(&self, node: NodeId, result: usize) -> ValueId {
        debug_assert!(result < self.node(node).results.len());
        ValueId { node, result }
    }

    /// A node's operands in order.
    pub fn operands(&self, id: NodeId) -> Vec<ValueId> {
        let mut edges: Vec<_> =
            self.nodes.edges_directed(id.0, Incoming).map(|edge| (*edge.weight(), edge.source())).collect();
        edges.sort();
        edges.into_iter().map(|(edge, source)| ValueId { node: NodeId(source), result: edge.result }).collect()
    }

    /// The readers of a value as (node, operand slot), in order of position, without graph outputs.
    pub fn users(&self, value: ValueId) -> Vec<(NodeId, usize)> {
        let mut users: Vec<_> = self
            .nodes
            .edges_directed(value.node.0, Outgoing)
            .filter(|edge| edge.weight().result == value.result)
            .map(|edge| (NodeId(edge.target()), edge.weight().operand))
            .collect();
        users.sort_by_key(|&(node, operand)| (self.node(node).position, node, operand));
        users
    }

    /// Names a value as an output of the graph: `logits`, or a state's next value under the state's name.
    pub fn set_output(&mut self, name: impl Into<String>, value: ValueId) {
        self.outputs.insert(name.into(), value);
    }

    pub fn outputs(&self) -> &BTreeMap<String, ValueId> {
        &self.outputs
    }

    pub fn is_output(&self, value: ValueId) -> bool {
        self.outputs.values().any(|&output| output == value)
    }

    /// Makes every reader of `from` read `to`, outputs included; only the node of `to` keeps reading `from`.
    pub fn replace_uses(&mut self, from: ValueId, to: ValueId) {
        let edges: Vec<_> = self
            .nodes
            .edges_directed(from.node.0, Outgoing)
            .filter(|edge| edge.weight().result == from.result && edge.target() != to.node.0)
            .map(|edge| (edge.id(), edge.target(), *edge.weight()))
            .collect();
        for (id, target, edge) in edges {
            self.nodes.remove_edge(id);
            self.nodes.add_edge(to.node.0, target, Edge { operand: edge.operand, result: to.result });
        }
        for output in self.outputs.values_mut().filter(|output| **output == from) {
            *output = to;
        }
    }

    /// Removes a node without readers.
    ///
    /// # Panics
    /// If a result has a reader.
    pub fn remove(&mut self, id: NodeId) {
        assert!(self.nodes.edges_directed(id.0, Outgoing).next().is_none(), "removing a node with readers");
        assert!(self.outputs.values().all(|output| output.node != id), "removing a node that is an output");
        self.nodes.remove_node(id.0);
    }

    /// Every node in topological order; independent nodes by position, low first. Deterministic. Nodes on a cycle (of an invalid graph)
    /// are left out.
    pub fn order(&self) -> Vec<NodeId> {
        let mut waiting: BTreeMap<NodeIndex, usize> = self
            .nodes
            .node_indices()
            .map(|index| (index, self.nodes.edges_directed(index, Incoming).count()))
            .collect();
        let mut ready: BinaryHeap<Reverse<(u64, NodeIndex)>> = waiting
            .iter()
            .filter(|&(_, &operands)| operands == 0)
            .map(|(&index, _)| Reverse((self.nodes[index].position, index)))
            .collect();
        let mut order = Vec::with_capacity(waiting.len());
        while let Some(Reverse((_, index))) = ready.pop() {
            order.push(NodeId(index));
            for edge in self.nodes.edges_directed(index, Outgoing) {
                if let Some(left) = waiting.get_mut(&edge.target()) {
                    *left -= 1;
                    if *left == 0 {
                        ready.push(Reverse((self.nodes[edge.target()].position, edge.target())));
                    }
                }
            }
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Builder;
    use crate::tensor::Symbol;
    use crate::text::{parse, print};
    use crate::verify::verify;

    /// The ops of a graph in order.
    fn ops(graph: &Graph) -> Vec<&'static str> {
        graph.order().into_iter().map(|node| graph.op(node).name()).collect()
    }

    #[test]
    fn order_is_the_order_of_building_and_survives_rewrites() {
        let mut b = Builder::new("g");
        let x = b.input("x", Type::rows(Symbol::Tokens, 4));
        let (a, c) = (b.silu(x), b.softplus(x));
        let sum = b.add_values(a, c);
        b.output("y", sum);
        let mut graph = b.finish();
        assert_eq!(ops(&graph), ["input", "silu", "softplus", "add"]);

        // The index of the removed node is reused; the position decides.
        let new = graph.add_in_place_of(a.node, Op::Softmax, &[x]).unwrap();
        graph.replace_uses(a, graph.result(new, 0));
        graph.remove(a.node);
        let last = graph.add(Op::Silu, &[x], "").unwrap();
        assert_eq!(ops(&graph), ["input", "softmax", "softplus", "add", "silu"]);
        assert_eq!(graph.users(x), [(new, 0), (c.node, 0), (last, 0)]);
        assert_eq!(graph.operands(sum.node), [graph.result(new, 0), c]);
    }

    #[test]
    fn order_puts_operands_first() {
        let text =
            "graph @g { %2 = add %1, %0 : f32[4] %1 = silu %0 : f32[4] %0 = input \"x\" : f32[4] output \"y\" = %2 }";
        assert_eq!(ops(&parse(text).unwrap()), ["input", "silu", "add"]);
    }

    #[test]
    fn the_same_edits_give_the_same_graph() {
        let build = || {
            let mut graph = crate::arbitrary::graph(b"a graph of every kind, of many ops and some states");
            for node in graph.order() {
                if *graph.op(node) == Op::Silu {
                    let x = graph.operands(node)[0];
                    let new = graph.add_in_place_of(node, Op::Softplus, &[x]).unwrap();
                    graph.replace_uses(ValueId { node, result: 0 }, ValueId { node: new, result: 0 });
                    graph.remove(node);
                }
            }
            graph
        };
        let graph = build();
        assert_eq!(verify(&graph), Ok(()));
        assert_eq!(print(&graph), print(&build()));
        assert_eq!(graph.order(), build().order());
    }

    #[test]
    fn uses_of_one_result_move_alone() {
        let mut graph = parse(
            "graph @g { %x = input \"x\" : f32[tokens, 4] %w, %e = top_k %x {k = 4} : f32[tokens, 4], i32[tokens, 4]
             %y = add %w, %w : f32[tokens, 4] output \"w\" = %w output \"e\" = %e output \"y\" = %y }",
        )
        .unwrap();
        let (x, k) = (graph.order()[0], graph.order()[1]);
        graph.replace_uses(graph.result(k, 0), graph.result(x, 0));
        let text = "graph @g {\n  %0 = input \"x\" : f32[tokens, 4]\n  %1, %2 = top_k %0 {k = 4} : f32[tokens, 4], i32[tokens, 4]\n  \
                    %3 = add %0, %0 : f32[tokens, 4]\n  output \"e\" = %2\n  output \"w\" = %0\n  output \"y\" = %3\n}\n";
        assert_eq!(print(&graph), text);
    }

    #[test]
    #[should_panic(expected = "removing a node with readers")]
    fn a_node_with_readers_stays() {
        let mut b = Builder::new("g");
        let x = b.input("x", Type::rows(Symbol::Tokens, 4));
        b.silu(x);
        b.finish().remove(x.node);
    }
}
