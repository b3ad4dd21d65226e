//! The body of a product of a handful of rows.
//!
//! 1. offsets of the experts; the first tile's first weights
//! 2. for each of the block's tiles: for each share of the inputs, load x, start to load the next weights, and multiply
//! 3. add the warps' sums, finish, store

use super::{OUTPUTS, PARTIAL_BYTES, PARTIALS_BYTES, ROWS, WARPS};
use crate::cpu::builder::{Compare, Num, Type, Value};
use crate::hopper::matmul::epilogue::activate;
use crate::hopper::matmul::work::{At, Tile, Work};
use crate::hopper::matmul::{Batch, Finish, Product, integer};
use crate::hopper::weight::BLOCK_ROWS;
use crate::hopper::{Builder, row_stride};
use crate::kernel::Elem;
use crate::split_linear::OUTS;

/// Bytes of a row of the weight that the four lanes of a row load at a time.
const LOAD_BYTES: usize = 64;

/// What a kernel's loads are.
struct Few<'a, 'm> {
    b: &'a Builder<'m>,
    product: &'a Product,
    work: Work,
    /// Row of the fragment, and pair of columns.
    g: Value,
    q: Value,
    warp: Value,
}

/// The weights of one share: registers of row g and of row g + 8, load after load.
type Registers = Vec<Value>;

/// Where a share begins: pointers to rows g and g + 8 of the weight and row g of x, the number of the first load, and
/// whether the row of x exists.
#[derive(Clone, Copy)]
struct Share {
    low: Value,
    high: Value,
    x: Value,
    load: Value,
    row_exists: Value,
}

pub(crate) fn emit(b: &Builder, product: &Product) {
    let work = Work::new(b, product, OUTPUTS, ROWS, b.shared_at(PARTIALS_BYTES));
    if let Batch::Experts { .. } = product.batch {
        b.sync();
    }
    let lane = b.lane();
    let few = Few { b, product, work, g: b.shr(lane, 2), q: b.and(lane, b.i32(3)), warp: b.warp() };
    let first = few.work.first(b);
    b.if_(few.work.exists(b, first), || few.run(first));
}

impl Few<'_, '_> {
    /// Loads of a share: as many as the registers hold, twice and with x. int8 takes twice the registers of x.
    fn loads(&self) -> usize {
        if self.product.format == Elem::I8 { 2 } else { 4 }
    }

    /// Inputs of one load of the four lanes of a row.
    fn load_inputs(&self) -> usize {
        LOAD_BYTES / self.product.format.bytes()
    }

    fn row_bytes(&self) -> usize {
        row_stride(self.product.format, self.product.k) * self.product.format.bytes()
    }

    /// Loads of a row.
    fn row_loads(&self) -> usize {
        self.row_bytes() / LOAD_BYTES
    }

    /// 2. From tile to tile, with the registers of the next share.
    fn run(&self, first: At) {
        let b = self.b;
        let share = self.share(&self.work.tile(b, first));
        let registers = self.load(share);
        let init = [&first.values()[..], &[b.i32(0)], &registers].concat();
        b.while_vec(
            &init,
            |carried| self.work.exists(b, At::of(carried)),
            |carried| {
                let (at, parity, registers) = (At::of(carried), carried[3], &carried[4..]);
                let tile = self.work.tile(b, at);
                let next = self.work.next(b, at);
                // Behind the last tile the loads are of one that exists, and not used.
                let following = self.work.tile(b, self.work.or(b, next, at));
                let (sums, registers) = self.multiply(&tile, &following, registers);
                self.finish(&tile, parity, sums);
                [&next.values()[..], &[b.xor(parity, b.i32(1))], &registers].concat()
            },
        );
    }

    /// The first share of this warp in a tile.
    fn share(&self, tile: &Tile) -> Share {
        let b = self.b;
        let skipped = b.scaled(self.warp, self.loads());
        let (weight_bytes, lane_bytes) = (b.scaled(skipped, LOAD_BYTES), b.scaled(self.q, 16));
        let row = b.add(b.scaled(tile.outputs, OUTPUTS), self.g);
        let weight_rows = self.product.weight_rows();
        let weight = |row: Value| {
            let at = b.row(b.pointer("weight"), b.add(tile.weight_row, row), self.row_bytes());
            b.at(at, b.add(weight_bytes, lane_bytes))
        };
        let (low, high) = match weight_rows % OUTPUTS {
            0 => (weight(row), b.at_byte(weight(row), 8 * self.row_bytes())),
            // Outputs beyond the last are computed from its weights, and not stored.
            _ => {
                let last = b.i32(weight_rows as i32 - 1);
                (weight(b.min(row, last)), weight(b.min(b.add(row, b.i32(8)), last)))
            }
        };
        let x_row = b.add(tile.first_row, self.g);
        let row_exists = b.cmp(Compare::Lt, x_row, tile.end_row);
        let x =
            b.row(b.pointer("x"), b.select(row_exists, x_row, b.i32(0)), 2 * row_stride(Elem::Bf16, self.product.k));
        let lane_inputs = if self.product.format == Elem::I8 { 4 } else { 16 };
        let x_bytes = b.add(b.scaled(skipped, 2 * self.load_inputs()), b.scaled(self.q, lane_inputs));
        Share { low, high, x: b.at(x, x_bytes), load: skipped, row_exists }
    }

