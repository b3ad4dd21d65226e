//! Epilogue of a tile: scale, bias and activation in registers, then a transpose in shared memory, so that each thread
//! stores 16 bytes of a row and each line is written by one warp.
//!
//! A consumer thread holds, for each 8 rows of x, outputs g and g + 8 of rows 2 q and 2 q + 1 (g = lane / 4, q = lane mod
//! 4; sixteen outputs per warp). A staged row holds 64 outputs, or the 32 products of gate and up. Its 16-byte pieces are
//! permuted by the row number, so that neither reads nor writes have bank conflicts.
//!
//! 1. scale, bias, activation
//! 2. stage as many rows at a time as fit: bf16 by stmatrix, which transposes, f32 one by one
//! 3. store 16 bytes per thread to global memory, only rows and columns that exist

use jambac_graph::Activation;

use super::tiles::Tile;
use super::{Finish, Product};
use crate::cpu::builder::{Num, Type, Value};
use crate::hopper::facts::{VECTOR_BYTES, WARPGROUP};
use crate::hopper::fragment::{self, Addressed, BLOCK, Fragment, half_of};
use crate::hopper::weight::BLOCK_ROWS;
use crate::hopper::{Builder, row_stride};
use crate::kernel::Elem;
use crate::split_linear::OUTS;

/// Outputs per warp.
const WARP_OUTPUTS: usize = 2 * BLOCK;

/// A consumer warpgroup, and this thread in it; i32 values and a pointer.
pub(super) struct Consumer {
    /// Number of the consumer.
    pub(super) number: Value,
    /// The first of this thread's two outputs in the block; the second is [`BLOCK`] later.
    pub(super) row: Value,
    /// The lane's number within the four that share a row.
    pub(super) quad: Value,
    fragment: Fragment,
    warp: Value,
    thread: Value,
    staging: Value,
}

impl Consumer {
    /// `staging` is the first consumer's staging buffer; each consumer has `staging_bytes` bytes.
    #[track_caller]
    pub(super) fn new(b: &Builder, number: Value, staging: Value, staging_bytes: usize) -> Consumer {
        let fragment = Fragment::of(b);
        let thread = b.thread() & (WARPGROUP - 1);
        let warp = b.uniform_warp() & 3;
        Consumer {
            number,
            row: warp * WARP_OUTPUTS + fragment.first_row(),
            quad: fragment.quad(),
            fragment,
            warp,
            thread,
            staging: b.at(staging, number * staging_bytes),
        }
    }

    /// Waits for the other threads of the consumer.
    fn sync(&self, b: &Builder) {
        // Barrier 0 is the block's barrier.
        b.sync_threads(self.number + 1, WARPGROUP);
    }
}

/// Scales and biases of a thread's two outputs.
pub(super) struct Factors {
    scales: Option<[Value; 2]>,
    bias: Option<[Value; 2]>,
}

