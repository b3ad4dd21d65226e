//! The kernel body of a product of few rows.
//!
//! 1. load the experts' offsets and the first tile's first weights; norm x, if it is a norm
//! 2. for each tile of the block, for each share of the inputs: load x, start to load the next weights, multiply
//! 3. add the warps' sums, finish, convolve, store

use super::{LOAD_BYTES, NORMED_ROWS, Normed, OUTPUTS, PARTIAL_BYTES, PARTIALS_BYTES, ROWS, WARPS, loads};
use crate::causal_conv1d;
use crate::cpu::builder::{Num, Type, Value};
use crate::hopper::facts::{VECTOR_BYTES, WARP};
use crate::hopper::fragment::{self, BLOCK, Fragment};
use crate::hopper::matmul::epilogue::activate;
use crate::hopper::matmul::tiles::{Tile, Tiles};
use crate::hopper::matmul::{Batch, Finish, Product, widened};
use crate::hopper::weight::{BLOCK_ROWS, INTERLEAVED};
use crate::hopper::work::At;
use crate::hopper::{Builder, COLUMNS, row_stride, rows};
use crate::kernel::Elem;
use crate::split_linear::OUTS;

/// State of the kernel.
struct Few<'a, 'm> {
    b: &'a Builder<'m>,
    product: &'a Product,
    tiles: Tiles<'a, 'm>,
    fragment: Fragment,
    /// The lane's row in the upper half, and its number within the four that share a row.
    row: Value,
    quad: Value,
    warp: Value,
}

/// The weights of one share. For each load, four registers of the lane's row in the upper half, then four of the lower
/// half.
type Registers = Vec<Value>;

/// Start of a share: pointers to the lane's row of the weight in each half and to its row of x, the number of the first
/// load, and whether the row of x exists.
#[derive(Clone, Copy)]
struct Share {
    upper: Value,
    lower: Value,
    x: Value,
    load: Value,
    row_exists: Value,
}

impl Share {
    /// Loop-carried values: all fields except the row's existence.
    fn values(self) -> [Value; 4] {
        [self.upper, self.lower, self.x, self.load]
    }

    /// Rebuilds the share from the first four loop-carried values.
    fn with(self, carried: &[Value]) -> Share {
        Share { upper: carried[0], lower: carried[1], x: carried[2], load: carried[3], ..self }
    }
}

pub(crate) fn emit(b: &Builder, product: &Product) {
    let tiles = Tiles::new(b, product, [OUTPUTS, ROWS], b.shared_at(PARTIALS_BYTES));
    if let Batch::Experts { .. } = product.batch {
        b.sync();
    }
    let fragment = Fragment::of(b);
    let (row, quad) = (fragment.first_row(), fragment.quad());
    let few = Few { b, product, tiles, fragment, row, quad, warp: b.warp() };
    let first = few.tiles.list.first(b);
    b.if_(few.tiles.list.exists(first), || few.run(first));
}

impl Few<'_, '_> {
    /// Loads per share.
    fn loads(&self) -> usize {
        loads(self.product)
    }

    /// Inputs per load by the four lanes of a row.
    fn load_inputs(&self) -> usize {
        LOAD_BYTES / self.product.format.bytes()
    }

    fn row_bytes(&self) -> usize {
        row_stride(self.product.format, self.product.k) * self.product.format.bytes()
    }

    /// Loads per row.
    fn row_loads(&self) -> usize {
        self.row_bytes() / LOAD_BYTES
    }

    /// 2. The loop over tiles, with the registers of the next share.
    fn run(&self, first: At) {
        let b = self.b;
        let share = self.share(&self.tiles.tile(first));
        let registers = self.load(share);
        if let Some(eps) = self.product.fused.norm {
            self.norm(eps);
        }
        let init = [&first.values()[..], &[b.i32(0)], &registers].concat();
        b.while_vec(
            &init,
            |carried| self.tiles.list.exists(At::of(carried)),
            |carried| {
                let (at, parity, registers) = (At::of(carried), carried[3], &carried[4..]);
                let tile = self.tiles.tile(at);
                let next = self.tiles.list.next(b, at);
                // After the last tile, the loads read an existing tile and are not used.
                let following = self.tiles.tile(self.tiles.list.or(next, at));
                let (sums, registers) = self.multiply(&tile, &following, registers);
                self.finish(&tile, parity, sums);
                [&next.values()[..], &[parity ^ 1], &registers].concat()
            },
        );
    }

