//! What can be wrong with what the interpreter is given.

/// Why a graph could not be run on a batch.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReferenceError {
    /// The graph has a parameter that was not given.
    #[error("parameter {name}: not found, expected {expected}")]
    MissingParameter {
        /// Its canonical name.
        name: String,
        /// Its type in the graph.
        expected: String,
    },
    /// A parameter has another number of elements than the graph says.
    #[error("parameter {name}: found {found} elements, expected {expected}")]
    ParameterSize {
        /// Its canonical name.
        name: String,
        /// Elements given.
        found: usize,
        /// Its type in the graph.
        expected: String,
    },
    /// The graph has an input other than `ids` and `rows`.
    #[error("input {name}: expected ids or rows")]
    UnknownInput {
        /// Its name.
        name: String,
    },
    /// The batch's parts contradict each other, or the state.
    #[error("batch: found {found}, expected {expected}")]
    Batch {
        /// What the batch has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// A token id, a row or an expert that does not exist.
    #[error("{op} in {source_name}: found index {index}, expected 0 … {limit} (exclusive)")]
    Index {
        /// The op that reads the index.
        op: &'static str,
        /// Where the node comes from.
        source_name: String,
        /// The index.
        index: i32,
        /// How many there are.
        limit: usize,
    },
    /// A sequence's state is not of the graph's type: the state belongs to another graph.
    #[error("state {name} of sequence {sequence}: found {found}, expected {expected}")]
    StateShape {
        /// The state's name.
        name: String,
        /// The sequence.
        sequence: usize,
        /// Shape of what is there.
        found: String,
        /// The state's type in the graph.
        expected: String,
    },
    /// An operand is not of the kind that the op takes; a verified graph never gives it.
    #[error("{op} in {source_name}: operand {operand} is not {expected}")]
    Operand {
        /// The op.
        op: &'static str,
        /// Where the node comes from.
        source_name: String,
        /// The operand's slot.
        operand: usize,
        /// What the op takes there.
        expected: &'static str,
    },
}
