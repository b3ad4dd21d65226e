//! What keeps a graph from becoming a schedule.

use jambac_graph::verify::VerifyError;
use jambac_graph::{Graph, NodeId};
use jambac_kernels::node::SelectError;

/// A graph, options or schedule at fault.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// The graph breaks an invariant of its own.
    #[error(transparent)]
    Graph(#[from] VerifyError),
    /// A node that no kernel takes.
    #[error("{place}: {op}: {reason}")]
    Unsupported {
        /// Where in the model it comes from.
        place: String,
        /// Name of the op.
        op: &'static str,
        /// What is wrong: what was found and what was expected.
        reason: String,
    },
    /// A limit out of range.
    #[error("limit {name} is {found}, expected {expected}")]
    Limit {
        /// The limit.
        name: &'static str,
        /// Its value.
        found: u64,
        /// What it has to be.
        expected: String,
    },
    /// A format that a parameter cannot be stored in.
    #[error("parameter {parameter}: format {found}, expected {expected}")]
    Format {
        /// The parameter's canonical name.
        parameter: String,
        /// The format asked for.
        found: &'static str,
        /// What it has to be.
        expected: String,
    },
    /// Entries that do not agree on what a sequence remembers, or graphs whose outputs cannot be returned.
    #[error("entry {entry}: {what} is {found}, expected {expected}")]
    Entry {
        /// The entry.
        entry: String,
        /// A state or an output, by name.
        what: String,
        /// What it is.
        found: String,
        /// What it has to be.
        expected: String,
    },
    /// More bytes than an address space holds.
    #[error("{what}: more bytes than an address space holds")]
    TooLarge {
        /// What is too large.
        what: String,
    },
    /// A schedule that breaks an invariant of [`crate::verify`]: a fault of the planner.
    #[error("schedule, {place}: {message} (invariant {invariant})")]
    Broken {
        /// Number of the invariant in the list of [`crate::verify`].
        invariant: u8,
        /// The entry and the step, buffer, state or weight.
        place: String,
        /// What was found and what was expected.
        message: String,
    },
}

impl ScheduleError {
    /// The error of a node that has no kernel.
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
