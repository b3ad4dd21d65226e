//! All rows times all panels, distributed over threads: [`crate::linear`] and its fusions.
//!
//! 1. distribute units of panels; rows if there are many rows and few units; both where rows are converted, so that fewer threads
//!    convert the same row
//! 2. sum ([`super::product`])
//!
//! Reads the slots `x`, `weight`, `rows`, and `scales` for formats that have them.

use super::builder::{Builder, Range, TILE_ROWS, Value};
use super::product::{self, Weights};
use crate::kernel::Elem;

/// A product of all rows with all panels.
pub(crate) struct Product<'a> {
    /// Number of inputs.
    pub(crate) k: usize,
    /// Stored type of the weights.
    pub(crate) format: Elem,
    /// Panels that are finished together.
    pub(crate) unit: usize,
    /// Number of units.
    pub(crate) n_units: usize,
    /// Stores the sums of a row and a unit: one vector per panel of the unit.
    pub(crate) store: &'a dyn Fn(Value, Value, &[Value]),
}

/// Sums and stores this thread's share.
pub(crate) fn emit(b: &Builder, product: &Product) {
    let &Product { k, format, unit, n_units, store } = product;
    // 1. distribute
    let is_integer = matches!(format, Elem::I8 | Elem::I4 | Elem::I3);
    let converts = b.target().has_tiles() && (is_integer || format == Elem::Bf16 && b.target().rounds_inputs());
    let [rows, units] = if converts { share_both(b, n_units) } else { share(b, n_units) };
    // 2. sum
    let weights = Weights::of(b, format, k);
    let x_row = |row| row;
    let product =
        product::Product { k, x: b.buffer("x"), weights, first_panel: b.index(0), unit, x_row: &x_row, store };
    product.emit(b, rows, units);
}

/// This thread's rows and units.
fn share(b: &Builder, n_units: usize) -> [Range; 2] {
    let n_rows = b.scalar("rows");
    let all = |n: Value| Range { start: b.index(0), end: n };
    let values = |rows: Range, units: Range| [rows.start, rows.end, units.start, units.end];
    let share_units = || values(all(n_rows), b.thread_range(n_units));
    let share_rows = || values(b.thread_range(n_rows), all(b.index(n_units)));
    let [first_row, end_row, first_unit, end_unit] =
        if n_units < 8 { b.if_else(n_rows.ge(b.n_threads() * 8), share_rows, share_units) } else { share_units() };
    [Range { start: first_row, end: end_row }, Range { start: first_unit, end: end_unit }]
}

/// Rows of a block: fewer would read and unpack the weights too often.
const BLOCK_ROWS: usize = 64;

/// This thread's block of rows, and its units among the threads that share the block.
fn share_both(b: &Builder, n_units: usize) -> [Range; 2] {
    let (n_rows, n_threads) = (b.scalar("rows"), b.n_threads());
    let divides = |n: usize| (n_threads % n).eq(0) & n_rows.ge(n * BLOCK_ROWS);
    let n_blocks = [2, 4, 8, 16].into_iter().fold(b.index(1), |blocks, n| divides(n).select(n, blocks));
    let range = |part: Value, share: Value, n: Value| {
        let start = (share * part).min(n);
        Range { start, end: (start + share).min(n) }
    };
    let in_block = n_rows.div_ceil(n_blocks).div_ceil(TILE_ROWS) * TILE_ROWS;
    let n_units = b.index(n_units);
    let in_part = n_units.div_ceil(n_threads / n_blocks);
    [range(b.thread() % n_blocks, in_block, n_rows), range(b.thread() / n_blocks, in_part, n_units)]
}
