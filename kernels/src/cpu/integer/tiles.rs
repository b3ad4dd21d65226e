//! Many rows times integer panels in AMX tiles, whose instructions multiply bytes: an input's 16 bits q are two of them,
//!
//! ```text
//! q = 256 · h + l                      h = q >> 8, signed; l = q & 255, unsigned
//! Σ w · q = 256 · Σ w · h + Σ w · l
//! ```
//!
//! exactly, so that the sums have the bits of the other levels.
//!
//! 1. quantize the block of rows ([`super::quantize`]): of each group the bytes h, then the bytes l
//! 2. for each group of inputs: unpack up to two panels to rows of four inputs of 16 outputs, which stay in L1
//! 3. for each 16 rows: multiply; add to the f32 sums
//!
//! Bound by the conversion and addition of a group's sums, which take longer than its products.

use super::activation_group;
use super::quantize::{Form, Rows};
use super::weights::Integers;
use crate::cpu::builder::{Buffer, Builder, Num, Range, TILE_BYTES, TILE_ROWS, TileDot, Value};
use crate::cpu::product::{Product, Region, for_each_group};
use crate::kernel::LANES;

/// Up to this many rows, the weights are streamed instead: a tile of 8 rows takes 1.4 times as long.
pub(super) const FEW: usize = 8;

/// Panels side by side: they share the loads of rows.
pub(super) const PANELS: usize = 2;

/// Inputs in a row of four inputs of 16 outputs.
const QUAD: usize = 4;

// The tiles. Two panels and their sums of h and of l.
const SUMS: [[usize; 2]; PANELS] = [[0, 1], [2, 3]];
const X: [usize; 2] = [4, 5];
const WEIGHTS: [usize; PANELS] = [6, 7];

/// A product of many rows.
pub(super) struct Tiles<'a, 'm> {
    b: &'a Builder<'m>,
    product: &'a Product<'a>,
    weights: &'a Integers,
    quantized: &'a Rows,
    /// `[panels][rows][16]`.
    sums: Buffer,
    /// A group of each panel, `[panels][group / 4][16][4]` bytes.
    unpacked: Buffer,
    /// Sums of a group: `[panels · (h, l)][rows of a tile][16]`.
    products: Buffer,
}

impl<'a, 'm> Tiles<'a, 'm> {
    /// `None` on levels without tiles, and if the stack holds too few rows for a tile.
    pub(super) fn new(
        b: &'a Builder<'m>,
        product: &'a Product<'a>,
        weights: &'a Integers,
        quantized: &'a Rows,
        sums: Buffer,
    ) -> Option<Self> {
        (b.target().has_tiles() && quantized.capacity.is_multiple_of(TILE_ROWS)).then(|| {
            let unpacked = b.stack(Num::I8, &[PANELS * activation_group(weights.format) * LANES]);
            let products = b.stack(Num::I32, &[PANELS * 2, TILE_ROWS, LANES]);
            Tiles { b, product, weights, quantized, sums, unpacked, products }
        })
    }

    fn group(&self) -> usize {
        activation_group(self.weights.format)
    }

    /// Inputs of a product of tiles.
    fn step(&self) -> usize {
        self.group().min(TILE_BYTES)
    }

    /// Sums and stores a block of rows and a range of units.
    pub(super) fn emit(&self, row: Value, n_rows: Value, units: Range) {
        let &Tiles { b, product, weights, quantized, sums, .. } = self;
        let unit = product.unit;
        // 1. quantize
        b.for_each(0, n_rows, 1, |r| quantized.fill(b, product.x, (product.x_row)(row + r), r, Form::Bytes));

        let rows = |tile| if WEIGHTS.contains(&tile) { self.step() / QUAD } else { TILE_ROWS };
        let bytes = |tile| if X.contains(&tile) { self.step() } else { TILE_BYTES };
        b.with_tiles(rows, bytes, || {
            for_each_group(b, units, b.index((PANELS / unit).max(1)), |first_unit, n_units| {
                let first = product.first_panel + first_unit * unit;
                let two = || {
                    self.sum(first, 2, n_rows);
                    []
                };
                let one = || {
                    self.sum(first, 1, n_rows);
                    []
                };
                b.if_else((n_units * unit).eq(PANELS), two, one);
                let block = Region { row, n_rows, unit: first_unit, n_units };
                product.store_region(b, &block, |panel, r| {
                    weights.scale_channels(b, first + panel, b.load_vector(sums, (panel, r, 0), LANES))
                });
            });
        });
    }

