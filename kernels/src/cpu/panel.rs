//! Rows times panels of packed weights: what [`crate::linear`], its fusions and [`crate::grouped_linear`] share.
//!
//!     sum[r, i] = fma(x[r, j], weight[i, j], sum[r, i])      for j = 0 … k − 1
//!
//! Every sum runs over j from 0 on in f32, alone in its lane: how rows and panels are cut into tiles decides which sums run
//! side by side, never what one is made of.
//!
//! Few rows: tiles of all rows and so many panels that multiply-adds hide each other's latency; the weights stream past
//! once. Many rows: blocks of x that stay in the cache, under which panel after panel passes; a panel stays in the
//! second-level cache while the block's tiles pass in their turn. (Cutting the inputs too, so that a panel's piece stays in
//! the first level, was slower for every k from 2560 to 14336.)
//!
//! 1. for each block of rows, and each group of panels
//! 2. for each tile of the block's rows: sum in registers, put the sums on the stack
//! 3. hand them to `store`, which is one piece of code however many kinds of tiles there are

use crate::cpu::builder::{Buffer, Builder, Num, Value};
use crate::kernel::{LANES, padded};
use crate::target::CpuTarget;

/// Bytes of a block of x: a core's share of the last-level cache. Of 0.1 to 12 MB the fastest for every k.
const BLOCK_BYTES: usize = 3 << 19;

/// How far ahead of its use a weight is fetched, in elements. The hardware's prefetcher stops at each page of 4 KiB, which
/// costs a single stream a third of the bandwidth; several streams cover for one another.
const AHEAD: usize = 1024;

/// A product of rows and panels.
pub(crate) struct Product<'a> {
    /// Inputs.
    pub(crate) k: usize,
    /// Rows of x.
    pub(crate) x: Buffer,
    /// Packed weights.
    pub(crate) weight: Buffer,
    /// Number of the matrix's first panel among all panels in `weight`.
    pub(crate) first_panel: Value,
    /// Panels that are finished together: 1, or 2 where two matrices are interleaved. Panels number `unit · u` and those
    /// after it are unit u.
    pub(crate) unit: usize,
    /// The row of x that row number r reads.
    pub(crate) x_row: &'a dyn Fn(Value) -> Value,
    /// What becomes of finished sums: of a row and a unit, a vector for each panel of the unit.
    pub(crate) store: &'a dyn Fn(Value, Value, &[Value]),
}

/// A range of indices.
pub(crate) type Range = (Value, Value);

/// Sums and stores a range of rows and a range of units.
pub(crate) fn emit(b: &Builder, product: &Product, rows: Range, units: Range) {
    let target = b.target();
    let in_tile = rows_in_tile(target);
    let scratch = b.stack(Num::F32, &[in_tile, units_in_tile(target, 1, product.unit) * product.unit, LANES]);
    let in_block = (BLOCK_BYTES / (4 * product.k)).next_multiple_of(in_tile);

    // 1. blocks and groups
    b.for_each(rows.0, rows.1, in_block, |first| {
        let end = (first + in_block).min(rows.1);
        let n_rows = end - first;
        let abreast = abreast(b, product, n_rows);
        let n_groups = (units.1 - units.0).div_ceil(abreast);
        b.for_each(0, n_groups, 1, |group| {
            let unit = units.0 + group * abreast;
            let n_units = abreast.min(units.1 - unit);
            b.for_each(first, end, in_tile, |row| {
                let place = Place { row, n_rows: (end - row).min(in_tile), unit, n_units };
                // 2. sum
                sum(b, product, &place, scratch);
                // 3. store
                b.for_each(0, n_units, 1, |u| {
                    b.for_each(0, place.n_rows, 1, |r| {
                        let panel = |p| u * product.unit + p;
                        let load = |p| b.load_vector(scratch, &[r, panel(p), b.index(0)], LANES);
                        let sums: Vec<Value> = (0..product.unit).map(load).collect();
                        (product.store)(row + r, unit + u, &sums);
                    });
                });
            });
        });
    });
}

/// A tile's first row and unit, and how many of each.
struct Place {
    row: Value,
    n_rows: Value,
    unit: Value,
    n_units: Value,
}

