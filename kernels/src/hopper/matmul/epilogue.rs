//! From sums in registers to rows of results: scale, bias and activation where the sums are, then over shared memory, so that
//! 16 bytes of a row are one store and a line is one warp's.
//!
//! A thread of a consumer holds, for each 8 rows of x, outputs g and g + 8 of rows 2 q and 2 q + 1 (g = lane / 4, q = lane mod 4;
//! sixteen outputs a warp). Staged rows hold 64 outputs, or the 32 products of gate and up; their 16-byte pieces are permuted
//! by the number of the row, so that neither side meets a bank twice.
//!
//! 1. scale, bias, activation
//! 2. for as many rows at a time as the staging holds: bf16 by stmatrix, which transposes, f32 one by one
//! 3. 16 bytes a thread to global memory, rows and columns that exist only

use jambac_graph::Activation;

use super::work::Tile;
use super::{Finish, Product};
use crate::cpu::builder::{Compare, Num, Type, Value};
use crate::hopper::weight::BLOCK_ROWS;
use crate::hopper::{Builder, row_stride};
use crate::kernel::Elem;
use crate::split_linear::OUTS;

/// Threads of a warpgroup.
const WARPGROUP: usize = 128;

/// Bytes of one store.
const PIECE: usize = 16;

/// A consumer warpgroup and this thread in it; i32, and a pointer.
pub(super) struct Consumer {
    /// Which consumer.
    pub(super) number: Value,
    /// The first of the two outputs of the block that this thread holds; the other is 8 after.
    pub(super) row: Value,
    /// Which pair of columns of a fragment.
    pub(super) column_pair: Value,
    lane: Value,
    warp: Value,
    thread: Value,
    staging: Value,
}

impl Consumer {
    /// `staging` is the first consumer's, of `staging_bytes` bytes as every other's.
    #[track_caller]
    pub(super) fn new(b: &Builder, number: Value, staging: Value, staging_bytes: usize) -> Consumer {
        let (lane, thread) = (b.lane(), b.and(b.thread(), b.i32(WARPGROUP as i32 - 1)));
        let warp = b.and(b.uniform_warp(), b.i32(3));
        Consumer {
            number,
            row: b.add(b.scaled(warp, 16), b.shr(lane, 2)),
            column_pair: b.and(lane, b.i32(3)),
            lane,
            warp,
            thread,
            staging: b.at(staging, b.scaled(number, staging_bytes)),
        }
    }

    /// Waits for the other threads of the consumer.
    fn sync(&self, b: &Builder) {
        // Barrier 0 is the block's.
        b.sync_threads(b.add(self.number, b.i32(1)), WARPGROUP as u32);
    }
}

/// What the sums of a thread's two outputs are multiplied with, and what is added.
pub(super) struct Factors {
    scales: Option<[Value; 2]>,
    bias: Option<[Value; 2]>,
}

/// What becomes of a tile's sums.
pub(super) struct Epilogue<'a> {
    product: &'a Product,
    /// Rows of x in a tile.
    tile_rows: usize,
    /// Bytes of a staged row.
    row_bytes: usize,
    /// Rows that are staged at a time.
    staged_rows: usize,
}

impl<'a> Epilogue<'a> {
    pub(super) fn new(product: &'a Product, tile_rows: usize, staging_bytes: usize) -> Self {
        assert!(product.finish != Finish::Swiglu || product.out == Elem::Bf16, "gate · up is bf16");
        let row_bytes = product.block_outputs() * product.out.bytes();
        Epilogue { product, tile_rows, row_bytes, staged_rows: tile_rows.min(staging_bytes / row_bytes) }
    }

    /// Loads what the outputs of this thread in a block need.
    #[track_caller]
    pub(super) fn factors(&self, b: &Builder, consumer: &Consumer, tile: &Tile, block: Value) -> Factors {
        let first = b.add(b.scaled(block, BLOCK_ROWS), consumer.row);
        let outputs = [first, b.add(first, b.i32(8))];
        // A tile may reach beyond the last row.
        let last = b.i32(self.product.weight_rows() as i32 - 1);
        let outputs = outputs.map(|output| b.min(output, last));
        let load = |name: &str, i: Value| b.load(b.at(b.pointer(name), b.scaled(i, 4)), Type::scalar(Num::F32));
        Factors {
            scales: (self.product.format == Elem::I8)
                .then(|| outputs.map(|output| load("scales", b.add(tile.weight_row, output)))),
            bias: self.product.finish.has_bias().then(|| outputs.map(|output| load("bias", output))),
        }
    }

