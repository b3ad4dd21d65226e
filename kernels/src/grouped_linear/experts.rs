//! The products of every expert with the rows of its slots, of any stored type: what the kernels of experts share.
//!
//! Each thread takes a range of units of panels of every expert, so that it reads those weights alone. Experts go in order,
//! those without slots are passed over.

use crate::cpu::builder::{Builder, Value};
use crate::cpu::integer::{self, weights::Weights};
use crate::cpu::panel::{self, Range};
use crate::kernel::Elem;

/// A product with each expert's weights.
pub(crate) struct Products<'a> {
    /// Experts.
    pub(crate) n_experts: usize,
    /// Inputs.
    pub(crate) k: usize,
    /// Stored type of the weights.
    pub(crate) format: Elem,
    /// Panels that are finished together: 1, or 2 where two matrices are interleaved.
    pub(crate) unit: usize,
    /// Units of an expert.
    pub(crate) n_units: usize,
    /// The row of x that a slot reads.
    pub(crate) x_row: &'a dyn Fn(Value) -> Value,
    /// What becomes of finished sums: of a slot and a unit, a vector for each panel of the unit.
    pub(crate) store: &'a dyn Fn(Value, Value, &[Value]),
}

/// This thread's units.
pub(crate) fn share(b: &Builder, n_units: usize) -> Range {
    b.thread_range(n_units)
}

/// Sums and stores a range of units of every expert; reads the buffers `x`, `weight`, `scales`, `slots` and `offsets`.
pub(crate) fn emit(b: &Builder, products: &Products, units: Range) {
    let &Products { n_experts, k, format, unit, n_units, .. } = products;
    let slot = |row: Value| b.load(b.buffer("slots"), &[row]).to_index();
    let offset = |expert: Value| b.load(b.buffer("offsets"), &[expert]).to_index();
    let x = b.buffer("x");
    let x_row = |row: Value| (products.x_row)(slot(row));
    let store = |row: Value, unit: Value, sums: &[Value]| (products.store)(slot(row), unit, sums);
    b.for_each(0, n_experts, 1, |expert| {
        let rows = (offset(expert), offset(expert + 1));
        let first_panel = expert * (n_units * unit);
        if let Some(weights) = Weights::of(b, format, k) {
            let product = integer::product::Product { weights, x, first_panel, unit, x_row: &x_row, store: &store };
            integer::product::emit(b, &product, rows, units);
        } else {
            let weight = b.buffer("weight");
            let product = panel::Product { k, x, weight, first_panel, unit, x_row: &x_row, store: &store };
            panel::emit(b, &product, rows, units);
        }
    });
}
