//! Rows times panels of packed weights: the frame of [`crate::linear`], its fusions and [`crate::grouped_linear`], around
//! [`panel`] for floats and [`integer::product`] for integers.
//!
//! Rows come in blocks, units of panels in groups; finished sums go to `store`, which is one piece of code however many
//! kinds of tiles there are.

use super::builder::{Buffer, Builder, Range, Value};
use super::integer::{self, weights::Integers};
use super::panel;
use crate::kernel::{Elem, LANES, padded};

/// A product of rows and panels.
pub(crate) struct Product<'a> {
    /// Inputs.
    pub(crate) k: usize,
    /// Rows of x.
    pub(crate) x: Buffer,
    pub(crate) weights: Weights,
    /// Number of the matrix's first panel among all panels of `weights`.
    pub(crate) first_panel: Value,
    /// Panels that are finished together: 1, or 2 where two matrices are interleaved. Panels number `unit · u` and those
    /// after it are unit u.
    pub(crate) unit: usize,
    /// The row of x that row number r reads.
    pub(crate) x_row: &'a dyn Fn(Value) -> Value,
    /// Takes the finished sums of a row and a unit, a vector for each panel of the unit.
    pub(crate) store: &'a dyn Fn(Value, Value, &[Value]),
}

/// Packed weights.
#[derive(Clone, Copy)]
pub(crate) enum Weights {
    /// Panels `[k][16]` of f32, bf16 or f16.
    Floats(Buffer),
    Integers(Integers),
}

impl Weights {
    /// The kernel's slot `weight`, with the slot `scales` where the format is one of integers.
    pub(crate) fn of(b: &Builder, format: Elem, k: usize) -> Weights {
        Integers::of(b, format, k).map_or_else(|| Weights::Floats(b.buffer("weight")), Weights::Integers)
    }
}

/// Some rows and units of a product.
pub(super) struct Region {
    /// The first row.
    pub(super) row: Value,
    pub(super) n_rows: Value,
    /// The first unit.
    pub(super) unit: Value,
    pub(super) n_units: Value,
}

impl Product<'_> {
    /// Sums and stores a range of rows and a range of units.
    pub(crate) fn emit(&self, b: &Builder, rows: Range, units: Range) {
        match &self.weights {
            Weights::Floats(weight) => panel::emit(b, self, *weight, rows, units),
            Weights::Integers(weights) => integer::product::emit(b, self, weights, rows, units),
        }
    }

    /// Calls `store` for a region; `load` gives the sums of a panel and a row, both counted from the region's first.
    pub(super) fn store_region(&self, b: &Builder, region: &Region, load: impl Fn(Value, Value) -> Value) {
        b.for_each(0, region.n_units, 1, |u| {
            b.for_each(0, region.n_rows, 1, |r| {
                let sums: Vec<Value> = (0..self.unit).map(|p| load(u * self.unit + p, r)).collect();
                (self.store)(region.row + r, region.unit + u, &sums);
            });
        });
    }
}

/// Calls `body` for groups of `abreast` units, the last one smaller, with the group's first unit and their number.
pub(super) fn for_each_group(b: &Builder, units: Range, abreast: Value, body: impl FnOnce(Value, Value)) {
    b.for_each(0, units.count().div_ceil(abreast), 1, |group| {
        let unit = units.start + group * abreast;
        body(unit, abreast.min(units.end - unit));
    });
}

/// Units side by side: `units(n)` where there are n of the `listed` numbers of rows, else 1.
pub(super) fn abreast(
    b: &Builder,
    n_rows: Value,
    listed: impl Iterator<Item = usize>,
    units: impl Fn(usize) -> usize,
) -> Value {
    listed.fold(b.index(1), |abreast, n| n_rows.eq(n).select(units(n), abreast))
}

/// Panels of a matrix of n outputs.
pub(crate) fn n_panels(n: usize) -> usize {
    padded(n) / LANES
}
