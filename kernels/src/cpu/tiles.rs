//! Rows times bf16 panels in AMX tiles. Inputs are rounded to bf16, sums are f32.
//!
//! ```text
//! even = Σ x[r, j] · weight[i, j]   of the even j of 32 inputs, in order, from 0; odd likewise
//! sum[r, i] = sum[r, i] + (even + odd)                              for each 32 inputs, in order
//! ```
//!
//! (TDPBF16PS: multiply-adds round once, to nearest; subnormal numbers count as zero.) One row and many rows use the same products.
//!
//! 1. round a block of rows ([`super::rounded`])
//! 2. for each block of inputs: interleave the pairs of inputs of two panels, in L1
//! 3. for each 32 rows: multiply
//! 4. `store`
//!
//! Up to 16 rows take steps 2 and 3 by 32 inputs of four panels at a time, so that products run while weights are read.
//!
//! Bound by memory for few rows, by loads of tiles from L2 for many.

use super::builder::{Buffer, Builder, Num, Range, TILE_BYTES, TILE_ROWS, TileDot, Value};
use super::product::{Product, Region, for_each_group};
use super::rounded::{Rounded, STEP};
use crate::kernel::LANES;

/// Inputs of a block.
const BLOCK: usize = 512;

/// Panels, and tiles of rows, that are multiplied side by side.
const ABREAST: usize = 2;

/// Prefetch distance of weights, in elements.
const AHEAD: usize = 2048;

/// Panels that are streamed side by side for up to 16 rows.
const STREAMS: usize = 4;

// The tiles: sums of each tile of rows and panel, rows, weights.
const SUMS: [[usize; ABREAST]; ABREAST] = [[0, 1], [2, 3]];
const X: [usize; ABREAST] = [4, 5];
const WEIGHTS: [usize; ABREAST] = [6, 7];

// The tiles where panels are streamed.
const STREAMED_SUMS: [usize; STREAMS] = [0, 1, 2, 3];
const STREAMED_X: usize = 4;
const STREAMED_WEIGHTS: [usize; 3] = [5, 6, 7];

/// Whether the stack holds enough rounded rows to fill tiles: with many inputs, it does not.
pub(super) fn fit(rounded: &Rounded) -> bool {
    rounded.capacity.is_multiple_of(TILE_ROWS)
}

/// Sums and stores a range of rows and a range of units.
pub(super) fn emit(b: &Builder, product: &Product, weight: Buffer, rounded: &Rounded, rows: Range, units: Range) {
    let sums = b.stack(Num::F32, &[STREAMS, rounded.capacity, LANES]);
    let pairs = b.stack(Num::Bf16, &[ABREAST, BLOCK * LANES]);
    let streamed = b.stack(Num::Bf16, &[STREAMS, STEP * LANES]);
    let tiles = Tiles { b, product, weight, rounded, sums, pairs, streamed };
    b.for_each(rows.start, rows.end, rounded.capacity, |row| {
        // 1. round
        let n_rows = (rows.end - row).min(rounded.capacity);
        b.for_each(0, n_rows, 1, |r| rounded.fill(b, product.x, (product.x_row)(row + r), r));

        b.with_tiles(
            |_| TILE_ROWS,
            |_| TILE_BYTES,
            || {
                let stream = || {
                    tiles.emit(row, n_rows, units, STREAMS, &|first, n_panels| tiles.stream(first, n_panels));
                    []
                };
                let blocks = || {
                    tiles.emit(row, n_rows, units, ABREAST, &|first, n_panels| tiles.sum(first, n_panels, n_rows));
                    []
                };
                b.if_else(n_rows.le(TILE_ROWS), stream, blocks);
            },
        );
    });
}