    /// This warp's first share of a tile.
    fn share(&self, tile: &Tile) -> Share {
        let b = self.b;
        let skipped = self.warp * self.loads();
        let (weight_bytes, lane_bytes) = (skipped * LOAD_BYTES, self.quad * VECTOR_BYTES);
        let row = tile.outputs * OUTPUTS + self.row;
        let weight_rows = self.product.weight_rows();
        let weight = |row: Value| {
            let at = b.row(b.pointer("weight"), tile.weight_row + row, self.row_bytes());
            b.at(at, weight_bytes + lane_bytes)
        };
        let (upper, lower) = match weight_rows % OUTPUTS {
            0 => (weight(row), b.at_byte(weight(row), BLOCK * self.row_bytes())),
            // Outputs beyond the last are computed from the last output's weights and not stored.
            _ => {
                let last = b.i32(weight_rows as i32 - 1);
                (weight(row.min(last)), weight((row + BLOCK).min(last)))
            }
        };
        let x_row = tile.first_row + self.row;
        let row_exists = x_row.lt(tile.end_row);
        let x_row = row_exists.select(x_row, 0);
        let x = match self.product.fused.norm {
            None => b.row(b.pointer("x"), x_row, 2 * row_stride(Elem::Bf16, self.product.k)),
            Some(_) => b.at(b.shared_at(PARTIALS_BYTES), x_row * Normed::of(self.product).row_bytes),
        };
        let lane_bytes_of_x = if self.product.is_widened() { 4 } else { 16 };
        let x_bytes = skipped * (2 * self.load_inputs()) + self.quad * lane_bytes_of_x;
        Share { upper, lower, x: b.at(x, x_bytes), load: skipped, row_exists }
    }

    /// This warp's next share in the same tile, after those of the other warps.
    fn after(&self, share: Share) -> Share {
        let (b, loads) = (self.b, WARPS * self.loads());
        Share {
            upper: b.at_byte(share.upper, loads * LOAD_BYTES),
            lower: b.at_byte(share.lower, loads * LOAD_BYTES),
            x: b.at_byte(share.x, loads * 2 * self.load_inputs()),
            load: share.load + loads,
            row_exists: share.row_exists,
        }
    }

    /// Starts the loads of a share's weights; zeros beyond the end of the row.
    fn load(&self, share: Share) -> Registers {
        let b = self.b;
        let mut registers = Vec::new();
        for load in 0..self.loads() {
            let number = share.load + load;
            let exists = number.lt(self.row_loads());
            for row in [share.upper, share.lower] {
                registers.extend(b.load_streamed_or_zero(b.at_byte(row, load * LOAD_BYTES), exists));
            }
        }
        registers
    }

    /// Loads the inputs of a share.
    fn load_inputs_of(&self, share: Share) -> Registers {
        let b = self.b;
        let load = |load: usize| {
            let number = share.load + load;
            self.load_x(b.at_byte(share.x, load * 2 * self.load_inputs()), number, share.row_exists)
        };
        (0..self.loads()).flat_map(load).collect()
    }

