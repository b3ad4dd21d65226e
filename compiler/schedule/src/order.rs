//! One total order of steps per entry.
//!
//! Operands before readers; among the independent, in the order in which the model was written, which keeps a value's
//! readers close to it. Sources compute nothing and make no steps.

use jambac_graph::{Graph, NodeId};

/// The nodes that become steps, in order.
pub(crate) fn steps(graph: &Graph) -> Vec<NodeId> {
    graph.order().into_iter().filter(|&node| !graph.op(node).is_source()).collect()
}
