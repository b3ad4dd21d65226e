//! Rows of x rounded to bf16, ties to even, in a stack array private to a thread.

use super::builder::{Buffer, Builder, Num, Value};
use super::product::rows_on_stack;
use crate::kernel::LANES;

/// Inputs that a tile multiplies at a time; rows are padded with zeros to a multiple of it.
pub(super) const STEP: usize = 32;

/// Rounded rows.
pub(super) struct Rounded {
    /// Pairs of inputs, `[capacity][padded k / 2]`.
    pub(super) pairs: Buffer,
    /// Maximum number of rows.
    pub(super) capacity: usize,
    k: usize,
}

impl Rounded {
    /// Allocates for as many rows of `k` inputs as fit: a multiple of `multiple` or less than it, at least one.
    pub(super) fn new(b: &Builder, k: usize, multiple: usize) -> Rounded {
        let in_row = 2 * k.next_multiple_of(STEP);
        let capacity = rows_on_stack(b.target(), in_row, 4 * multiple, multiple);
        Rounded { pairs: b.stack(Num::I32, &[capacity, in_row / 4]), capacity, k }
    }

    /// Bytes from one row to the next.
    pub(super) fn stride(&self) -> usize {
        2 * self.k.next_multiple_of(STEP)
    }

    /// Rounds row `from` of x into row `to`.
    pub(super) fn fill(&self, b: &Builder, x: Buffer, from: Value, to: Value) {
        let store =
            |value: Value, column: Value| b.store(value.to_bf16().reinterpret(Num::I32), self.pairs, (to, column / 2));
        let whole = self.k - self.k % LANES;
        b.for_each(0, whole, LANES, |column| store(b.load_vector(x, (from, column), LANES), column));
        let zeros = b.splat(0.0, LANES);
        for column in (whole..self.k.next_multiple_of(STEP)).step_by(LANES) {
            // Lanes beyond the last column are unspecified.
            let value = match self.k.saturating_sub(column) {
                0 => zeros,
                rest => b.iota(LANES).lt(rest).select(b.load_vector(x, (from, column), LANES), zeros),
            };
            store(value, b.index(column));
        }
    }
}
