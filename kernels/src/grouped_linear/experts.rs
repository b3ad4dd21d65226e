//! The products of each expert with the rows of its slots, for any stored type.
//!
//! Each thread processes a range of panel units of every expert, so that only this thread reads those weights. Experts are
//! processed in order; experts without slots are skipped.

use crate::cpu::builder::{Builder, Range, Value};
use crate::cpu::product::{Product, Weights};
use crate::kernel::Elem;

/// Products with the weights of all experts.
pub(crate) struct Products<'a> {
    /// Number of experts.
    pub(crate) n_experts: usize,
    /// Number of inputs.
    pub(crate) k: usize,
    /// Stored type of the weights.
    pub(crate) format: Elem,
    /// Panels that are finished together: 1, or 2 for two interleaved matrices.
    pub(crate) unit: usize,
    /// Units per expert.
    pub(crate) n_units: usize,
    /// Maps a slot to the row of x that it reads.
    pub(crate) x_row: &'a dyn Fn(Value) -> Value,
    /// Stores the finished sums of a slot and a unit, one vector per panel of the unit.
    pub(crate) store: &'a dyn Fn(Value, Value, &[Value]),
}

/// Sums and stores a range of units of every expert; reads the buffers `x`, `weight`, `scales`, `slots` and `offsets`.
pub(crate) fn emit(b: &Builder, products: &Products, units: Range) {
    let &Products { n_experts, k, format, unit, n_units, .. } = products;
    let slot = |row: Value| b.load(b.buffer("slots"), row).to_index();
    let offset = |expert: Value| b.load(b.buffer("offsets"), expert).to_index();
    let (x, weights) = (b.buffer("x"), Weights::of(b, format, k));
    let x_row = |row: Value| (products.x_row)(slot(row));
    let store = |row: Value, unit: Value, sums: &[Value]| (products.store)(slot(row), unit, sums);
    b.for_each(0, n_experts, 1, |expert| {
        let rows = Range { start: offset(expert), end: offset(expert + 1) };
        let first_panel = expert * (n_units * unit);
        let product = Product { k, x, weights, first_panel, unit, x_row: &x_row, store: &store };
        product.emit(b, rows, units);
    });
}
