//! All rows times all panels, distributed over threads: [`crate::linear`] and its fusions.
//!
//! 1. distribute units of panels, or rows if there are many rows and few units
//! 2. sum ([`super::product`])
//!
//! Reads the slots `x`, `weight`, `rows`, and `scales` for formats that have them.

use super::builder::{Builder, Range, Value};
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
    let [rows, units] = share(b, n_units);
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
