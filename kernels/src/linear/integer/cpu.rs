//! Rows times panels of integers on a CPU.
//!
//! 1. a block of rows of x is quantized ([`super::quantize`]), by every thread for itself
//! 2. sum: integers within a group of inputs, exactly; the groups in f32, in their order
//! 3. scale and store
//!
//! Few rows: the weights stream past, all sums of a tile in registers. Many rows: a group of a panel is unpacked to i16, and
//! the block's tiles of rows pass over it; the f32 sums wait in an array, all of it in the first-level cache.
//!
//! Bound by memory for few rows. For many by the multiplications of pairs, of which a core starts as many registers as of
//! f32 multiply-adds, and by their additions, which take turns with them: the innermost loop alone, with all it reads in
//! the first-level cache, runs at 1.6 times the f32 peak on Zen 4.

use super::activation_group;
use super::quantize::Rows;
use super::weights::{LINE, Weights, lanes};
use crate::builder::{Buffer, Builder, Compare, Num, Value};
use crate::kernel::LANES;
use crate::target::CpuTarget;

/// How far ahead of its use a weight is fetched, in bytes: the hardware's prefetcher stops at each page of 4 KiB.
const AHEAD: usize = 2048;

/// A product of rows and panels of integers.
pub(crate) struct Product<'a> {
    /// The panels.
    pub(crate) weights: Weights,
    /// Rows of x.
    pub(crate) x: Buffer,
    /// Number of the matrix's first panel among all panels of `weights`.
    pub(crate) first_panel: Value,
    /// Panels that are finished together.
    pub(crate) unit: usize,
    /// The row of x that row number r reads.
    pub(crate) x_row: &'a dyn Fn(Value) -> Value,
    /// Takes the sums of a row and a unit of panels.
    pub(crate) store: &'a dyn Fn(Value, Value, &[Value]),
}

/// A range of indices.
pub(crate) type Range = (Value, Value);

/// Sums for a range of rows and a range of units of panels.
pub(crate) fn emit(b: &Builder, product: &Product, rows: Range, units: Range) {
    let weights = &product.weights;
    let quantized = Rows::new(b, weights.k, weights.format, rows_in_tile(b.target()));
    let sums = b.stack(Num::F32, &[quantized.capacity, product.unit * LANES]);
    let unpacked = b.stack(Num::I16, &[activation_group(weights.format) / 2, 2 * LANES]);
    b.for_each(rows.0, rows.1, quantized.capacity, |first| {
        // 1. quantize
        let end = b.min(b.add(first, b.index(quantized.capacity)), rows.1);
        let n_rows = b.sub(end, first);
        b.for_each(b.index(0), n_rows, 1, |row| {
            quantized.fill(b, product.x, (product.x_row)(b.add(first, row)), row);
        });

        b.for_each(units.0, units.1, 1, |unit| {
            // 2. sum
            let first_panel = b.add(product.first_panel, b.mul(unit, b.index(product.unit)));
            let panels: Vec<Value> = (0..product.unit).map(|panel| b.add(first_panel, b.index(panel))).collect();
            for (p, &panel) in panels.iter().enumerate() {
                let panel = Panel { weights, quantized: &quantized, panel, sums, column: b.index(p * LANES) };
                let are_few = b.cmp(Compare::Le, n_rows, b.index(2 * rows_in_stream(b.target())));
                let stream = || {
                    panel.stream(b, n_rows);
                    []
                };
                let pass = || {
                    panel.pass(b, n_rows, unpacked);
                    []
                };
                b.if_else(are_few, stream, pass);
            }

            // 3. scale and store
            b.for_each(b.index(0), n_rows, 1, |row| {
                let of_panel = |(p, &panel): (usize, &Value)| {
                    weights.scale_channels(b, panel, b.load_vector(sums, &[row, b.index(p * LANES)], LANES))
                };
                let sums: Vec<Value> = panels.iter().enumerate().map(of_panel).collect();
                (product.store)(b.add(first, row), unit, &sums);
            });
        });
    });
}

