//! Rows times panels of integers on a CPU.
//!
//! 1. a block of rows of x is quantized ([`super::quantize`]), by every thread for itself
//! 2. sum: integers within a group of inputs, exactly; the groups in f32, in their order
//! 3. scale and store
//!
//! Few rows: the weights stream past once, all sums in registers. Many rows: a group of a panel is unpacked to i16, and the
//! block's tiles of rows pass over it; the f32 sums wait in an array, all of it in the first-level cache.
//!
//! Bound by memory for few rows. For many by the multiplications of 16 pairs, of which a core starts as many as of f32
//! multiply-adds, and by their additions, which take turns with them: on Zen 4 1.6 times the f32 peak is all there is.

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
    let (k, format) = (product.weights.k, product.weights.format);
    let quantized = Rows::new(b, k, format, rows_in_tile(b.target()));
    let n_rows = b.sub(rows.1, rows.0);
    let few = (rows_in_stream(b.target()) / product.unit).min(quantized.capacity);
    for n in 1..=few {
        b.if_(b.cmp(Compare::Eq, n_rows, b.index(n)), || stream(b, product, &quantized, n, rows.0, units));
    }
    b.if_(b.cmp(Compare::Gt, n_rows, b.index(few)), || blocks(b, product, &quantized, rows, units));
}

/// Quantizes a range of rows, the first into place 0.
fn fill(b: &Builder, product: &Product, quantized: &Rows, rows: Range) {
    b.for_each(rows.0, rows.1, 1, |row| {
        quantized.fill(b, product.x, (product.x_row)(row), b.sub(row, rows.0));
    });
}

/// The panels of a unit.
fn panels(b: &Builder, product: &Product, unit: Value) -> Vec<Value> {
    let first = b.add(product.first_panel, b.mul(unit, b.index(product.unit)));
    (0..product.unit).map(|panel| b.add(first, b.index(panel))).collect()
}

/// `n` rows: the panels stream past, one unit after the other, each sum in registers until it is whole.
fn stream(b: &Builder, product: &Product, quantized: &Rows, n: usize, row: Value, units: Range) {
    // 1. quantize
    fill(b, product, quantized, (row, b.add(row, b.index(n))));

    let weights = &product.weights;
    let places: Vec<Value> = (0..n).map(|row| b.index(row)).collect();
    let (lanes, registers) = (lanes(b.target()), LANES / lanes(b.target()));
    b.for_each(units.0, units.1, 1, |unit| {
        let panels = panels(b, product, unit);
        // 2. sum: for each panel, for each row, for each register of lanes
        let zeros = vec![b.splat(0.0, lanes); panels.len() * n * registers];
        let sums = b.for_range_vec(b.index(0), b.index(weights.n_groups()), 1, &zeros, |group, sums| {
            let integers = stream_group(b, product, quantized, &places, &panels, group);
            let mut next = Vec::with_capacity(sums.len());
            let of_panels = sums.chunks_exact(n * registers).zip(integers.chunks_exact(n * registers));
            for (&panel, (sums, integers)) in panels.iter().zip(of_panels) {
                let of_weights = weights.group_scales(b, panel, group);
                let scales =
                    places.iter().flat_map(|&place| scales(b, quantized, [group, place], of_weights.as_deref()));
                let terms = integers.iter().zip(scales).zip(sums);
                next.extend(terms.map(|((&integer, scale), &sum)| b.fma(b.to_f32(integer), scale, sum)));
            }
            next
        });

        // 3. store
        for (r, &place) in places.iter().enumerate() {
            let of_panel = |(p, &panel): (usize, &Value)| {
                weights.scale_channels(b, panel, b.concat(&sums[(p * n + r) * registers..][..registers]))
            };
            let sums: Vec<Value> = panels.iter().enumerate().map(of_panel).collect();
            (product.store)(b.add(row, place), unit, &sums);
        }
    });
}

/// The integer sums of a group: for each panel, for each row, for each register of lanes.
fn stream_group(
    b: &Builder,
    product: &Product,
    quantized: &Rows,
    places: &[Value],
    panels: &[Value],
    group: Value,
) -> Vec<Value> {
    let weights = &product.weights;
    let (lanes, registers) = (lanes(b.target()), LANES / lanes(b.target()));
    let starts: Vec<Value> = panels.iter().map(|&panel| weights.panel(b, panel)).collect();
    let (first_line, end) = weights.group_lines(b, group);
    let zeros = vec![b.splat_i32(0, lanes); panels.len() * places.len() * registers];
    b.for_range_vec(first_line, end, 1, &zeros, |line, integers| {
        let mut integers = integers.to_vec();
        let first_pair = b.mul(b.sub(line, first_line), b.index(weights.line_pairs()));
        for (&start, integers) in starts.iter().zip(integers.chunks_exact_mut(places.len() * registers)) {
            let at = b.add(start, b.mul(line, b.index(LINE)));
            b.prefetch(weights.integers, &[b.add(at, b.index(AHEAD))]);
            for (pair, weights) in weights.load_line(b, at).iter().enumerate() {
                let pair = b.add(first_pair, b.index(pair));
                for (&place, integers) in places.iter().zip(integers.chunks_exact_mut(registers)) {
                    madd(b, quantized, [group, place, pair], weights, integers);
                }
            }
        }
        integers
    })
}

