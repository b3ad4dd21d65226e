//! Access to rows of buffers: vectors of one row, and the vectors of many rows distributed over threads.

use crate::cpu::builder::{Buffer, Builder, Value};
use crate::kernel::{LANES, padded};

/// A row of a buffer.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) buffer: Buffer,
    pub(crate) row: Value,
}

impl Row {
    #[track_caller]
    pub(crate) fn element(self, b: &Builder, column: Value) -> Value {
        b.load(self.buffer, (self.row, column))
    }

    /// The vector that starts at a column.
    #[track_caller]
    pub(crate) fn vector(self, b: &Builder, column: Value) -> Value {
        b.load_vector(self.buffer, (self.row, column), LANES)
    }

    /// Stores a vector, starting at a column.
    #[track_caller]
    pub(crate) fn store(self, b: &Builder, x: Value, column: Value) {
        b.store(x, self.buffer, (self.row, column));
    }
}

/// Runs `body(row, column)` for this thread's share of the vectors of `rows` rows with `cols` columns; a single long row is
/// distributed too. A vector starts at `column`; the last vector of a row may extend into its padding.
#[track_caller]
pub(crate) fn for_each_vector(b: &Builder, rows: Value, cols: usize, body: impl FnOnce(Value, Value)) {
    let per_row = padded(cols) / LANES;
    b.parallel_for(rows * per_row, |vector| {
        body(vector / per_row, vector % per_row * LANES);
    });
}