/// One panel, the quantized rows, and where their sums go.
struct Panel<'a> {
    weights: &'a Weights,
    quantized: &'a Rows,
    panel: Value,
    /// `[rows][unit · 16]`.
    sums: Buffer,
    /// The panel's first column in `sums`.
    column: Value,
}

impl Panel<'_> {
    /// Few rows: a tile of them after the other, each sum in registers until it is whole.
    fn stream(&self, b: &Builder, n_rows: Value) {
        for_each_tile(b, n_rows, rows_in_stream(b.target()), &|row, n| self.stream_tile(b, row, n));
    }

    /// `n` rows from place `row` on.
    fn stream_tile(&self, b: &Builder, row: Value, n: usize) {
        let lanes = lanes(b.target());
        let places: Vec<Value> = (0..n).map(|r| b.add(row, b.index(r))).collect();
        let zeros = vec![b.splat(0.0, lanes); n * LANES / lanes];
        let sums = b.for_range_vec(b.index(0), b.index(self.weights.n_groups()), 1, &zeros, |group, sums| {
            let integers = self.stream_group(b, &places, group);
            let of_weights = self.weights.group_scales(b, self.panel, group);
            let scales = places.iter().flat_map(|&place| self.scales(b, [group, place], of_weights.as_deref()));
            let terms = integers.iter().zip(scales).zip(sums);
            terms.map(|((&integer, scale), &sum)| b.fma(b.to_f32(integer), scale, sum)).collect()
        });
        for (&place, sums) in places.iter().zip(sums.chunks_exact(LANES / lanes)) {
            b.store(b.concat(sums), self.sums, &[place, self.column]);
        }
    }

    /// The integer sums of a group, straight from the packed weights: for each row, for each register of lanes.
    fn stream_group(&self, b: &Builder, places: &[Value], group: Value) -> Vec<Value> {
        let (weights, lanes) = (self.weights, lanes(b.target()));
        let start = weights.panel(b, self.panel);
        let (first_line, end) = weights.group_lines(b, group);
        let zeros = vec![b.splat_i32(0, lanes); places.len() * LANES / lanes];
        b.for_range_vec(first_line, end, 1, &zeros, |line, integers| {
            let mut integers = integers.to_vec();
            let at = b.add(start, b.mul(line, b.index(LINE)));
            b.prefetch(weights.integers, &[b.add(at, b.index(AHEAD))]);
            let first_pair = b.mul(b.sub(line, first_line), b.index(weights.line_pairs()));
            for (pair, registers) in weights.load_line(b, at).iter().enumerate() {
                let pair = b.add(first_pair, b.index(pair));
                for (&place, integers) in places.iter().zip(integers.chunks_exact_mut(registers.len())) {
                    self.madd(b, [group, place, pair], registers, integers);
                }
            }
            integers
        })
    }

    /// Many rows: for each group of the inputs, unpacked once, for each tile of rows.
    fn pass(&self, b: &Builder, n_rows: Value, unpacked: Buffer) {
        b.for_each(b.index(0), n_rows, 1, |row| b.store(b.splat(0.0, LANES), self.sums, &[row, self.column]));
        b.for_each(b.index(0), b.index(self.weights.n_groups()), 1, |group| {
            let n_pairs = self.unpack(b, group, unpacked);
            let of_weights = self.weights.group_scales(b, self.panel, group);
            for_each_tile(b, n_rows, rows_in_tile(b.target()), &|row, n| {
                let places: Vec<Value> = (0..n).map(|r| b.add(row, b.index(r))).collect();
                let integers = self.pass_group(b, &places, (group, n_pairs), unpacked);
                for (&place, integers) in places.iter().zip(integers.chunks_exact(integers.len() / n)) {
                    let scales = self.scales(b, [group, place], of_weights.as_deref());
                    for (register, (&integer, scale)) in integers.iter().zip(scales).enumerate() {
                        let at = [place, b.add(self.column, b.index(register * lanes(b.target())))];
                        let sum = b.load_vector(self.sums, &at, lanes(b.target()));
                        b.store(b.fma(b.to_f32(integer), scale, sum), self.sums, &at);
                    }
                }
            });
        });
    }

    /// Unpacks a group of the panel to `[pairs][2 · 16]`; gives the number of its pairs.
    fn unpack(&self, b: &Builder, group: Value, unpacked: Buffer) -> Value {
        let weights = self.weights;
        let (start, end) = weights.group_lines(b, group);
        let panel = weights.panel(b, self.panel);
        b.for_each(start, end, 1, |line| {
            let at = b.add(panel, b.mul(line, b.index(LINE)));
            let first_pair = b.mul(b.sub(line, start), b.index(weights.line_pairs()));
            for (pair, registers) in weights.load_line(b, at).into_iter().enumerate() {
                for (register, weights) in registers.into_iter().enumerate() {
                    let lane = b.index(2 * register * lanes(b.target()));
                    b.store(weights, unpacked, &[b.add(first_pair, b.index(pair)), lane]);
                }
            }
        });
        b.mul(b.sub(end, start), b.index(weights.line_pairs()))
    }

    /// The integer sums of a group from the unpacked weights: for each row, for each register of lanes.
    fn pass_group(
        &self,
        b: &Builder,
        places: &[Value],
        (group, n_pairs): (Value, Value),
        unpacked: Buffer,
    ) -> Vec<Value> {
        let (lanes, registers) = (lanes(b.target()), LANES / lanes(b.target()));
        let zeros = vec![b.splat_i32(0, lanes); places.len() * registers];
        b.for_range_vec(b.index(0), n_pairs, 2, &zeros, |pair, integers| {
            let mut integers = integers.to_vec();
            for pair in [pair, b.add(pair, b.index(1))] {
                let load = |register| b.load_vector(unpacked, &[pair, b.index(2 * lanes * register)], 2 * lanes);
                let weights: Vec<Value> = (0..registers).map(load).collect();
                for (&place, integers) in places.iter().zip(integers.chunks_exact_mut(registers)) {
                    self.madd(b, [group, place, pair], &weights, integers);
                }
            }
            integers
        })
    }

    /// Adds the products of a pair of a row's inputs, at `[group, place, pair]`, with the weights of each register.
    fn madd(&self, b: &Builder, at: [Value; 3], weights: &[Value], sums: &mut [Value]) {
        let x = b.broadcast(b.load(self.quantized.pairs, &at), lanes(b.target()));
        let x = b.reinterpret(x, Num::I16);
        for (sum, &weights) in sums.iter_mut().zip(weights) {
            *sum = b.add(*sum, b.madd_pairs(weights, x));
        }
    }

    /// What multiplies the integer sums of a group of a row, at `[group, place]`, for each register.
    fn scales(&self, b: &Builder, at: [Value; 2], weights: Option<&[Value]>) -> Vec<Value> {
        let x = b.broadcast(b.load(self.quantized.scales, &at), lanes(b.target()));
        match weights {
            Some(weights) => weights.iter().map(|&weights| b.mul(x, weights)).collect(),
            None => vec![x; LANES / lanes(b.target())],
        }
    }
}

/// Runs `tile(row, n)` for tiles of `in_tile` rows, and for what is left of them.
fn for_each_tile(b: &Builder, n_rows: Value, in_tile: usize, tile: &dyn Fn(Value, usize)) {
    let rest = b.rem(n_rows, b.index(in_tile));
    let whole = b.sub(n_rows, rest);
    b.for_each(b.index(0), whole, in_tile, |row| tile(row, in_tile));
    for n in 1..in_tile {
        b.if_(b.cmp(Compare::Eq, rest, b.index(n)), || tile(whole, n));
    }
}

/// Rows of a tile of one panel: their sums and the panel's weights fill the registers.
fn rows_in_tile(target: CpuTarget) -> usize {
    match target.vector_bytes() {
        16 => 2,
        32 => 6,
        _ => 12,
    }
}

/// Rows of a tile while the weights stream past: registers are left to unpack them. Two such tiles are few rows.
fn rows_in_stream(target: CpuTarget) -> usize {
    match target.vector_bytes() {
        16 => 2,
        32 => 4,
        _ => 8,
    }
}