    /// The inputs that this lane multiplies in one load; zero beyond the last input, where memory may hold NaN.
    fn load_x(&self, at: Value, load: Value, row_exists: Value) -> Vec<Value> {
        let (b, k) = (self.b, self.product.k);
        if self.product.fused.norm.is_some() {
            // Zeros follow the last input. A row that does not exist is the first: its results are not stored.
            return match self.product.is_widened() {
                true => (0..8).map(|block| b.load(b.at_byte(at, 2 * BLOCK * block), Type::scalar(Num::I32))).collect(),
                false => lanes(b.load(at, Type::vector(Num::I32, 4))),
            };
        }
        let first = load * self.load_inputs();
        let exists = |input: Value| row_exists & input.lt(k);
        // Two inputs, from `first` + `offset` on.
        let pair = |first: Value, offset: usize| {
            let (input, at) = (first + offset, b.at_byte(at, 2 * offset));
            match k % 2 {
                0 => b.load_word_or_zero(at, exists(input)),
                _ => b.load_halves_or_zero(at, [exists(input), exists(input + 1)]),
            }
        };
        if self.product.is_widened() {
            // Both column blocks of four steps.
            let first = first + self.fragment.first_column();
            return (0..8).map(|block| pair(first, BLOCK * block)).collect();
        }
        let first = first + self.quad * 8;
        match k.is_multiple_of(8) {
            true => b.load_or_zero(at, exists(first)).to_vec(),
            false => (0..4).map(|number| pair(first, 2 * number)).collect(),
        }
    }

    /// Sums of this warp's shares of a tile, and the registers for the next tile.
    fn multiply(&self, tile: &Tile, following: &Tile, registers: &[Value]) -> ([Value; 4], Registers) {
        let b = self.b;
        let n_shares = self.row_loads().div_ceil(self.loads() * WARPS);
        let share = self.share(tile);
        let init = [&share.values()[..], &[b.f32(0.0); 4], registers].concat();
        // Inside the loop, the next share is in the same tile.
        let carried = b.for_range_vec(b.i32(1), b.i32(n_shares as i32), 1, &init, |_, carried| {
            let share = share.with(carried);
            let (sums, registers) = carried[4..].split_first_chunk::<4>().expect("four sums");
            let next = self.after(share);
            let (x, loaded) = (self.load_inputs_of(share), self.load(next));
            let sums = self.products(registers, &x, *sums);
            [&next.values()[..], &sums, &loaded].concat()
        });
        let share = share.with(&carried);
        let (sums, registers) = carried[4..].split_first_chunk::<4>().expect("four sums");
        let (x, loaded) = (self.load_inputs_of(share), self.load(self.share(following)));
        (self.products(registers, &x, *sums), loaded)
    }

    /// Adds the products of one share.
    fn products(&self, weights: &[Value], x: &[Value], mut sums: [Value; 4]) -> [Value; 4] {
        let b = self.b;
        let x_words = x.len() / self.loads();
        let rows = weights.as_chunks::<4>().0.as_chunks::<2>().0;
        for (&[upper, lower], x) in rows.iter().zip(x.chunks_exact(x_words)) {
            let operands = match self.product.format {
                format @ (Elem::I8 | Elem::F8) => widened::fragments(b, format, upper, lower),
                _ => {
                    let [upper, lower] = [&upper, &lower].map(|row| row.as_chunks().0);
                    upper.iter().zip(lower).map(|(&upper, &lower)| fragment::left(upper, lower)).collect()
                }
            };
            for (&weights, &x) in operands.iter().zip(x.as_chunks::<2>().0) {
                sums = b.mma_m16n8k16(weights, x, sums);
            }
        }
        sums
    }