/// Epilogue of a tile's sums.
pub(super) struct Epilogue<'a> {
    product: &'a Product,
    /// Rows of x per tile.
    tile_rows: usize,
    /// Bytes per staged row.
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

    /// Loads the factors of this thread's outputs in a block.
    #[track_caller]
    pub(super) fn factors(&self, b: &Builder, consumer: &Consumer, tile: &Tile, block: Value) -> Factors {
        let first = block * BLOCK_ROWS + consumer.row;
        let outputs = [first, first + BLOCK];
        // A tile may extend beyond the last row.
        let last = b.i32(self.product.weight_rows() as i32 - 1);
        let outputs = outputs.map(|output| output.min(last));
        let load = |name: &str, i: Value| b.load(b.at(b.pointer(name), i * 4), Type::scalar(Num::F32));
        Factors {
            scales: self.product.is_widened().then(|| outputs.map(|output| load("scales", tile.weight_row + output))),
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
            _ => b.if_(block.lt(n_blocks), store),
        }
    }

    /// Results in the order of the sums; for gate and up, in the order of the upper half's sums.
    fn finish(&self, b: &Builder, factors: &Factors, sums: Vec<Value>) -> Vec<Value> {
        let apply = |values: Vec<Value>, factors: Option<[Value; 2]>, with: &dyn Fn(Value, Value) -> Value| {
            let Some(factors) = factors else { return values };
            values.iter().enumerate().map(|(i, &value)| with(value, factors[half_of(i)])).collect()
        };
        let sums = apply(sums, factors.scales, &|sum, scale| sum * scale);
        let sums = apply(sums, factors.bias, &|sum, bias| sum + bias);
        match self.product.finish {
            Finish::Linear { activation, .. } => sums.into_iter().map(|sum| activate(b, activation, sum)).collect(),
            Finish::Swiglu => {
                let products = |&[g0, g1, u0, u1]: &[Value; 4]| [(g0, u0), (g1, u1)].map(|(g, u)| b.silu(g) * u);
                sums.as_chunks().0.iter().flat_map(products).collect()
            }
        }
    }

    /// Byte offset of a piece of a staged row.
    fn place(&self, row: Value, piece: Value) -> Value {
        let permuted = match self.row_bytes {
            64 => piece ^ ((row >> 1) & 3),
            128 => piece ^ (row & 7),
            _ => piece ^ (((row >> 1) & 3) << 1),
        };
        row * self.row_bytes + permuted * VECTOR_BYTES
    }

    /// Writes as many rows of results as fit to the staging buffer.
    fn stage(&self, b: &Builder, consumer: &Consumer, results: &[Value]) {
        match self.product.out {
            Elem::F32 => {
                for (i, &result) in results.iter().take(self.staged_rows * 4 / BLOCK).enumerate() {
                    // Weights are the left operand, so rows of the accumulator are outputs and its columns are rows of x.
                    let row = consumer.fragment.column(i);
                    let half = consumer.warp * WARP_OUTPUTS + BLOCK * half_of(i);
                    let output = half + consumer.fragment.first_row();
                    let place = self.place(row, output >> 2);
                    let byte = place + (output & 3) * 4;
                    b.store(result, b.at(consumer.staging, byte));
                }
            }
            _ => {
                // Matrices per stmatrix: all outputs of 8 rows, for as many groups of 8 rows as fit.
                let matrices = self.block_matrices();
                let Addressed { block, row } = consumer.fragment.addressed();
                let (eight, half) = (block / matrices, block % matrices);
                let piece = consumer.warp * matrices as usize + half;
                let row = eight * BLOCK + row;
                for (number, results) in
                    results.as_chunks::<8>().0.iter().take(self.staged_rows / BLOCK * matrices as usize / 4).enumerate()
                {
                    let pairs = fragment::pack(b, results).try_into().expect("four registers");
                    let row = row + number as i32 * 32 / matrices;
                    b.stmatrix_x4_trans(b.at(consumer.staging, self.place(row, piece)), pairs);
                }
            }
        }
    }

    /// 8 × 8 matrices of a warp's outputs per 8 rows.
    fn block_matrices(&self) -> i32 {
        (self.product.block_outputs() / 4 / BLOCK) as i32
    }

    /// Stores the staged rows; the first is row `first` of the tile.
    fn store_rows(&self, b: &Builder, consumer: &Consumer, tile: &Tile, target: &Target, first: usize) {
        let pieces = self.row_bytes / VECTOR_BYTES;
        let abreast = WARPGROUP as usize / pieces;
        let piece = consumer.thread % pieces;
        let row_of_thread = consumer.thread / pieces;
        let column = target.column_bytes + piece * VECTOR_BYTES;
        let column_exists = column.lt(target.row_bytes);
        b.for_each(b.i32(0), b.i32(self.staged_rows as i32), abreast, |from| {
            let staged = from + row_of_thread;
            let row = tile.first_row + staged + first;
            let exists = column_exists & row.lt(tile.end_row);
            b.if_(exists, || {
                let from = b.at(consumer.staging, self.place(staged, piece));
                let value = b.load(from, Type::vector(Num::I32, 4));
                let to = b.at(target.out, row.to_i64() * target.row_bytes.to_i64());
                b.store(value, b.at(to, column));
            });
        });
    }

    /// The result buffer that a block of outputs belongs to.
    fn target(&self, b: &Builder, block: Value) -> Target {
        let Product { sizes, out, .. } = self.product;
        let block_bytes = self.product.block_outputs() * out.bytes();
        let row_bytes = |n: usize| b.i32((row_stride(*out, n) * out.bytes()) as i32);
        if let &[n] = sizes.as_slice() {
            let column_bytes = block * block_bytes;
            return Target { out: b.pointer("out"), row_bytes: row_bytes(n), column_bytes };
        }
        let mut first_block = 0;
        let mut target: Option<Target> = None;
        for (name, &n) in OUTS.iter().zip(sizes) {
            let inside = block - first_block;
            let part = Target { out: b.pointer(name), row_bytes: row_bytes(n), column_bytes: inside * block_bytes };
            let is_here = b.i32(first_block as i32).le(block);
            target = Some(match target {
                None => part,
                Some(before) => Target {
                    out: is_here.select(part.out, before.out),
                    row_bytes: is_here.select(part.row_bytes, before.row_bytes),
                    column_bytes: is_here.select(part.column_bytes, before.column_bytes),
                },
            });
            first_block += n.div_ceil(BLOCK_ROWS);
        }
        target.expect("a product has a part")
    }
}

/// Result rows, and the column of a block's first output.
struct Target {
    out: Value,
    row_bytes: Value,
    column_bytes: Value,
}

/// Applies the activation to a result.
#[track_caller]
pub(super) fn activate(b: &Builder, activation: Activation, x: Value) -> Value {
    match activation {
        Activation::None => x,
        Activation::Silu => b.silu(x),
        Activation::Softplus => b.softplus(x),
    }
}
