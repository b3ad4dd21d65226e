//! A total order of the steps of an entry.
//!
//! Operands precede their readers. Independent nodes keep the order in which the model was written, so the readers of a value
//! stay close to it. Sources compute nothing and produce no steps.

use jambac_graph::{Graph, NodeId};

/// The nodes that become steps, in order.
pub(crate) fn steps(graph: &Graph) -> Vec<NodeId> {
    graph.order().into_iter().filter(|&node| !graph.op(node).is_source()).collect()
}
