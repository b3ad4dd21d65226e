//! Which tiles a block computes: tile number block, block + grid, and so on, of an order that all blocks know.
//!
//! Dense products go through up to 16 tiles of rows before the next outputs, so that the tiles that run at a time share
//! weights and rows in the cache. Experts go in order, those without rows have no tiles: where an expert's tiles begin is
//! computed from the offsets, which lie in shared memory.

use super::{Batch, Product};
use crate::cpu::builder::{Compare, Num, Type, Value};
use crate::hopper::Builder;
use crate::hopper::ring::Slot;

/// Tiles of rows that are gone through before the next outputs.
const RASTER: usize = 16;

/// How work is cut into tiles.
pub(super) struct Work {
    /// Tiles of outputs.
    n_outputs: usize,
    /// Rows of x in a tile.
    tile_rows: usize,
    /// Rows of the weight of an expert.
    weight_rows: usize,
    rows: RowsOf,
}

enum RowsOf {
    /// One weight: how many rows, and tiles of rows.
    Dense { n_rows: Value, n_tiles: Value },
    /// The experts' offsets in shared memory.
    Experts { offsets: Value, n_experts: usize },
}

/// Where a block is in its work: the tile's number, its expert, the number of the expert's first tile; i32.
#[derive(Clone, Copy)]
pub(super) struct At([Value; 3]);

impl At {
    /// The first three of the carried values.
    pub(super) fn of(carried: &[Value]) -> At {
        At([carried[0], carried[1], carried[2]])
    }

    /// What a loop carries.
    pub(super) fn values(self) -> [Value; 3] {
        self.0
    }
}

/// A tile; i32.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Which tile of outputs.
    pub(super) outputs: Value,
    /// The first row of x.
    pub(super) first_row: Value,
    /// The end of the rows that belong to the weight, inside or beyond the tile.
    pub(super) end_row: Value,
    /// The first row of the expert's weight.
    pub(super) weight_row: Value,
}

impl Work {
    /// Puts the experts' offsets into shared memory; a barrier of the block comes before anything else is asked.
    #[track_caller]
    pub(super) fn new(
        b: &Builder,
        product: &Product,
        tile_outputs: usize,
        tile_rows: usize,
        shared_offsets: Value,
    ) -> Work {
        let weight_rows = product.weight_rows();
        let rows = match product.batch {
            Batch::Dense => {
                let n_rows = b.count("rows");
                RowsOf::Dense { n_rows, n_tiles: tiles_of(b, n_rows, tile_rows) }
            }
            Batch::Experts { n_experts, .. } => {
                assert!(n_experts < b.threads_per_block() as usize, "{n_experts} experts, a thread for each");
                b.if_(b.cmp(Compare::Le, b.thread(), b.i32(n_experts as i32)), || {
                    let at = b.scaled(b.thread(), 4);
                    b.store(b.load(b.at(b.pointer("offsets"), at), Type::scalar(Num::I32)), b.at(shared_offsets, at));
                });
                RowsOf::Experts { offsets: shared_offsets, n_experts }
            }
        };
        Work { n_outputs: weight_rows.div_ceil(tile_outputs), tile_rows, weight_rows, rows }
    }

    /// Runs `body(tile, slot)` for the tiles of this block, carrying a slot of a ring.
    #[track_caller]
    pub(super) fn for_each_tile(&self, b: &Builder, slot: Slot, body: impl FnOnce(Tile, Slot) -> Slot) {
        let [tile, expert, first] = self.first(b).0;
        b.while_(
            [tile, expert, first, slot.stage, slot.parity],
            |[tile, expert, first, ..]| self.exists(b, At([tile, expert, first])),
            |[tile, expert, first, stage, parity]| {
                let at = At([tile, expert, first]);
                let slot = body(self.tile(b, at), Slot { stage, parity });
                let [tile, expert, first] = self.next(b, at).0;
                [tile, expert, first, slot.stage, slot.parity]
            },
        );
    }

    /// The block's first tile, which may not exist.
    #[track_caller]
    pub(super) fn first(&self, b: &Builder) -> At {
        self.settle(b, At([b.block(), b.i32(0), b.i32(0)]))
    }