/// Any number of rows: for each block of them, for each panel, for each group of its inputs, for each tile of rows.
fn blocks(b: &Builder, product: &Product, quantized: &Rows, rows: Range, units: Range) {
    let (weights, in_tile) = (&product.weights, rows_in_tile(b.target()).min(quantized.capacity));
    let sums = b.stack(Num::F32, &[quantized.capacity, product.unit * LANES]);
    let unpacked = b.stack(Num::I16, &[activation_group(weights.format) / 2, 2 * LANES]);
    b.for_each(rows.0, rows.1, quantized.capacity, |first| {
        // 1. quantize
        let end = b.min(b.add(first, b.index(quantized.capacity)), rows.1);
        fill(b, product, quantized, (first, end));

        // 2. sum
        let n_rows = b.sub(end, first);
        let rest = b.rem(n_rows, b.index(in_tile));
        let whole = b.sub(n_rows, rest);
        b.for_each(units.0, units.1, 1, |unit| {
            let panels = panels(b, product, unit);
            b.for_each(b.index(0), n_rows, 1, |row| {
                let columns = (0..panels.len()).map(|panel| b.index(panel * LANES));
                columns.for_each(|column| b.store(b.splat(0.0, LANES), sums, &[row, column]));
            });
            b.for_each(b.index(0), b.index(weights.n_groups()), 1, |group| {
                for (p, &panel) in panels.iter().enumerate() {
                    let n_pairs = unpack(b, weights, panel, group, unpacked);
                    let scales = weights.group_scales(b, panel, group);
                    let tile = Tile { quantized, unpacked, n_pairs, group, scales, sums, column: b.index(p * LANES) };
                    b.for_each(b.index(0), whole, in_tile, |row| tile.emit(b, row, in_tile));
                    for n in 1..in_tile {
                        b.if_(b.cmp(Compare::Eq, rest, b.index(n)), || tile.emit(b, whole, n));
                    }
                }
            });

            // 3. store
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

/// Unpacks a group of a panel; gives the number of its pairs.
fn unpack(b: &Builder, weights: &Weights, panel: Value, group: Value, unpacked: Buffer) -> Value {
    let (start, end) = weights.group_lines(b, group);
    let panel = weights.panel(b, panel);
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

/// A group of one panel, for tiles of rows to pass over.
struct Tile<'a> {
    quantized: &'a Rows,
    unpacked: Buffer,
    n_pairs: Value,
    group: Value,
    scales: Option<Vec<Value>>,
    sums: Buffer,
    column: Value,
}

impl Tile<'_> {
    /// Adds the group's products to the sums of `n` rows from place `row` on.
    fn emit(&self, b: &Builder, row: Value, n: usize) {
        let places: Vec<Value> = (0..n).map(|r| b.add(row, b.index(r))).collect();
        let (lanes, registers) = (lanes(b.target()), LANES / lanes(b.target()));
        let lane = |register: usize| b.index(2 * lanes * register);
        let zeros = vec![b.splat_i32(0, lanes); n * registers];
        let integers = b.for_range_vec(b.index(0), self.n_pairs, 2, &zeros, |pair, integers| {
            let mut integers = integers.to_vec();
            for pair in [pair, b.add(pair, b.index(1))] {
                let load = |register| b.load_vector(self.unpacked, &[pair, lane(register)], 2 * lanes);
                let weights: Vec<Value> = (0..registers).map(load).collect();
                for (&place, integers) in places.iter().zip(integers.chunks_exact_mut(registers)) {
                    madd(b, self.quantized, [self.group, place, pair], &weights, integers);
                }
            }
            integers
        });
        for (&place, integers) in places.iter().zip(integers.chunks_exact(registers)) {
            let scales = scales(b, self.quantized, [self.group, place], self.scales.as_deref());
            for (register, (&integer, scale)) in integers.iter().zip(scales).enumerate() {
                let at = [place, b.add(self.column, b.index(register * lanes))];
                let sum = b.load_vector(self.sums, &at, lanes);
                b.store(b.fma(b.to_f32(integer), scale, sum), self.sums, &at);
            }
        }
    }
}

/// Adds the products of a pair of a row's inputs, at `[group, place, pair]`, with the weights of each register.
fn madd(b: &Builder, quantized: &Rows, at: [Value; 3], weights: &[Value], sums: &mut [Value]) {
    let x = b.broadcast(b.load(quantized.pairs, &at), lanes(b.target()));
    let x = b.reinterpret(x, Num::I16);
    for (sum, &weights) in sums.iter_mut().zip(weights) {
        *sum = b.add(*sum, b.madd_pairs(weights, x));
    }
}

/// What multiplies the integer sums of a group of a row, at `[group, place]`, for each register.
fn scales(b: &Builder, quantized: &Rows, at: [Value; 2], weights: Option<&[Value]>) -> Vec<Value> {
    let x = b.broadcast(b.load(quantized.scales, &at), lanes(b.target()));
    match weights {
        Some(weights) => weights.iter().map(|&weights| b.mul(x, weights)).collect(),
        None => vec![x; LANES / lanes(b.target())],
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

/// Rows, times panels of a unit, up to which weights are read once.
fn rows_in_stream(target: CpuTarget) -> usize {
    match target.vector_bytes() {
        16 => 2,
        32 => 4,
        _ => 8,
    }
}