    /// The share after one in the same tile: behind those of the other warps.
    fn after(&self, share: Share) -> Share {
        let (b, loads) = (self.b, WARPS * self.loads());
        Share {
            low: b.at_byte(share.low, loads * LOAD_BYTES),
            high: b.at_byte(share.high, loads * LOAD_BYTES),
            x: b.at_byte(share.x, loads * 2 * self.load_inputs()),
            load: b.add(share.load, b.i32(loads as i32)),
            row_exists: share.row_exists,
        }
    }

    /// Starts the loads of a share's weights; zeros come where the row has ended.
    fn load(&self, share: Share) -> Registers {
        let b = self.b;
        let mut registers = Vec::new();
        for load in 0..self.loads() {
            let number = b.add(share.load, b.i32(load as i32));
            let exists = b.cmp(Compare::Lt, number, b.i32(self.row_loads() as i32));
            for row in [share.low, share.high] {
                registers.extend(b.load_streamed_or_zero(b.at_byte(row, load * LOAD_BYTES), exists));
            }
        }
        registers
    }

    /// The inputs of a share.
    fn load_inputs_of(&self, share: Share) -> Registers {
        let b = self.b;
        let load = |load: usize| {
            let number = b.add(share.load, b.i32(load as i32));
            self.load_x(b.at_byte(share.x, load * 2 * self.load_inputs()), number, share.row_exists)
        };
        (0..self.loads()).flat_map(load).collect()
    }

    /// The inputs of one load that this lane multiplies, zero beyond the last: what lies there may be NaN.
    fn load_x(&self, at: Value, load: Value, row_exists: Value) -> Vec<Value> {
        let (b, k) = (self.b, self.product.k);
        let first = b.scaled(load, self.load_inputs());
        let exists = |input: Value| b.and(row_exists, b.cmp(Compare::Lt, input, b.i32(k as i32)));
        // Two inputs from `first` + `offset` on, `bytes` behind `at`.
        let pair = |first: Value, offset: usize, bytes: usize| {
            let (input, at) = (b.add(first, b.i32(offset as i32)), b.at_byte(at, bytes));
            match k % 2 {
                0 => b.load_word_or_zero(at, exists(input)),
                _ => b.load_halves_or_zero(at, [exists(input), exists(b.add(input, b.i32(1)))]),
            }
        };
        if self.product.format == Elem::I8 {
            let first = b.add(first, b.scaled(self.q, 2));
            return (0..8).map(|number| pair(first, 8 * number, 16 * number)).collect();
        }
        let first = b.add(first, b.scaled(self.q, 8));
        match k.is_multiple_of(8) {
            true => b.load_or_zero(at, exists(first)).to_vec(),
            false => (0..4).map(|number| pair(first, 2 * number, 4 * number)).collect(),
        }
    }

    /// Sums of a tile's share of the inputs that is this warp's, and the registers of the tile that follows.
    fn multiply(&self, tile: &Tile, following: &Tile, registers: &[Value]) -> ([Value; 4], Registers) {
        let b = self.b;
        let n_shares = self.row_loads().div_ceil(self.loads() * WARPS);
        let share = self.share(tile);
        let init = [&[share.low, share.high, share.x, share.load][..], &[b.f32(0.0); 4], registers].concat();
        // In the loop the share that follows is of the same tile.
        let carried = b.for_range_vec(b.i32(1), b.i32(n_shares as i32), 1, &init, |_, carried| {
            let share = Share { low: carried[0], high: carried[1], x: carried[2], load: carried[3], ..share };
            let (sums, registers) = carried[4..].split_first_chunk::<4>().expect("four sums");
            let next = self.after(share);
            let (x, loaded) = (self.load_inputs_of(share), self.load(next));
            let sums = self.products(registers, &x, *sums);
            [&[next.low, next.high, next.x, next.load][..], &sums, &loaded].concat()
        });
        let share = Share { low: carried[0], high: carried[1], x: carried[2], load: carried[3], ..share };
        let (sums, registers) = carried[4..].split_first_chunk::<4>().expect("four sums");
        let (x, loaded) = (self.load_inputs_of(share), self.load(self.share(following)));
        (self.products(registers, &x, *sums), loaded)
    }

