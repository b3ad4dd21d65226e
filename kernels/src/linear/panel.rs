//! Rows times panels of packed weights: what [`crate::linear`] and [`crate::grouped_linear`] share.
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

use crate::builder::{Buffer, Builder, Compare, Value};
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
    /// Rows of sums.
    pub(crate) out: Buffer,
    /// Number of the matrix's first panel among all panels in `weight`.
    pub(crate) first_panel: Value,
    /// Where row number r is read in x and written in out.
    pub(crate) place: &'a dyn Fn(Value) -> Place,
    /// What becomes of finished sums that begin at a column; `None` when they are the result.
    pub(crate) finish: Option<&'a dyn Fn(Value, Value) -> Value>,
}

/// The rows that a row of a product stands for.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Row of x.
    pub(crate) x: Value,
    /// Row of out.
    pub(crate) out: Value,
}

/// A range of indices.
pub(crate) type Range = (Value, Value);

/// Writes out for a range of rows and a range of panels.
pub(crate) fn emit(b: &Builder, product: &Product, rows: Range, panels: Range) {
    let n_rows = b.sub(rows.1, rows.0);
    let mut few = 0;
    for n in (1..).take_while(|&n| panels_in_tile(b.target(), n) > 1) {
        b.if_(b.cmp(Compare::Eq, n_rows, b.index(n)), || stream(b, product, n, rows.0, panels));
        few = n;
    }
    b.if_(b.cmp(Compare::Gt, n_rows, b.index(few)), || blocks(b, product, rows, panels));
}

/// `n` rows: the panels stream past, as many side by side as the tile takes.
fn stream(b: &Builder, product: &Product, n: usize, row: Value, panels: Range) {
    let abreast = panels_in_tile(b.target(), n);
    let whole = b.sub(panels.1, b.rem(b.sub(panels.1, panels.0), b.index(abreast)));
    b.for_each(panels.0, whole, abreast, |panel| Tile { rows: n, panels: abreast }.emit(b, product, row, panel));
    b.for_each(whole, panels.1, 1, |panel| Tile { rows: n, panels: 1 }.emit(b, product, row, panel));
    b.for_each(panels.0, panels.1, 1, |panel| finish(b, product, (row, b.add(row, b.index(n))), panel));
}

/// Any number of rows: for each block of x, for each panel, for each tile of the block's rows.
fn blocks(b: &Builder, product: &Product, rows: Range, panels: Range) {
    let in_tile = rows_in_tile(b.target());
    let in_block = (BLOCK_BYTES / (4 * product.k)).next_multiple_of(in_tile);
    b.for_each(rows.0, rows.1, in_block, |first| {
        let rows = (first, b.min(b.add(first, b.index(in_block)), rows.1));
        let rest = b.rem(b.sub(rows.1, rows.0), b.index(in_tile));
        let whole = b.sub(rows.1, rest);
        b.for_each(panels.0, panels.1, 1, |panel| {
            b.for_each(rows.0, whole, in_tile, |row| Tile { rows: in_tile, panels: 1 }.emit(b, product, row, panel));
            for n in 1..in_tile {
                let is_rest = b.cmp(Compare::Eq, rest, b.index(n));
                b.if_(is_rest, || Tile { rows: n, panels: 1 }.emit(b, product, whole, panel));
            }
            finish(b, product, rows, panel);
        });
    });
}

/// Turns the sums of one panel into results.
fn finish(b: &Builder, product: &Product, rows: Range, panel: Value) {
    let Some(finish) = product.finish else { return };
    let column = b.mul(panel, b.index(LANES));
    b.for_each(rows.0, rows.1, 1, |row| {
        let at = [(product.place)(row).out, column];
        let sum = b.load_vector(product.out, &at, LANES);
        b.store(finish(sum, column), product.out, &at);
    });
}

/// Sums that stay in registers while j runs.
struct Tile {
    rows: usize,
    panels: usize,
}

impl Tile {
    /// Sums all inputs of the rows from `row` on and the panels from `panel` on.
    fn emit(&self, b: &Builder, product: &Product, row: Value, panel: Value) {
        let places: Vec<Place> = (0..self.rows).map(|r| (product.place)(b.add(row, b.index(r)))).collect();
        let panels: Vec<Value> = (0..self.panels).map(|p| b.add(panel, b.index(p))).collect();
        let weights: Vec<Value> =
            panels.iter().map(|&panel| b.mul(b.add(product.first_panel, panel), b.index(product.k * LANES))).collect();

        let add_input = |j: Value, sums: &[Value]| {
            let offset = b.mul(j, b.index(LANES));
            let load = |&weight: &Value| b.to_f32(b.load_vector(product.weight, &[b.add(weight, offset)], LANES));
            let weights: Vec<Value> = weights.iter().map(load).collect();
            let mut next = Vec::with_capacity(sums.len());
            for (place, sums) in places.iter().zip(sums.chunks_exact(self.panels)) {
                let x = b.broadcast(b.load(product.x, &[place.x, j]), LANES);
                next.extend(weights.iter().zip(sums).map(|(&weight, &sum)| b.fma(x, weight, sum)));
            }
            next
        };
        // Two inputs at a time: a cache line of 2-byte weights, fetched once.
        let paired = product.k - product.k % 2;
        let sums = vec![b.splat(0.0, LANES); self.rows * self.panels];
        let mut sums = b.for_range_vec(b.index(0), b.index(paired), 2, &sums, |j, sums| {
            if self.panels <= 2 {
                let ahead = b.add(b.mul(j, b.index(LANES)), b.index(AHEAD));
                weights.iter().for_each(|&weight| b.prefetch(product.weight, &[b.add(weight, ahead)]));
            }
            add_input(b.add(j, b.index(1)), &add_input(j, sums))
        });
        if paired < product.k {
            sums = add_input(b.index(paired), &sums);
        }

        for (place, sums) in places.iter().zip(sums.chunks_exact(self.panels)) {
            for (&panel, &sum) in panels.iter().zip(sums) {
                b.store(sum, product.out, &[place.out, b.mul(panel, b.index(LANES))]);
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

/// Panels abreast for so many rows: eight sums keep two multiply-add units of four cycles' latency busy.
fn panels_in_tile(target: CpuTarget, rows: usize) -> usize {
    (8 / (rows * registers(target))).max(1)
}

/// Outputs in panels.
pub(crate) fn n_panels(n: usize) -> usize {
    padded(n) / LANES
}
