//! Rows times panels of packed weights: the shared loop of [`crate::linear`], its fusions and [`crate::grouped_linear`],
//! which calls [`panel`] for floats and [`integer::product`] for integers.
//!
//! Rows are processed in blocks, units of panels in groups. Finished sums go to `store`, which is emitted once for all
//! kinds of tiles.

use super::builder::{Buffer, Builder, Num, Range, TILE_ROWS, Value};
use super::integer::{self, weights::Integers};
use super::panel;
use crate::kernel::{Elem, LANES, padded};
use crate::target::CpuTarget;

/// Bytes of the stack for converted rows, unless a single row takes more: a quarter of a thread's stack.
pub(super) const STACK: usize = 512 << 10;

/// Bytes of the stack for the rows of one tile: half of a thread's stack.
const TILE_STACK: usize = 1 << 20;

/// A product of rows and panels.
pub(crate) struct Product<'a> {
    /// Number of inputs.
    pub(crate) k: usize,
    /// Rows of x.
    pub(crate) x: Buffer,
    pub(crate) weights: Weights,
    /// Index of the matrix's first panel in `weights`.
    pub(crate) first_panel: Value,
    /// Panels that are finished together: 1, or 2 for two interleaved matrices. Unit u consists of the panels `unit · u`
    /// and following.
    pub(crate) unit: usize,
    /// Maps a row number to the row of x that it reads.
    pub(crate) x_row: &'a dyn Fn(Value) -> Value,
    /// Stores the finished sums of a row and a unit, one vector per panel of the unit.
    pub(crate) store: &'a dyn Fn(Value, Value, &[Value]),
}

/// Packed weights.
#[derive(Clone, Copy)]
pub(crate) enum Weights {
    /// Panels `[k][16]` of f32, bf16 or f16.
    Floats(Buffer),
    /// Panels `[k][16]` of fp8, and scales, `[ceil(k / 128)][16]` for each panel.
    Scaled(Buffer, Buffer),
    Integers(Integers),
}

impl Weights {
    /// The slot `weight`, and for formats with scales the slot `scales`.
    pub(crate) fn of(b: &Builder, format: Elem, k: usize) -> Weights {
        if format == Elem::F8 {
            return Weights::Scaled(b.buffer("weight"), b.buffer("scales"));
        }
        Integers::of(b, format, k).map_or_else(|| Weights::Floats(b.buffer("weight")), Weights::Integers)
    }

    /// Whether many rows are converted and multiplied in tiles.
    pub(super) fn in_tiles(&self, target: CpuTarget) -> bool {
        let converts = match self {
            Weights::Floats(weight) => rounds_inputs(target, *weight),
            Weights::Scaled(..) => false,
            Weights::Integers(_) => true,
        };
        target.has_tiles() && converts
    }
}

/// Whether a target rounds the inputs of these float panels to bf16.
pub(super) fn rounds_inputs(target: CpuTarget, weight: Buffer) -> bool {
    target.rounds_inputs() && weight.num() == Num::Bf16
}

/// A block of converted rows has a multiple of this number of rows, or fewer rows than it if the stack does not hold as many.
pub(super) fn rows_multiple(target: CpuTarget, in_tile: usize) -> usize {
    if target.has_tiles() { TILE_ROWS } else { in_tile }
}

/// Rows in a block of converted rows of `in_row` bytes: from 1 to `most`, a multiple of `multiple` or fewer than it.
pub(super) fn rows_on_stack(target: CpuTarget, in_row: usize, most: usize, multiple: usize) -> usize {
    match (STACK / in_row).clamp(1, most) {
        few if few < TILE_ROWS && target.has_tiles() && TILE_ROWS * in_row <= TILE_STACK => TILE_ROWS,
        few if few < multiple => few,
        fitting => fitting - fitting % multiple,
    }
}

/// A range of rows and units of a product.
pub(super) struct Region {
    pub(super) row: Value,
    pub(super) n_rows: Value,
    pub(super) unit: Value,
    pub(super) n_units: Value,
}

impl Product<'_> {
    /// Sums and stores a range of rows and a range of units.
    pub(crate) fn emit(&self, b: &Builder, rows: Range, units: Range) {
        match &self.weights {
            Weights::Floats(weight) => panel::emit(b, self, (*weight, None), rows, units),
            Weights::Scaled(weight, scales) => panel::emit(b, self, (*weight, Some(*scales)), rows, units),
            Weights::Integers(weights) => integer::product::emit(b, self, weights, rows, units),
        }
    }

    /// Calls `store` for a region; `load` returns the sums of a panel and a row, both relative to the region's first.
    pub(super) fn store_region(&self, b: &Builder, region: &Region, load: impl Fn(Value, Value) -> Value) {
        b.for_each(0, region.n_units, 1, |u| {
            b.for_each(0, region.n_rows, 1, |r| {
                let sums: Vec<Value> = (0..self.unit).map(|p| load(u * self.unit + p, r)).collect();
                (self.store)(region.row + r, region.unit + u, &sums);
            });
        });
    }
}

/// Calls `body` with the first unit and the number of units of each group; groups have `abreast` units, the last may have
/// fewer.
pub(super) fn for_each_group(b: &Builder, units: Range, abreast: Value, body: impl FnOnce(Value, Value)) {
    b.for_each(0, units.count().div_ceil(abreast), 1, |group| {
        let unit = units.start + group * abreast;
        body(unit, abreast.min(units.end - unit));
    });
}

/// Units side by side: `units(n)` if the number of rows is a `listed` n, else 1.
pub(super) fn abreast(
    b: &Builder,
    n_rows: Value,
    listed: impl Iterator<Item = usize>,
    units: impl Fn(usize) -> usize,
) -> Value {
    listed.fold(b.index(1), |abreast, n| n_rows.eq(n).select(units(n), abreast))
}

/// Panels of a matrix with n outputs.
pub(crate) fn n_panels(n: usize) -> usize {
    padded(n) / LANES
}