struct Tiles<'a, 'm> {
    b: &'a Builder<'m>,
    product: &'a Product<'a>,
    weight: Buffer,
    rounded: &'a Rounded,
    /// `[panels][rows][16]`.
    sums: Buffer,
    /// A block of inputs of each panel, `[panels][pairs][16][2]`.
    pairs: Buffer,
    /// A step of inputs of each panel that is streamed, `[panels][pairs][16][2]`.
    streamed: Buffer,
}

impl Tiles<'_, '_> {
    /// Sums and stores a block of rows and a range of units, `abreast` panels at a time; `sum` sums panels from a number on.
    fn emit(&self, row: Value, n_rows: Value, units: Range, abreast: usize, sum: &dyn Fn(Value, usize)) {
        let &Tiles { b, product, sums, .. } = self;
        let unit = product.unit;
        for_each_group(b, units, b.index(abreast / unit), |first_unit, n_units| {
            let finish = |first_unit: Value, n_panels: usize, n_units: Value| {
                sum(product.first_panel + first_unit * unit, n_panels);
                // 4. store
                let block = Region { row, n_rows, unit: first_unit, n_units };
                product.store_region(b, &block, |panel, r| b.load_vector(sums, (panel, r, 0), LANES));
            };
            let all = || {
                finish(first_unit, abreast, n_units);
                []
            };
            let one_by_one = || {
                b.for_each(0, n_units, 1, |u| finish(first_unit + u, unit, b.index(1)));
                []
            };
            if abreast == unit {
                all();
            } else {
                b.if_else((n_units * unit).eq(abreast), all, one_by_one);
            }
        });
    }

    /// The sums of up to 16 rows and of `n_panels` panels from number `first` on.
    fn stream(&self, first: Value, n_panels: usize) {
        let &Tiles { b, product: &Product { k, .. }, rounded, sums, .. } = self;
        let panels: Vec<Value> = (0..n_panels).map(|panel| (first + panel) * (k * LANES)).collect();
        STREAMED_SUMS[..n_panels].iter().for_each(|&tile| b.tile_zero(tile));
        let whole = k - k % STEP;
        b.for_each(0, whole, STEP, |input| self.stream_step(&panels, input, STEP));
        if whole < k {
            self.stream_step(&panels, b.index(whole), k - whole);
        }
        for (panel, &tile) in STREAMED_SUMS[..n_panels].iter().enumerate() {
            b.tile_store(tile, (sums, b.index(panel * rounded.capacity * TILE_BYTES)), TILE_BYTES);
        }
    }

    /// Adds the products of up to 32 inputs of panels that start at elements of the weights.
    fn stream_step(&self, panels: &[Value], input: Value, n_inputs: usize) {
        let &Tiles { b, weight, rounded, streamed, .. } = self;
        b.tile_load(STREAMED_X, (rounded.pairs, input * 2), rounded.stride());
        let zeros = b.splat_i32(0, LANES / 2).reinterpret(Num::Bf16);
        for (panel, &start) in panels.iter().enumerate() {
            for pair in (0..STEP).step_by(2) {
                let at = start + (input + pair) * LANES;
                if pair < n_inputs {
                    b.prefetch(weight, at + AHEAD);
                }
                let load = |j: usize| match pair + j < n_inputs {
                    true => b.load_vector(weight, at + j * LANES, LANES),
                    false => zeros,
                };
                b.store(load(0).interleave(load(1)), streamed, (panel, pair * LANES));
            }
            let tile = STREAMED_WEIGHTS[panel % STREAMED_WEIGHTS.len()];
            b.tile_load(tile, (streamed, b.index(panel * TILE_ROWS * TILE_BYTES)), TILE_BYTES);
            b.tile_dot(TileDot::Bf16, STREAMED_SUMS[panel], STREAMED_X, tile);
        }
    }