    /// Adds the products of one share.
    fn products(&self, weights: &[Value], x: &[Value], mut sums: [Value; 4]) -> [Value; 4] {
        let b = self.b;
        let x_words = x.len() / self.loads();
        for (&[l0, l1, l2, l3, h0, h1, h2, h3], x) in weights.as_chunks().0.iter().zip(x.chunks_exact(x_words)) {
            let fragments = match self.product.format {
                Elem::I8 => integer::fragments(b, [l0, l1, l2, l3], [h0, h1, h2, h3]),
                _ => vec![[l0, h0, l1, h1], [l2, h2, l3, h3]],
            };
            for (&fragment, &x) in fragments.iter().zip(x.as_chunks::<2>().0) {
                sums = b.mma_m16n8k16(fragment, x, sums);
            }
        }
        sums
    }

    /// 3. Adds the sums of the warps and stores the results.
    fn finish(&self, tile: &Tile, parity: Value, sums: [Value; 4]) {
        let b = self.b;
        let partials = b.at(b.shared(), b.scaled(parity, WARPS * PARTIAL_BYTES));
        let mine = b.at(partials, b.scaled(self.warp, PARTIAL_BYTES));
        // A warp's sums: 8 rows of 16 outputs.
        let byte = |row: Value, output: Value| b.scaled(b.add(b.scaled(row, OUTPUTS), output), 4);
        for (i, sum) in sums.into_iter().enumerate() {
            let row = b.add(b.scaled(self.q, 2), b.i32(i as i32 % 2));
            let output = b.add(self.g, b.i32(8 * (i as i32 / 2)));
            b.store(sum, b.at(mine, byte(row, output)));
        }
        b.sync();
        let outputs = OUTPUTS / self.product.finish.rows();
        let (row, output) = (b.div(b.thread(), b.i32(outputs as i32)), b.rem(b.thread(), b.i32(outputs as i32)));
        let sum = |output: Value| {
            let at = b.at(partials, byte(row, output));
            let warps = (0..WARPS).map(|warp| b.load(b.at_byte(at, warp * PARTIAL_BYTES), Type::scalar(Num::F32)));
            let sum = warps.reduce(|x, y| b.add(x, y)).expect("a block has warps");
            self.scaled(tile, output, sum)
        };
        let x_row = b.add(tile.first_row, row);
        let exists = b.and(
            b.cmp(Compare::Lt, b.thread(), b.i32((ROWS * outputs) as i32)),
            b.cmp(Compare::Lt, x_row, tile.end_row),
        );
        b.if_(exists, || {
            let column = b.add(b.scaled(tile.outputs, outputs), output);
            match self.product.finish {
                Finish::Swiglu => {
                    let (gate, up) = (sum(output), sum(b.add(output, b.i32(8))));
                    self.store(b.mul(b.silu(gate), up), x_row, column);
                }
                Finish::Linear { bias, activation } => {
                    let sum = sum(output);
                    let n = self.product.weight_rows() as i32;
                    let bias_at = || b.at(b.pointer("bias"), b.scaled(b.min(column, b.i32(n - 1)), 4));
                    let sum = if bias { b.add(sum, b.load(bias_at(), Type::scalar(Num::F32))) } else { sum };
                    self.store(activate(b, activation, sum), x_row, column);
                }
            }
        });
        b.sync_warp();
    }

    /// A sum times the scale of its row of the weight.
    fn scaled(&self, tile: &Tile, row: Value, sum: Value) -> Value {
        let b = self.b;
        if self.product.format != Elem::I8 {
            return sum;
        }
        let row = b.add(b.scaled(tile.outputs, OUTPUTS), row);
        let row = b.add(tile.weight_row, b.min(row, b.i32(self.product.weight_rows() as i32 - 1)));
        b.mul(sum, b.load(b.at(b.pointer("scales"), b.scaled(row, 4)), Type::scalar(Num::F32)))
    }

    /// Stores a result where its output exists; `column` counts the outputs of all parts, with their padding.
    fn store(&self, result: Value, row: Value, column: Value) {
        let (b, Product { sizes, out, .. }) = (self.b, self.product);
        let names: Vec<&str> = if sizes.len() == 1 { vec!["out"] } else { OUTS.to_vec() };
        let mut first = 0;
        for (name, &n) in names.iter().zip(sizes) {
            let column = b.sub(column, b.i32(first as i32));
            let exists = b.and(b.cmp(Compare::Le, b.i32(0), column), b.cmp(Compare::Lt, column, b.i32(n as i32)));
            b.if_(exists, || {
                let at = b.row(b.pointer(name), row, row_stride(*out, n) * out.bytes());
                let at = b.at(at, b.scaled(column, out.bytes()));
                match out {
                    Elem::F32 => b.store(result, at),
                    _ => b.store(b.round_bf16(result), at),
                }
            });
            first += n.next_multiple_of(BLOCK_ROWS);
        }
    }
}