    /// Finishes and stores the sums of a block.
    #[track_caller]
    pub(super) fn store(
        &self,
        b: &Builder,
        consumer: &Consumer,
        (tile, block): (&Tile, Value),
        factors: &Factors,
        sums: Vec<Value>,
    ) {
        let n_blocks = self.product.blocks();
        let store = || {
            // 1. scale, bias, activation
            let results = self.finish(b, factors, sums);
            let target = self.target(b, block);
            for first in (0..self.tile_rows).step_by(self.staged_rows) {
                consumer.sync(b);
                // 2. stage
                self.stage(b, consumer, &results[first * results.len() / self.tile_rows..]);
                consumer.sync(b);
                // 3. store
                self.store_rows(b, consumer, tile, &target, first);
            }
            b.sync_warp();
        };
        match n_blocks % 2 {
            0 => store(),
            _ => b.if_(b.cmp(Compare::Lt, block, b.i32(n_blocks as i32)), store),
        }
    }

    /// For each 8 rows of x: output g of rows 2 q and 2 q + 1, then output g + 8, where there is one.
    fn finish(&self, b: &Builder, factors: &Factors, sums: Vec<Value>) -> Vec<Value> {
        let apply = |values: Vec<Value>, factors: Option<[Value; 2]>, with: &dyn Fn(Value, Value) -> Value| {
            let Some(factors) = factors else { return values };
            values.iter().enumerate().map(|(i, &value)| with(value, factors[i / 2 % 2])).collect()
        };
        let sums = apply(sums, factors.scales, &|sum, scale| b.mul(sum, scale));
        let sums = apply(sums, factors.bias, &|sum, bias| b.add(sum, bias));
        match self.product.finish {
            Finish::Linear { activation, .. } => sums.into_iter().map(|sum| activate(b, activation, sum)).collect(),
            Finish::Swiglu => {
                let products = |&[g0, g1, u0, u1]: &[Value; 4]| [(g0, u0), (g1, u1)].map(|(g, u)| b.mul(b.silu(g), u));
                sums.as_chunks().0.iter().flat_map(products).collect()
            }
        }
    }

    /// Byte of a staged row's piece.
    fn place(&self, b: &Builder, row: Value, piece: Value) -> Value {
        let permuted = match self.row_bytes {
            64 => b.xor(piece, b.and(b.shr(row, 1), b.i32(3))),
            128 => b.xor(piece, b.and(row, b.i32(7))),
            _ => b.xor(piece, b.shl(b.and(b.shr(row, 1), b.i32(3)), 1)),
        };
        b.add(b.scaled(row, self.row_bytes), b.scaled(permuted, PIECE))
    }

    /// Puts the results of as many rows as there is room for where their rows are.
    fn stage(&self, b: &Builder, consumer: &Consumer, results: &[Value]) {
        let eights = self.staged_rows / 8;
        match self.product.out {
            Elem::F32 => {
                let (g, q) = (b.shr(consumer.lane, 2), consumer.column_pair);
                for (eight, results) in results.chunks_exact(4).take(eights).enumerate() {
                    for (i, &result) in results.iter().enumerate() {
                        let row = b.add(b.scaled(q, 2), b.i32((8 * eight + i % 2) as i32));
                        let output = b.add(b.add(b.scaled(consumer.warp, 16), b.i32(8 * (i as i32 / 2))), g);
                        let place = self.place(b, row, b.shr(output, 2));
                        let byte = b.add(place, b.scaled(b.and(output, b.i32(3)), 4));
                        b.store(result, b.at(consumer.staging, byte));
                    }
                }
            }
            _ => {
                // Matrices of a stmatrix: all of an 8 rows' outputs, of so many 8 rows.
                let matrices = self.block_matrices();
                let (matrix, row) = (b.shr(consumer.lane, 3), b.and(consumer.lane, b.i32(7)));
                let (eight, half) = (b.div(matrix, b.i32(matrices)), b.rem(matrix, b.i32(matrices)));
                let piece = b.add(b.scaled(consumer.warp, matrices as usize), half);
                let row = b.add(b.scaled(eight, 8), row);
                for (number, results) in
                    results.as_chunks::<8>().0.iter().take(eights * matrices as usize / 4).enumerate()
                {
                    let pairs = [0, 2, 4, 6].map(|i| b.pack_bf16(results[i], results[i + 1]));
                    let row = b.add(row, b.i32(number as i32 * 32 / matrices));
                    b.stmatrix_x4_trans(b.at(consumer.staging, self.place(b, row, piece)), pairs);
                }
            }
        }
    }