    /// The sums of all rows and of `n_panels` panels from number `first` on.
    fn sum(&self, first: Value, n_panels: usize, n_rows: Value) {
        let &Tiles { b, product, sums, .. } = self;
        b.for_each(0, n_rows, 1, |row| {
            (0..n_panels).for_each(|panel| b.store(b.splat(0.0, LANES), sums, (panel, row, 0)));
        });
        b.for_each(0, product.k, BLOCK, |input| {
            // 2. interleave
            let n_inputs = self.interleave(first, n_panels, input);
            // 3. multiply
            b.for_each(0, n_rows, ABREAST * TILE_ROWS, |row| {
                let both = || {
                    self.multiply(2, n_panels, [row, input, n_inputs]);
                    []
                };
                let one = || {
                    self.multiply(1, n_panels, [row, input, n_inputs]);
                    []
                };
                b.if_else((n_rows - row).gt(TILE_ROWS), both, one);
            });
        });
    }

    /// Interleaves a block of inputs of the panels; returns their number, a multiple of 32.
    fn interleave(&self, first: Value, n_panels: usize, input: Value) -> Value {
        let &Tiles { b, product: &Product { k, .. }, weight, pairs, .. } = self;
        let panels: Vec<Value> = (0..n_panels).map(|panel| (first + panel) * (k * LANES)).collect();
        let interleave = |low: Value, high: Value, panel: usize, at: Value| {
            b.store(low.interleave(high), pairs, (b.index(panel), at * LANES));
        };
        let whole = (input + BLOCK).min(k - k % 2);
        b.for_each(input, whole, 2, |j| {
            for (panel, &start) in panels.iter().enumerate() {
                let at = start + j * LANES;
                b.prefetch(weight, at + AHEAD);
                let [low, high] = [0, LANES].map(|offset| b.load_vector(weight, at + offset, LANES));
                interleave(low, high, panel, j - input);
            }
        });
        let end = (input + BLOCK).min(k.next_multiple_of(STEP));
        if !k.is_multiple_of(STEP) {
            let zeros = b.splat_i32(0, LANES / 2).reinterpret(Num::Bf16);
            b.if_(end.gt(k), || {
                for (panel, &start) in panels.iter().enumerate() {
                    if !k.is_multiple_of(2) {
                        let last = b.load_vector(weight, start + (k - 1) * LANES, LANES);
                        interleave(last, zeros, panel, (k - 1) - input);
                    }
                    b.for_each(k.next_multiple_of(2), end, 2, |j| interleave(zeros, zeros, panel, j - input));
                }
            });
        }
        end - input
    }

    /// Adds the products of a block of inputs with the tiles of rows from `row` on.
    fn multiply(&self, n_tiles: usize, n_panels: usize, [row, input, n_inputs]: [Value; 3]) {
        let &Tiles { b, rounded, sums, pairs, .. } = self;
        let each = |run: &dyn Fn(usize, (Buffer, Value))| {
            for (number, tiles) in SUMS[..n_tiles].iter().enumerate() {
                for (panel, &tile) in tiles[..n_panels].iter().enumerate() {
                    let row = row + (panel * rounded.capacity + number * TILE_ROWS);
                    run(tile, (sums, row * TILE_BYTES));
                }
            }
        };
        each(&|tile, at| b.tile_load(tile, at, TILE_BYTES));
        b.for_each(0, n_inputs, STEP, |step| {
            for (panel, &tile) in WEIGHTS[..n_panels].iter().enumerate() {
                b.tile_load(tile, (pairs, (step + panel * BLOCK) * (2 * LANES)), TILE_BYTES);
            }
            for (number, &tile) in X[..n_tiles].iter().enumerate() {
                let row = (row + number * TILE_ROWS) * rounded.stride();
                b.tile_load(tile, (rounded.pairs, row + (input + step) * 2), rounded.stride());
                for panel in 0..n_panels {
                    b.tile_dot(TileDot::Bf16, SUMS[number][panel], tile, WEIGHTS[panel]);
                }
            }
        });
        each(&|tile, at| b.tile_store(tile, at, TILE_BYTES));
    }
}
