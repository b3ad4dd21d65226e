//! Errors of scheduling.

use jambac_graph::verify::VerifyError;
use jambac_graph::{Graph, NodeId};
use jambac_kernels::node::SelectError;

/// An error in the graph, the options or the schedule.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// The graph violates one of its invariants.
    #[error(transparent)]
    Graph(#[from] VerifyError),
    /// No kernel supports the node.
    #[error("{place}: {op}: {reason}")]
    Unsupported {
        /// Location in the model.
        place: String,
        op: &'static str,
        /// The problem, with the value found and the value expected.
        reason: String,
    },
    #[error("limit {name} is {found}, expected {expected}")]
    Limit {
        name: &'static str,
        found: u64,
        /// The valid range.
        expected: String,
    },
    /// A parameter cannot be stored in the requested format.
    #[error("parameter {parameter}: format {found}, expected {expected}")]
    Format {
        /// Canonical name.
        parameter: String,
        /// The requested format.
        found: &'static str,
        /// The supported formats.
        expected: String,
    },
    /// Entries have different states, or the outputs of a graph cannot be returned.
    #[error("entry {entry}: {what} is {found}, expected {expected}")]
    Entry {
        entry: String,
        /// Name of a state or an output.
        what: String,
        found: String,
        expected: String,
    },
    /// A size exceeds the address space.
    #[error("{what}: more bytes than an address space holds")]
    TooLarge {
        /// The object that is too large.
        what: String,
    },
    /// The schedule violates an invariant of [`crate::verify`]: a bug in the planner.
    #[error("schedule, {place}: {message} (invariant {invariant})")]
    Broken {
        /// Number of the invariant in the list of [`crate::verify`].
        invariant: u8,
        /// The entry with the step, buffer, state or weight.
        place: String,
        /// The value found and the value expected.
        message: String,
    },
}

impl ScheduleError {
    /// The error for a node without a kernel.
    pub(crate) fn of_node(graph: &Graph, node: NodeId, error: SelectError) -> ScheduleError {
        match error {
            SelectError::Unsupported(reason) => {
                ScheduleError::Unsupported { place: graph.node(node).source.clone(), op: graph.op(node).name(), reason }
            }
            SelectError::Format { parameter, found, expected } => {
                ScheduleError::Format { parameter, found: found.name(), expected }
            }
        }
    }
}