    /// 3. Adds the warps' sums and stores the results.
    fn finish(&self, tile: &Tile, parity: Value, sums: [Value; 4]) {
        let b = self.b;
        let partials = b.at(b.shared(), parity * (WARPS * PARTIAL_BYTES));
        let mine = b.at(partials, self.warp * PARTIAL_BYTES);
        // A warp's sums: 8 rows of 16 outputs.
        let byte = |row: Value, output: Value| (row * OUTPUTS + output) * 4;
        for (i, sum) in sums.into_iter().enumerate() {
            // Weights are the left operand, so rows of the accumulator are outputs and its columns are rows of x.
            let (row, output) = (self.fragment.column(i), self.fragment.row(i));
            b.store(sum, b.at(mine, byte(row, output)));
        }
        b.sync();
        let outputs = OUTPUTS / self.product.finish.rows();
        let (row, output) = (b.thread() / outputs, b.thread() % outputs);
        let sum = |output: Value| {
            let at = b.at(partials, byte(row, output));
            let warps = (0..WARPS).map(|warp| b.load(b.at_byte(at, warp * PARTIAL_BYTES), Type::scalar(Num::F32)));
            let sum = warps.reduce(|x, y| x + y).expect("a block has warps");
            self.scaled(tile, output, sum)
        };
        let x_row = tile.first_row + row;
        let exists = b.thread().lt(ROWS * outputs) & x_row.lt(tile.end_row);
        b.if_(exists, || {
            let column = tile.outputs * outputs + output;
            match self.product.finish {
                Finish::Swiglu => {
                    let (gate, up) = (sum(output), sum(output + INTERLEAVED));
                    self.store(b.silu(gate) * up, x_row, column);
                }
                Finish::Linear { bias, activation } => {
                    let sum = sum(output);
                    let n = self.product.weight_rows() as i32;
                    let bias_at = || b.at(b.pointer("bias"), column.min(n - 1) * 4);
                    let sum = if bias { sum + b.load(bias_at(), Type::scalar(Num::F32)) } else { sum };
                    let result = activate(b, activation, sum);
                    let result = match &self.product.fused.conv {
                        Some(conv) => {
                            let convolve = || [self.convolve(conv, x_row, column, result)];
                            let [result] = b.if_else(column.lt(conv.channels), convolve, || [result]);
                            result
                        }
                        None => result,
                    };
                    self.store(result, x_row, column);
                }
            }
        });
        b.sync_warp();
    }

    /// Norms the rows into shared memory (step 1): the sum of a and b, by the order of sums of [`crate::rms_norm`], rounded to bf16. The
    /// first block stores the sums.
    fn norm(&self, eps: f64) {
        let (b, k) = (self.b, self.product.k);
        let normed = Normed::of(self.product);
        let (rows_at, sums_at) = (b.shared_at(PARTIALS_BYTES), PARTIALS_BYTES + NORMED_ROWS * normed.row_bytes);
        let sums_at = b.shared_at(sums_at);
        self.fill_padding(&normed, rows_at);
        let n_threads = WARPS * WARP as usize;
        let threads = normed.n_warps * WARP as usize;
        // Threads of the block that norms a row by itself, and the vectors of each, which one thread of this block takes.
        let rounds = threads.div_ceil(n_threads);
        let n_vectors = k.div_ceil(COLUMNS).div_ceil(threads);
        let column = |round: usize, number: usize| (b.thread() + (round * n_threads + number * threads)) * COLUMNS;
        let exists = |round: usize, number: usize| {
            let is_thread = (b.thread() + round * n_threads).lt(threads);
            is_thread & column(round, number).lt(k)
        };
        let is_first = b.block().eq(0);
        b.for_each(b.i32(0), b.count("rows"), 1, |row| {
            let f32_row = |name| b.row(b.pointer(name), row, 4 * row_stride(Elem::F32, k));
            let (a, other, sum) = (f32_row("a"), f32_row("b"), f32_row("sum"));
            let mut kept = Vec::new();
            for round in 0..rounds {
                let load = |number: usize| {
                    let column = column(round, number);
                    let load = || {
                        let x = rows::load_f32(b, a, column) + rows::load_f32(b, other, column);
                        b.if_(is_first, || rows::store(b, x, Elem::F32, sum, column));
                        [rows::masked(b, k, column, x)]
                    };
                    let [x] = b.if_else(exists(round, number), load, || [b.splat(0.0, COLUMNS)]);
                    x
                };
                let vectors: Vec<Value> = (0..n_vectors).map(load).collect();
                let squares = vectors.iter().fold(b.splat(0.0, COLUMNS), |squares, &x| x.mul_add(x, squares));
                let of_warp = b.warp_sum(squares.reduce_add());
                let warp = b.warp() + round * WARPS;
                b.if_(b.lane().eq(0) & warp.lt(normed.n_warps), || b.store(of_warp, b.at(sums_at, warp * 4)));
                kept.push(vectors);
            }
            b.sync();
            let of_warp = |warp: usize| b.load(b.at_byte(sums_at, 4 * warp), Type::scalar(Num::F32));
            let square = (0..normed.n_warps).map(of_warp).reduce(|x, y| x + y).expect("a block has warps");
            let scale = rows::inverse(b, k, eps, square);
            let row_at = b.at(rows_at, row * normed.row_bytes);
            for (round, vectors) in kept.iter().enumerate() {
                for (number, &x) in vectors.iter().enumerate() {
                    let column = column(round, number);
                    b.if_(exists(round, number), || {
                        let weight = rows::load_dense(b, b.pointer("norm"), k, column);
                        rows::store(b, x * scale * weight, Elem::Bf16, row_at, column);
                    });
                }
            }
            b.sync();
        });
    }

