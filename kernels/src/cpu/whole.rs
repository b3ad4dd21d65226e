//! All rows times all panels, distributed over threads: [`crate::linear`] and its fusions.
//!
//! 1. distribute units of panels; rows if there are many rows and few units; both where rows are converted, so that fewer threads
//!    convert the same row
//! 2. norm, where the product reads the norm of a sum: each thread norms the rows that it multiplies, a block at a time
//! 3. sum ([`super::product`])
//!
//! Reads the slots `x`, `weight`, `rows`, and `scales` for formats that have them. With a norm, `a`, `b` and `norm` instead of `x`;
//! `sum` is written.

use super::builder::{Buffer, Builder, Num, Range, TILE_ROWS, Value};
use super::product::{self, STACK, Weights};
use super::rows::Row;
use crate::kernel::{Elem, padded};
use crate::rms_norm;

/// A product of all rows with all panels.
pub(crate) struct Product<'a> {
    /// Number of inputs.
    pub(crate) k: usize,
    /// Stored type of the weights.
    pub(crate) format: Elem,
    /// Added to the mean of squares, where x is the norm of the sum of `a` and `b`.
    pub(crate) norm: Option<f64>,
    /// Panels that are finished together.
    pub(crate) unit: usize,
    /// Number of units.
    pub(crate) n_units: usize,
    /// Stores the sums of a row and a unit: one vector per panel of the unit.
    pub(crate) store: &'a dyn Fn(Value, Value, &[Value]),
}

/// Sums and stores this thread's share.
pub(crate) fn emit(b: &Builder, product: &Product) {
    let &Product { k, format, norm, unit, n_units, store } = product;
    let weights = Weights::of(b, format, k);
    // 1. distribute
    let [rows, units] = if weights.in_tiles(b.target()) { share_blocks(b, n_units) } else { share(b, n_units) };
    let sum = |x: Buffer, rows: Range, store: &dyn Fn(Value, Value, &[Value])| {
        let x_row = |row| row;
        let product = product::Product { k, x, weights, first_panel: b.index(0), unit, x_row: &x_row, store };
        product.emit(b, rows, units);
    };
    let Some(eps) = norm else {
        // 3. sum
        return sum(b.buffer("x"), rows, store);
    };
    let capacity = (STACK / (4 * padded(k))).clamp(1, NORMED_ROWS);
    let capacity = if capacity < TILE_ROWS { capacity } else { capacity - capacity % TILE_ROWS };
    let normed = b.stack(Num::F32, &[capacity, padded(k)]);
    let has_first_unit = units.start.eq(0) & units.end.gt(0);
    b.for_each(rows.start, rows.end, capacity, |first| {
        let n_rows = (rows.end - first).min(capacity);
        // 2. norm
        b.for_each(0, n_rows, 1, |row| {
            rms_norm::cpu::of_sum(b, k, eps, first + row, Row { buffer: normed, row });
            b.if_(has_first_unit, || rms_norm::cpu::store_sum(b, k, first + row));
        });
        // 3. sum
        let all = Range { start: b.index(0), end: n_rows };
        sum(normed, all, &|row, unit, sums| store(first + row, unit, sums));
    });
}

/// Maximum number of rows that are normed at a time.
const NORMED_ROWS: usize = 64;

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
fn share_blocks(b: &Builder, n_units: usize) -> [Range; 2] {
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
