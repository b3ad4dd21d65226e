//! Find, apply, repeat: the driver of every pass, and the few edits that passes are made of.

use jambac_graph::{Activation, Graph, NodeId, Op, Type, ValueId};

/// How many rewrites a pass made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed(pub u64);

/// A graph, and how often it may be rewritten yet.
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

    /// The last rewrite: op and source of the node where it was found.
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }
}

/// Goes through the nodes in order, again and again until nothing is found: `find` reads only, `apply` cannot fail.
/// A rewrite must bring its pass closer to the end (fewer nodes, or fewer that match).
pub(crate) fn rewrite_each<M>(
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
            // A rewrite may have taken the node away, and even put one of its own in its place: then that one is asked.
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
    /// The node whose position in the order it takes.
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

/// True when the value has one reader, which is a node and no output: the value may vanish with it.
pub(crate) fn has_one_reader(graph: &Graph, value: ValueId) -> bool {
    graph.users(value).len() == 1 && !graph.is_output(value)
}

/// The operands of a node with two, both ways round.
pub(crate) fn both_ways(graph: &Graph, node: NodeId) -> [(ValueId, ValueId); 2] {
    let operands = graph.operands(node);
    let (a, b) = (operands[0], operands[1]);
    [(a, b), (b, a)]
}

/// The operand of a silu that nobody else reads.
pub(crate) fn silu_of(graph: &Graph, value: ValueId) -> Option<ValueId> {
    (*graph.op(value.node) == Op::Silu && has_one_reader(graph, value)).then(|| graph.operands(value.node)[0])
}

/// x and the weight of a linear without bias and activation, whose weight is a parameter that nothing else reads: it may be
/// stored in another way.
pub(crate) fn plain_linear(graph: &Graph, value: ValueId) -> Option<(ValueId, ValueId)> {
    let (Op::Linear { activation: Activation::None }, &[x, weight]) =
        (graph.op(value.node), graph.operands(value.node).as_slice())
    else {
        return None;
    };
    let own = matches!(graph.op(weight.node), Op::Parameter { .. }) && has_one_reader(graph, weight);
    own.then_some((x, weight))
}

/// Adds a node in the place of `old`, for values whose readers then move to it.
pub(crate) fn add_in_place_of(graph: &mut Graph, old: NodeId, op: Op, operands: &[ValueId]) -> NodeId {
    graph.add_in_place_of(old, op, operands).unwrap_or_else(|error| panic!("a rewrite of a verified graph: {error}"))
}

/// Readers of `from` read `to`; the node of `from` goes when nobody reads it any more, and what only it has read too.
pub(crate) fn replace(graph: &mut Graph, from: ValueId, to: ValueId) {
    graph.replace_uses(from, to);
    erase(graph, from.node);
}

/// Removes a node that nobody reads, then its operands likewise. Inputs, parameters and states stay.
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

/// True when no result of the node is read or an output.
pub(crate) fn is_dead(graph: &Graph, node: NodeId) -> bool {
    (0..graph.node(node).results.len()).all(|result| {
        let value = graph.result(node, result);
        graph.users(value).is_empty() && !graph.is_output(value)
    })
}