    /// Writes zeros behind the normed rows.
    fn fill_padding(&self, normed: &Normed, rows_at: Value) {
        let b = self.b;
        let first = self.product.k.next_multiple_of(COLUMNS) * Elem::Bf16.bytes();
        let n_words = (normed.row_bytes - first) / 4;
        let n_threads = WARPS * WARP as usize;
        for from in (0..n_words).step_by(n_threads) {
            let word = b.thread() + from;
            b.if_(word.lt(n_words), || {
                for row in 0..NORMED_ROWS {
                    b.store(b.i32(0), b.at(b.at_byte(rows_at, row * normed.row_bytes + first), word * 4));
                }
            });
        }
    }

    /// The convolution of a channel whose last input is u, as stored in bf16; the next state.
    fn convolve(&self, conv: &causal_conv1d::Spec, row: Value, channel: Value, u: Value) -> Value {
        let b = self.b;
        let past = conv.taps - 1;
        let slot = b.entry("slots", b.entry("sequence_of", row)).to_i64() * b.scalar("slot_stride").to_i64();
        let state = b.at(b.at(b.pointer("state"), slot * 4), channel * 4);
        let f32_at = |at: Value| b.load(at, Type::scalar(Num::F32));
        let place = |k: usize| b.at_byte(state, k * 4 * conv.state_row());
        let mut inputs: Vec<Value> = (0..past).map(|k| f32_at(place(k))).collect();
        let [u, _] = b.unpack_bf16(b.pack_bf16(u, u));
        inputs.push(u);
        for (k, &input) in inputs[1..].iter().enumerate() {
            b.store(input, place(k));
        }
        let weights = b.at(b.pointer("conv_weight"), channel * (4 * conv.taps));
        let weight = |k: usize| f32_at(b.at_byte(weights, 4 * k));
        let mut sum = inputs[0] * weight(0);
        for (k, &input) in inputs.iter().enumerate().skip(1) {
            sum = input.mul_add(weight(k), sum);
        }
        if conv.bias {
            sum = sum + f32_at(b.at(b.pointer("conv_bias"), channel * 4));
        }
        activate(b, conv.activation, sum)
    }

    /// A sum times the scale of its weight row.
    fn scaled(&self, tile: &Tile, row: Value, sum: Value) -> Value {
        let b = self.b;
        if !self.product.is_widened() {
            return sum;
        }
        let row = tile.outputs * OUTPUTS + row;
        let row = tile.weight_row + row.min(self.product.weight_rows() - 1);
        sum * b.load(b.at(b.pointer("scales"), row * 4), Type::scalar(Num::F32))
    }

    /// Stores a result if its output exists; `column` counts the outputs of all parts, including padding.
    fn store(&self, result: Value, row: Value, column: Value) {
        let (b, Product { sizes, out, .. }) = (self.b, self.product);
        let names: Vec<&str> = if sizes.len() == 1 { vec!["out"] } else { OUTS.to_vec() };
        let mut first = 0;
        for (name, &n) in names.iter().zip(sizes) {
            let column = column - first;
            let exists = b.i32(0).le(column) & column.lt(n);
            b.if_(exists, || {
                let at = b.row(b.pointer(name), row, row_stride(*out, n) * out.bytes());
                let at = b.at(at, column * out.bytes());
                match out {
                    Elem::F32 => b.store(result, at),
                    _ => b.store(b.round_bf16(result), at),
                }
            });
            first += n.next_multiple_of(BLOCK_ROWS);
        }
    }
}

/// The lanes of a vector.
fn lanes(x: Value) -> Vec<Value> {
    (0..x.lanes()).map(|lane| x.lane(lane)).collect()
}
