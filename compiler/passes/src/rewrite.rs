//! The find-and-apply driver of every pass, and the edits that passes share.

use jambac_graph::{Activation, Graph, NodeId, Op, Type, ValueId};

/// Number of rewrites that a pass made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed(pub u64);

/// A graph with a limit on rewrites.
pub struct Rewriter<'g> {
    graph: &'g mut Graph,
    left: Option<u64>,
    last: Option<String>,
}

impl<'g> Rewriter<'g> {
    /// A rewriter that stops after `limit` rewrites; `None` never stops.
    pub fn new(graph: &'g mut Graph, limit: Option<u64>) -> Rewriter<'g> {
        Rewriter { graph, left: limit, last: None }
    }

    /// The last rewrite: op and source of the matched node.
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }
}

/// Visits the nodes in order, repeatedly, until `find` matches none. `find` only reads; `apply` cannot fail. For termination each
/// rewrite must leave fewer nodes, or fewer that match.
pub fn rewrite_each<M>(
    rewriter: &mut Rewriter,
    find: fn(&Graph, NodeId) -> Option<M>,
    apply: fn(&mut Graph, M),
) -> Changed {
    let mut changed = Changed(0);
    loop {
        let before = changed;
        for node in rewriter.graph.order() {
            if rewriter.left == Some(0) {
                return changed;
            }
            // A rewrite may delete or replace the node.
            if !rewriter.graph.contains(node) {
                continue;
            }
            let Some(found) = find(rewriter.graph, node) else { continue };
            let source = rewriter.graph.node(node).source.as_str();
            let place = if source.is_empty() { "" } else { " at " };
            rewriter.last = Some(format!("{}{place}{source}", rewriter.graph.op(node).name()));
            apply(rewriter.graph, found);
            changed.0 += 1;
            rewriter.left = rewriter.left.map(|left| left - 1);
        }
        if changed == before {
            return changed;
        }
    }
}

/// A node that replaces others.
pub(crate) struct Fused {
    /// The node whose position it takes.
    pub place: NodeId,
    pub op: Op,
    pub operands: Vec<ValueId>,
    /// The values that its results replace, in the order of its results.
    pub results: Vec<ValueId>,
}

impl Fused {
    /// A replacement of a node with one result.
    pub fn one(graph: &Graph, node: NodeId, op: Op, operands: impl Into<Vec<ValueId>>) -> Fused {
        Fused { place: node, op, operands: operands.into(), results: vec![graph.result(node, 0)] }
    }
}

/// [`rewrite_each`] that puts fused nodes in the place of others.
pub(crate) fn fuse_each(rewriter: &mut Rewriter, find: fn(&Graph, NodeId) -> Option<Fused>) -> Changed {
    rewrite_each(rewriter, find, |graph, Fused { place, op, operands, results }| {
        let fused = add_in_place_of(graph, place, op, &operands);
        for (result, &old) in results.iter().enumerate() {
            graph.replace_uses(old, graph.result(fused, result));
        }
        for old in results {
            if graph.contains(old.node) {
                erase(graph, old.node);
            }
        }
    })
}

/// True when ranges of columns, given as (start, length) in ascending order, cover every column once.
pub(crate) fn covers(ranges: impl Iterator<Item = (usize, usize)>, ty: &Type) -> bool {
    let mut end = 0;
    for (start, len) in ranges {
        if start != end {
            return false;
        }
        end += len;
    }
    ty.cols() == Some(end)
}

/// True if the value has one reader and is not an output: a fusion with the reader may drop the value.
pub(crate) fn has_one_reader(graph: &Graph, value: ValueId) -> bool {
    graph.users(value).len() == 1 && !graph.is_output(value)
}

/// The operands of a binary node in both orders.
pub(crate) fn both_ways(graph: &Graph, node: NodeId) -> [(ValueId, ValueId); 2] {
    let operands = graph.operands(node);
    let (a, b) = (operands[0], operands[1]);
    [(a, b), (b, a)]
}

/// The operand of a silu with one reader.
pub(crate) fn silu_of(graph: &Graph, value: ValueId) -> Option<ValueId> {
    (*graph.op(value.node) == Op::Silu && has_one_reader(graph, value)).then(|| graph.operands(value.node)[0])
}

/// x and weight of a linear without bias and activation whose weight is a parameter with one reader, so that its storage may change.
pub(crate) fn plain_linear(graph: &Graph, value: ValueId) -> Option<(ValueId, ValueId)> {
    let (Op::Linear { activation: Activation::None }, &[x, weight]) =
        (graph.op(value.node), graph.operands(value.node).as_slice())
    else {
        return None;
    };
    let own = matches!(graph.op(weight.node), Op::Parameter { .. }) && has_one_reader(graph, weight);
    own.then_some((x, weight))
}

/// Adds a node at the position of `old`.
pub(crate) fn add_in_place_of(graph: &mut Graph, old: NodeId, op: Op, operands: &[ValueId]) -> NodeId {
    graph.add_in_place_of(old, op, operands).unwrap_or_else(|error| panic!("a rewrite of a verified graph: {error}"))
}

/// Makes readers of `from` read `to`, then removes the node of `from` and its operands as far as they have no readers.
pub(crate) fn replace(graph: &mut Graph, from: ValueId, to: ValueId) {
    graph.replace_uses(from, to);
    erase(graph, from.node);
}

/// Removes a node without readers, then its operands likewise. Inputs, parameters and states stay.
pub(crate) fn erase(graph: &mut Graph, node: NodeId) {
    if !is_dead(graph, node) || graph.op(node).is_source() {
        return;
    }
    let operands = graph.operands(node);
    graph.remove(node);
    for operand in operands {
        if graph.contains(operand.node) {
            erase(graph, operand.node);
        }
    }
}

/// True if no result of the node has a reader or is an output.
pub(crate) fn is_dead(graph: &Graph, node: NodeId) -> bool {
    (0..graph.node(node).results.len()).all(|result| {
        let value = graph.result(node, result);
        graph.users(value).is_empty() && !graph.is_output(value)
    })
}