    /// The block's next tile, which may not exist.
    #[track_caller]
    pub(super) fn next(&self, b: &Builder, At([tile, expert, first]): At) -> At {
        self.settle(b, At([b.add(tile, b.n_blocks()), expert, first]))
    }

    /// Whether there is such a tile.
    #[track_caller]
    pub(super) fn exists(&self, b: &Builder, At([tile, expert, _]): At) -> Value {
        match self.rows {
            RowsOf::Dense { n_tiles, .. } => b.cmp(Compare::Lt, tile, b.scaled(n_tiles, self.n_outputs)),
            RowsOf::Experts { n_experts, .. } => b.cmp(Compare::Lt, expert, b.i32(n_experts as i32)),
        }
    }

    /// `at` where there is such a tile, else `other`.
    #[track_caller]
    pub(super) fn or(&self, b: &Builder, at: At, other: At) -> At {
        let exists = self.exists(b, at);
        At(std::array::from_fn(|i| b.select(exists, at.0[i], other.0[i])))
    }

    /// What the tile is, where it exists.
    #[track_caller]
    pub(super) fn tile(&self, b: &Builder, At([tile, expert, first]): At) -> Tile {
        match self.rows {
            RowsOf::Dense { n_rows, n_tiles } => {
                let raster = b.i32((RASTER * self.n_outputs) as i32);
                let (group, inside) = (b.div(tile, raster), b.rem(tile, raster));
                let first_tile = b.scaled(group, RASTER);
                let abreast = b.min(b.sub(n_tiles, first_tile), b.i32(RASTER as i32));
                let row_tile = b.add(first_tile, b.rem(inside, abreast));
                Tile {
                    outputs: b.div(inside, abreast),
                    first_row: b.scaled(row_tile, self.tile_rows),
                    end_row: n_rows,
                    weight_row: b.i32(0),
                }
            }
            RowsOf::Experts { offsets, .. } => {
                let [start, end, n_tiles] = self.expert(b, offsets, expert);
                let inside = b.sub(tile, first);
                Tile {
                    outputs: b.div(inside, n_tiles),
                    first_row: b.add(start, b.scaled(b.rem(inside, n_tiles), self.tile_rows)),
                    end_row: end,
                    weight_row: b.scaled(expert, self.weight_rows),
                }
            }
        }
    }

    /// Moves on to the expert that the tile belongs to, or behind the last one.
    #[track_caller]
    fn settle(&self, b: &Builder, at: At) -> At {
        let RowsOf::Experts { offsets, n_experts } = self.rows else { return at };
        let At([tile, expert, first]) = at;
        let last = b.i32(n_experts as i32 - 1);
        let end = |expert: Value, first: Value| {
            let [_, _, n_tiles] = self.expert(b, offsets, expert);
            b.add(first, b.scaled(n_tiles, self.n_outputs))
        };
        let [expert, first] = b.while_(
            [expert, first],
            |[expert, first]| {
                let beyond = b.cmp(Compare::Le, end(b.min(expert, last), first), tile);
                b.and(beyond, b.cmp(Compare::Le, expert, last))
            },
            |[expert, first]| [b.add(expert, b.i32(1)), end(expert, first)],
        );
        At([tile, expert, first])
    }

    /// First row, end of rows and tiles of rows of an expert.
    #[track_caller]
    fn expert(&self, b: &Builder, offsets: Value, expert: Value) -> [Value; 3] {
        let at = b.at(offsets, b.scaled(expert, 4));
        let [start, end] = [at, b.at_byte(at, 4)].map(|at| b.load(at, Type::scalar(Num::I32)));
        [start, end, tiles_of(b, b.sub(end, start), self.tile_rows)]
    }
}

/// Tiles of so many rows.
#[track_caller]
fn tiles_of(b: &Builder, n_rows: Value, tile_rows: usize) -> Value {
    b.div(b.add(n_rows, b.i32(tile_rows as i32 - 1)), b.i32(tile_rows as i32))
}
