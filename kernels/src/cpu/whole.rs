//! Every row with every panel, shared out among threads: what [`crate::linear`] and its fusions are.
//!
//! 1. share out units of panels, or rows where there are many of them and units are scarce
//! 2. sum, in floats ([`super::panel`]) or in integers ([`super::integer`])
//!
//! Reads the slots `x`, `weight`, `rows`, and `scales` where the format has them.

use super::integer::{self, weights::Weights};
use super::panel::{self, Range};
use crate::cpu::builder::{Builder, Value};
use crate::kernel::Elem;

/// A product of all rows and all panels.
pub(crate) struct Product<'a> {
    /// Inputs.
    pub(crate) k: usize,
    /// Stored type of the weights.
    pub(crate) format: Elem,
    /// Panels that are finished together.
    pub(crate) unit: usize,
    /// Such units.
    pub(crate) n_units: usize,
    /// Takes the sums of a row and a unit: a vector for each panel of the unit.
    pub(crate) store: &'a dyn Fn(Value, Value, &[Value]),
}

/// Sums and stores this thread's share.
pub(crate) fn emit(b: &Builder, product: &Product) {
    let &Product { k, format, unit, n_units, store } = product;
    // 1. share out
    let (rows, units) = share(b, n_units);

    // 2. sum
    let (x, first_panel) = (b.buffer("x"), b.index(0));
    if let Some(weights) = Weights::of(b, format, k) {
        let product = integer::product::Product { weights, x, first_panel, unit, x_row: &|row| row, store };
        return integer::product::emit(b, &product, rows, units);
    }
    let weight = b.buffer("weight");
    let product = panel::Product { k, x, weight, first_panel, unit, x_row: &|row| row, store };
    panel::emit(b, &product, rows, units);
}

/// This thread's rows and units.
fn share(b: &Builder, n_units: usize) -> (Range, Range) {
    let rows = b.scalar("rows");
    let everything = [b.index(0), rows, b.index(0), b.index(n_units)];
    let share_units = || {
        let (start, end) = b.thread_range(everything[3]);
        [everything[0], rows, start, end]
    };
    let share_rows = || {
        let (start, end) = b.thread_range(rows);
        [start, end, everything[2], everything[3]]
    };
    let [first_row, end_row, first_unit, end_unit] = if n_units < 8 {
        let many = rows.ge(b.n_threads() * 8);
        b.if_else(many, share_rows, share_units)
    } else {
        share_units()
    };
    ((first_row, end_row), (first_unit, end_unit))
}