/// Units abreast for a number of rows.
fn abreast(b: &Builder, product: &Product, n_rows: Value) -> Value {
    let mut abreast = b.index(1);
    for n in 1..=rows_in_tile(b.target()) {
        let units = units_in_tile(b.target(), n, product.unit);
        abreast = n_rows.eq(n).select(units, abreast);
    }
    abreast
}

/// Sums a tile: all its panels abreast where there are as many as the registers are to hold, else one after the other.
fn sum(b: &Builder, product: &Product, place: &Place, scratch: Buffer) {
    let panel = place.unit * product.unit;
    for rows in 1..=rows_in_tile(b.target()) {
        let units = units_in_tile(b.target(), rows, product.unit);
        let panels = units * product.unit;
        let one_by_one = || {
            b.for_each(0, place.n_units * product.unit, 1, |p| {
                Tile { rows, panels: 1 }.emit(b, product, place.row, panel + p, (scratch, p));
            });
            []
        };
        b.if_(place.n_rows.eq(rows), || {
            if units == 1 {
                one_by_one();
                return;
            }
            let all = place.n_units.eq(units);
            let abreast = || {
                Tile { rows, panels }.emit(b, product, place.row, panel, (scratch, b.index(0)));
                []
            };
            b.if_else(all, abreast, one_by_one);
        });
    }
}

/// Sums that stay in registers while j runs.
struct Tile {
    rows: usize,
    panels: usize,
}

impl Tile {
    /// Sums all inputs of the rows from `row` on and the panels from `panel` on, into the panels of scratch from a number on.
    fn emit(&self, b: &Builder, product: &Product, row: Value, panel: Value, scratch: (Buffer, Value)) {
        let rows: Vec<Value> = (0..self.rows).map(|r| (product.x_row)(row + r)).collect();
        let panels = (0..self.panels).map(|p| product.first_panel + panel + p);
        let weights: Vec<Value> = panels.map(|panel| panel * (product.k * LANES)).collect();

        let add_input = |j: Value, sums: &[Value]| {
            let offset = j * LANES;
            let load = |&weight: &Value| b.load_vector(product.weight, &[weight + offset], LANES).to_f32();
            let weights: Vec<Value> = weights.iter().map(load).collect();
            let mut next = Vec::with_capacity(sums.len());
            for (&row, sums) in rows.iter().zip(sums.chunks_exact(self.panels)) {
                let x = b.load(product.x, &[row, j]).broadcast(LANES);
                next.extend(weights.iter().zip(sums).map(|(&weight, &sum)| x.mul_add(weight, sum)));
            }
            next
        };
        // Two inputs at a time: a cache line of 2-byte weights, fetched once.
        let paired = product.k - product.k % 2;
        let sums = vec![b.splat(0.0, LANES); self.rows * self.panels];
        let mut sums = b.for_range_vec(0, paired, 2, &sums, |j, sums| {
            if self.panels <= 2 {
                let ahead = j * LANES + AHEAD;
                weights.iter().for_each(|&weight| b.prefetch(product.weight, &[weight + ahead]));
            }
            add_input(j + 1, &add_input(j, sums))
        });
        if paired < product.k {
            sums = add_input(b.index(paired), &sums);
        }

        for (r, sums) in sums.chunks_exact(self.panels).enumerate() {
            for (p, &sum) in sums.iter().enumerate() {
                b.store(sum, scratch.0, &[b.index(r), scratch.1 + p, b.index(0)]);
            }
        }
    }
}

/// Vector registers that the sums of one row and one panel take.
fn registers(target: CpuTarget) -> usize {
    LANES * 4 / target.vector_bytes()
}

/// Rows of a tile of one panel. With 16 registers: the sums, the panel's weights and a spare or two fill them. With 32: as
/// many sums as hide the latency.
fn rows_in_tile(target: CpuTarget) -> usize {
    match target.vector_bytes() {
        16 => 2,
        32 => 6,
        _ => 8,
    }
}

/// Units abreast for so many rows: eight sums keep two multiply-add units of four cycles' latency busy.
fn units_in_tile(target: CpuTarget, rows: usize, unit: usize) -> usize {
    (8 / (rows * registers(target) * unit)).max(1)
}

/// Outputs in panels.
pub(crate) fn n_panels(n: usize) -> usize {
    padded(n) / LANES
}