    /// The f32 sums of all rows and of `n_panels` panels from number `first` on.
    fn sum(&self, first: Value, n_panels: usize, n_rows: Value) {
        let &Tiles { b, weights, quantized, sums, .. } = self;
        let panels: Vec<Value> = (0..n_panels).map(|panel| first + panel).collect();
        b.for_each(0, n_rows, 1, |row| {
            (0..n_panels).for_each(|panel| b.store(b.splat(0.0, LANES), sums, (panel, row, 0)));
        });
        b.for_each(0, weights.n_groups(), 1, |group| {
            // 2. unpack
            let n_inputs = self.unpack(&panels, group);
            let of_weights: Vec<_> = panels.iter().map(|&panel| weights.group_scales(b, panel, group)).collect();
            b.for_each(0, n_rows, TILE_ROWS, |first_row| {
                // 3. multiply
                self.multiply(n_panels, n_inputs, group, first_row);
                let end = n_rows.min(first_row + TILE_ROWS);
                b.for_each(first_row, end, 1, |row| {
                    let of_row = b.load(quantized.scales, (group, row)).broadcast(LANES);
                    for (panel, of_weights) in of_weights.iter().enumerate() {
                        let [h, l] = [0, 1].map(|half| {
                            b.load_vector(
                                self.products,
                                (b.index(panel * 2 + half), row - first_row, b.index(0)),
                                LANES,
                            )
                        });
                        let scale = of_weights.as_ref().map_or(of_row, |of_weights| of_row * of_weights[0]);
                        let sum = b.load_vector(sums, (panel, row, 0), LANES);
                        b.store(((h << 8) + l).to_f32().mul_add(scale, sum), sums, (panel, row, 0));
                    }
                });
            });
        });
    }

    /// Products of a group of 16 rows with the unpacked panels.
    fn multiply(&self, n_panels: usize, n_inputs: Value, group: Value, first_row: Value) {
        let &Tiles { b, quantized, unpacked, products, .. } = self;
        SUMS[..n_panels].iter().flatten().for_each(|&tile| b.tile_zero(tile));
        let stride = 2 * self.group();
        let row = (group * quantized.capacity + first_row) * stride;
        b.for_each(0, n_inputs, self.step(), |input| {
            for (half, tile) in X.into_iter().enumerate() {
                b.tile_load(tile, (quantized.pairs, row + input + half * self.group()), stride);
            }
            for panel in 0..n_panels {
                let weights = WEIGHTS[panel];
                b.tile_load(weights, (unpacked, input * LANES + panel * self.group() * LANES), TILE_BYTES);
                for (half, dot) in [TileDot::Signed, TileDot::Unsigned].into_iter().enumerate() {
                    b.tile_dot(dot, SUMS[panel][half], X[half], weights);
                }
            }
        });
        for (number, &tile) in SUMS[..n_panels].iter().flatten().enumerate() {
            b.tile_store(tile, (products, b.index(number * TILE_ROWS * TILE_BYTES)), TILE_BYTES);
        }
    }

    /// Unpacks a group of panels; returns the number of its inputs, a multiple of 32. Zeros follow up to a whole step.
    fn unpack(&self, panels: &[Value], group: Value) -> Value {
        let &Tiles { b, weights, unpacked, .. } = self;
        let chunks = weights.group_chunks(group);
        for (number, &panel) in panels.iter().enumerate() {
            let to = number * self.group() * LANES;
            if !(weights.chunks() * weights.chunk_inputs()).is_multiple_of(self.step()) {
                let zeros = b.splat_i32(0, TILE_BYTES / 4).reinterpret(Num::I8);
                (0..self.group() * LANES).step_by(TILE_BYTES).for_each(|at| b.store(zeros, unpacked, to + at));
            }
            let start = weights.panel(panel);
            b.for_each_in(chunks, |chunk| {
                let at = start + chunk * weights.chunk_bytes();
                let first = (chunk - chunks.start) * (weights.chunk_inputs() * LANES) + to;
                let parts = 0..weights.parts().len();
                let pairs: Vec<Value> = parts.flat_map(|part| weights.load_part(b, at, part)).flatten().collect();
                for (quad, pairs) in pairs.chunks_exact(2).enumerate() {
                    let [low, high] = [pairs[0], pairs[1]].map(|pair| pair.to_i8().reinterpret(Num::I16));
                    b.store(low.interleave(high).reinterpret(Num::I8), unpacked, first + quad * TILE_BYTES);
                }
            });
        }
        chunks.count() * weights.chunk_inputs()
    }
}