    /// 8 × 8 matrices of a warp's outputs, for 8 rows.
    fn block_matrices(&self) -> i32 {
        (self.product.block_outputs() / 4 / 8) as i32
    }

    /// Stores the staged rows, of which the first is row `first` of the tile.
    fn store_rows(&self, b: &Builder, consumer: &Consumer, tile: &Tile, target: &Target, first: usize) {
        let pieces = self.row_bytes / PIECE;
        let abreast = WARPGROUP / pieces;
        let piece = b.rem(consumer.thread, b.i32(pieces as i32));
        let row_of_thread = b.div(consumer.thread, b.i32(pieces as i32));
        let column = b.add(target.column_bytes, b.scaled(piece, PIECE));
        let column_exists = b.cmp(Compare::Lt, column, target.row_bytes);
        b.for_each(b.i32(0), b.i32(self.staged_rows as i32), abreast, |from| {
            let staged = b.add(from, row_of_thread);
            let row = b.add(b.add(tile.first_row, staged), b.i32(first as i32));
            let exists = b.and(column_exists, b.cmp(Compare::Lt, row, tile.end_row));
            b.if_(exists, || {
                let from = b.at(consumer.staging, self.place(b, staged, piece));
                let value = b.load(from, Type::vector(Num::I32, 4));
                let to = b.at(target.out, b.mul(b.to_i64(row), b.to_i64(target.row_bytes)));
                b.store(value, b.at(to, column));
            });
        });
    }

    /// Where the outputs of a block go.
    fn target(&self, b: &Builder, block: Value) -> Target {
        let Product { sizes, out, .. } = self.product;
        let block_bytes = self.product.block_outputs() * out.bytes();
        let row_bytes = |n: usize| b.i32((row_stride(*out, n) * out.bytes()) as i32);
        if let &[n] = sizes.as_slice() {
            let column_bytes = b.scaled(block, block_bytes);
            return Target { out: b.pointer("out"), row_bytes: row_bytes(n), column_bytes };
        }
        let mut first_block = 0;
        let mut target: Option<Target> = None;
        for (name, &n) in OUTS.iter().zip(sizes) {
            let inside = b.sub(block, b.i32(first_block as i32));
            let part =
                Target { out: b.pointer(name), row_bytes: row_bytes(n), column_bytes: b.scaled(inside, block_bytes) };
            let is_here = b.cmp(Compare::Le, b.i32(first_block as i32), block);
            target = Some(match target {
                None => part,
                Some(before) => Target {
                    out: b.select(is_here, part.out, before.out),
                    row_bytes: b.select(is_here, part.row_bytes, before.row_bytes),
                    column_bytes: b.select(is_here, part.column_bytes, before.column_bytes),
                },
            });
            first_block += n.div_ceil(BLOCK_ROWS);
        }
        target.expect("a product has a part")
    }
}

/// Rows of results, and the column of a block's first output.
struct Target {
    out: Value,
    row_bytes: Value,
    column_bytes: Value,
}

/// The activation of a result.
#[track_caller]
pub(super) fn activate(b: &Builder, activation: Activation, x: Value) -> Value {
    match activation {
        Activation::None => x,
        Activation::Silu => b.silu(x),
        Activation::Softplus => b.softplus(x),
    }
}
