//! Errors of the interpreter's inputs.

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReferenceError {
    /// A parameter of the graph is missing.
    #[error("parameter {name}: not found, expected {expected}")]
    MissingParameter {
        name: String,
        /// Its type in the graph.
        expected: String,
    },
    /// A parameter has another number of elements than in the graph.
    #[error("parameter {name}: found {found} elements, expected {expected}")]
    ParameterSize {
        name: String,
        /// Elements given.
        found: usize,
        /// Its type in the graph.
        expected: String,
    },
    /// The graph has an input other than `ids` and `rows`.
    #[error("input {name}: expected ids or rows")]
    UnknownInput { name: String },
    /// An inconsistent batch, or one that does not match the state.
    #[error("batch: found {found}, expected {expected}")]
    Batch { found: String, expected: String },
    /// A token id, a row or an expert that does not exist.
    #[error("{op} in {source_name}: found index {index}, expected 0 … {limit} (exclusive)")]
    Index {
        /// The op that reads the index.
        op: &'static str,
        source_name: String,
        index: i32,
        limit: usize,
    },
    /// The state of a sequence has another type than in the graph.
    #[error("state {name} of sequence {sequence}: found {found}, expected {expected}")]
    StateShape {
        name: String,
        sequence: usize,
        /// Shape of what is there.
        found: String,
        /// The state's type in the graph.
        expected: String,
    },
    /// An operand of the wrong kind; impossible in a verified graph.
    #[error("{op} in {source_name}: operand {operand} is not {expected}")]
    Operand { op: &'static str, source_name: String, operand: usize, expected: &'static str },
}
