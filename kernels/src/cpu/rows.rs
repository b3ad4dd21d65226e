//! The vectors of many rows, shared out over threads: what kernels that work element by element have in common.

use crate::cpu::builder::{Builder, Value};
use crate::kernel::{LANES, padded};

/// Runs `body(row, column)` for the vectors of `rows` rows of `cols` columns that are this thread's: a contiguous share, so
/// that one long row is shared too. A vector starts at `column`; the last one of a row may reach into its padding.
#[track_caller]
pub(crate) fn for_each_vector(b: &Builder, rows: Value, cols: usize, body: impl FnOnce(Value, Value)) {
    let per_row = b.index(padded(cols) / LANES);
    let (start, end) = b.thread_range(rows * per_row);
    b.for_each(start, end, 1, |vector| {
        body(vector / per_row, vector % per_row * LANES);
    });
}
