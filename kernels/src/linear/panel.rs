//! Rows times panels of packed weights: what [`crate::linear`] and [`crate::grouped_linear`] share.
//!
//!     sum[r, i] = fma(x[r, j], weight[i, j], sum[r, i])      for j = 0 … k − 1
//!
//! Every sum runs over j from 0 on in f32, alone in its lane: how rows, panels and inputs are cut into tiles and blocks
//! decides which sums run side by side, never what one is made of.
//!
//! Few rows: tiles of all rows and so many panels that multiply-adds hide each other's latency; the weights stream past
//! once. Many rows: blocks of rows by inputs of x that stay in the second-level cache, under which panel after panel
//! passes; its piece of the block stays in the first-level cache, while tiles of rows pass in their turn.

use crate::builder::{Buffer, Builder, Compare, Value};
use crate::kernel::{LANES, padded};
use crate::target::CpuTarget;

/// Bytes of a panel's piece, as stored: half of a first-level cache of 32 KiB.
const PIECE_BYTES: usize = 16 << 10;
/// Bytes of a block of x: fits a second-level cache of 512 KiB with room for what streams past.
const BLOCK_BYTES: usize = 192 << 10;

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
    let inputs = (b.index(0), b.index(product.k));
    let whole = b.sub(panels.1, b.rem(b.sub(panels.1, panels.0), b.index(abreast)));
    b.for_each(panels.0, whole, abreast, |panel| {
        Tile { rows: n, panels: abreast }.emit(b, product, row, panel, inputs, None);
    });
    b.for_each(whole, panels.1, 1, |panel| {
        Tile { rows: n, panels: 1 }.emit(b, product, row, panel, inputs, None);
    });
    b.for_each(panels.0, panels.1, 1, |panel| finish(b, product, (row, b.add(row, b.index(n))), panel));
}

/// Any number of rows: for each block of x, for each panel, for each tile of the block's rows.
fn blocks(b: &Builder, product: &Product, rows: Range, panels: Range) {
    let k = product.k;
    let in_tile = rows_in_tile(b.target());
    let n_blocks = k.div_ceil(PIECE_BYTES / (LANES * product.weight.num().bytes()));
    let k_block = k.div_ceil(n_blocks);
    let row_block = (BLOCK_BYTES / (4 * k_block)).next_multiple_of(in_tile);
    // So few rows that all their inputs fit: one block, and the weights are read from end to end.
    let fits = b.cmp(Compare::Le, b.sub(rows.1, rows.0), b.index(BLOCK_BYTES / (4 * k)));
    let inputs_at_once = b.select(fits, b.index(k), b.index(k_block));
    let n_blocks = b.select(fits, b.index(1), b.index(n_blocks));

    b.for_each(rows.0, rows.1, row_block, |first| {
        let rows = (first, b.min(b.add(first, b.index(row_block)), rows.1));
        b.for_each(b.index(0), n_blocks, 1, |block| {
            let j = b.mul(block, inputs_at_once);
            let inputs = (j, b.min(b.add(j, inputs_at_once), b.index(k)));
            let is_last = b.cmp(Compare::Eq, inputs.1, b.index(k));
            let continues = (k_block < k).then(|| b.cmp(Compare::Gt, j, b.index(0)));
            b.for_each(panels.0, panels.1, 1, |panel| {
                let rest = b.rem(b.sub(rows.1, rows.0), b.index(in_tile));
                let whole = b.sub(rows.1, rest);
                b.for_each(rows.0, whole, in_tile, |row| {
                    Tile { rows: in_tile, panels: 1 }.emit(b, product, row, panel, inputs, continues);
                });
                for n in 1..in_tile {
                    b.if_(b.cmp(Compare::Eq, rest, b.index(n)), || {
                        Tile { rows: n, panels: 1 }.emit(b, product, whole, panel, inputs, continues);
                    });
                }
                if product.finish.is_some() {
                    b.if_(is_last, || finish(b, product, rows, panel));
                }
            });
        });
    });
}

/// Turns the finished sums of one panel into results.
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
    /// Adds `inputs` of the rows from `row` on and the panels from `panel` on to out, where `continues` holds; elsewhere to 0.
    fn emit(&self, b: &Builder, product: &Product, row: Value, panel: Value, inputs: Range, continues: Option<Value>) {
        let places: Vec<Place> = (0..self.rows).map(|r| (product.place)(b.add(row, b.index(r)))).collect();
        let panels: Vec<Value> = (0..self.panels).map(|p| b.add(panel, b.index(p))).collect();
        let outs: Vec<[Value; 2]> = places
            .iter()
            .flat_map(|place| panels.iter().map(|&panel| [place.out, b.mul(panel, b.index(LANES))]))
            .collect();
        let weights: Vec<Value> =
            panels.iter().map(|&panel| b.mul(b.add(product.first_panel, panel), b.index(product.k * LANES))).collect();

        let zero = b.splat(0.0, LANES);
        let start: Vec<Value> = match continues {
            None => vec![zero; outs.len()],
            Some(continues) => {
                outs.iter().map(|at| b.select(continues, b.load_vector(product.out, at, LANES), zero)).collect()
            }
        };
        let sums = b.for_range_vec(inputs.0, inputs.1, 1, &start, |j, sums| {
            let offset = b.mul(j, b.index(LANES));
            let weights: Vec<Value> = weights
                .iter()
                .map(|&weight| b.to_f32(b.load_vector(product.weight, &[b.add(weight, offset)], LANES)))
                .collect();
            let mut next = Vec::with_capacity(sums.len());
            for (place, sums) in places.iter().zip(sums.chunks_exact(self.panels)) {
                let x = b.broadcast(b.load(product.x, &[place.x, j]), LANES);
                next.extend(weights.iter().zip(sums).map(|(&weight, &sum)| b.fma(x, weight, sum)));
            }
            next
        });
        for (&sum, at) in sums.iter().zip(&outs) {
            b.store(sum, product.out, at);
        }
    }
}

/// Vector registers that the sums of one row and one panel take.
fn registers(target: CpuTarget) -> usize {
    LANES * 4 / target.vector_bytes()
}

/// Rows of a tile of one panel: the sums, a panel's weights and a spare or two fill the registers.
fn rows_in_tile(target: CpuTarget) -> usize {
    match (target.n_vector_registers(), registers(target)) {
        (16, 4) => 2,
        (16, 2) => 6,
        _ => 12,
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
