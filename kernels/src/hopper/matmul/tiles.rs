//! The tiles of a product as a work list.
//!
//! Dense products process up to [`RASTER`] tiles of rows before the next tile of outputs, so that concurrent tiles share
//! weights and rows in L2. With experts, each expert is a group of tiles. Their number follows from the offsets, which are
//! copied to shared memory.

use super::{Batch, Product};
use crate::cpu::builder::{Num, Type, Value};
use crate::hopper::Builder;
use crate::hopper::work::{At, WorkList};

/// Row tiles that are processed before the next tile of outputs.
const RASTER: usize = 16;

/// Division of a product into tiles.
pub(super) struct Tiles<'a, 'm> {
    b: &'a Builder<'m>,
    pub(super) list: WorkList<'a>,
    /// Number of output tiles.
    n_outputs: usize,
    /// Rows of x per tile.
    tile_rows: usize,
    /// Weight rows per expert.
    weight_rows: usize,
    rows: RowsOf,
}

/// The rows of x; i32 values and a pointer.
#[derive(Clone, Copy)]
enum RowsOf {
    /// Number of rows for the single weight, and of tiles of them.
    Dense { n_rows: Value, n_tiles: Value },
    /// The experts' offsets in shared memory.
    Experts { offsets: Value },
}

/// A tile; i32.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Number of the tile of outputs.
    pub(super) outputs: Value,
    /// First row of x.
    pub(super) first_row: Value,
    /// End of the rows that belong to the weight; may be beyond the tile.
    pub(super) end_row: Value,
    /// First row of the expert's weight.
    pub(super) weight_row: Value,
}

impl<'a, 'm> Tiles<'a, 'm> {
    /// Copies the experts' offsets to `shared_offsets`; a block barrier must precede any use of the list.
    #[track_caller]
    pub(super) fn new(
        b: &'a Builder<'m>,
        product: &Product,
        [tile_outputs, tile_rows]: [usize; 2],
        shared_offsets: Value,
    ) -> Self {
        let weight_rows = product.weight_rows();
        let n_outputs = weight_rows.div_ceil(tile_outputs);
        let (rows, list) = match product.batch {
            Batch::Dense => {
                let n_rows = b.count("rows");
                let n_tiles = tiles_of(n_rows, tile_rows);
                (RowsOf::Dense { n_rows, n_tiles }, WorkList::of_one(move || n_tiles * n_outputs))
            }
            Batch::Experts { n_experts, .. } => {
                assert!(n_experts < b.threads_per_block() as usize, "{n_experts} experts, a thread for each");
                b.if_(b.thread().le(n_experts), || {
                    let offset = b.entry("offsets", b.thread());
                    b.store(offset, b.at(shared_offsets, b.thread() * 4));
                });
                let pieces = move |number: Value| {
                    let expert = expert(b, shared_offsets, number, tile_rows);
                    expert.n_tiles * n_outputs
                };
                let list = WorkList::of_groups(b.i32(n_experts as i32), pieces);
                (RowsOf::Experts { offsets: shared_offsets }, list)
            }
        };
        Tiles { b, list, n_outputs, tile_rows, weight_rows, rows }
    }

    /// The tile at a position in the list.
    #[track_caller]
    pub(super) fn tile(&self, at: At) -> Tile {
        let b = self.b;
        match self.rows {
            RowsOf::Dense { n_rows, n_tiles } => {
                let raster = b.i32((RASTER * self.n_outputs) as i32);
                let (group, inside) = (at.number / raster, at.number % raster);
                let first_tile = group * RASTER;
                let abreast = (n_tiles - first_tile).min(RASTER);
                let row_tile = first_tile + inside % abreast;
                Tile {
                    outputs: inside / abreast,
                    first_row: row_tile * self.tile_rows,
                    end_row: n_rows,
                    weight_row: b.i32(0),
                }
            }
            RowsOf::Experts { offsets } => {
                let Expert { start, end, n_tiles } = expert(b, offsets, at.group, self.tile_rows);
                let inside = at.in_group();
                Tile {
                    outputs: inside / n_tiles,
                    first_row: start + inside % n_tiles * self.tile_rows,
                    end_row: end,
                    weight_row: at.group * self.weight_rows,
                }
            }
        }
    }
}

/// The rows of an expert; i32.
struct Expert {
    start: Value,
    end: Value,
    n_tiles: Value,
}

#[track_caller]
fn expert(b: &Builder, offsets: Value, number: Value, tile_rows: usize) -> Expert {
    let at = b.at(offsets, number * 4);
    let [start, end] = [at, b.at_byte(at, 4)].map(|at| b.load(at, Type::scalar(Num::I32)));
    Expert { start, end, n_tiles: tiles_of(end - start, tile_rows) }
}

/// Number of tiles for `n_rows` rows.
#[track_caller]
fn tiles_of(n_rows: Value, tile_rows: usize) -> Value {
    (n_rows + (tile_rows - 1)) / tile_rows
}
