//! Rows times panels of integers on a CPU.
//!
//! 1. a block of rows of x is quantized ([`super::quantize`]), by every thread for itself
//! 2. sum: integers within a group of inputs, exactly; the groups in f32, in their order
//! 3. scale and store
//!
//! Few rows: the weights of several panels stream past side by side. Many rows: a group of a panel is unpacked to i16, and
//! the block's tiles of rows pass over it; the f32 sums wait in an array, all of it in the first-level cache.
//!
//! Bound by memory for few rows. For many by the multiplications of pairs, of which a core starts as many registers as of
//! f32 multiply-adds, and by their additions, which take turns with them: the innermost loop alone, with all it reads in
//! the first-level cache, runs at 1.6 times the f32 peak on Zen 4.

use super::activation_group;
use super::quantize::Rows;
use super::weights::{HALVES, LINE, Weights, lanes};
use crate::cpu::builder::{Buffer, Builder, Num, Value};
use crate::kernel::{Elem, LANES};
use crate::target::CpuTarget;

/// How far ahead of its use a weight is fetched, in bytes: the hardware's prefetcher stops at each page of 4 KiB. Only where
/// streams are one or two: more cover for one another, and prefetches slow them down.
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
    let most_abreast = units_in_stream(b.target(), weights.format, 1, product.unit);
    let sums = b.stack(Num::F32, &[most_abreast * product.unit, quantized.capacity, LANES]);
    let unpacked = b.stack(Num::I16, &[activation_group(weights.format) / 2, 2 * LANES]);
    b.for_each(rows.0, rows.1, quantized.capacity, |first| {
        // 1. quantize
        let end = (first + quantized.capacity).min(rows.1);
        let n_rows = end - first;
        b.for_each(0, n_rows, 1, |row| {
            quantized.fill(b, product.x, (product.x_row)(first + row), row);
        });

        let abreast = abreast(b, weights.format, product.unit, n_rows);
        let n_groups = (units.1 - units.0).div_ceil(abreast);
        b.for_each(0, n_groups, 1, |group| {
            let unit = units.0 + group * abreast;
            let n_units = abreast.min(units.1 - unit);

            // 2. sum
            let first_panel = product.first_panel + unit * product.unit;
            let panels = Panels { weights, quantized: &quantized, first: first_panel, n_rows, sums };
            panels.sum(b, n_units * product.unit, (unpacked, product.unit));

            // 3. scale and store
            b.for_each(0, n_units, 1, |u| {
                b.for_each(0, n_rows, 1, |row| {
                    let of_panel = |p| {
                        let panel = u * product.unit + p;
                        let sums = b.load_vector(sums, &[panel, row, b.index(0)], LANES);
                        weights.scale_channels(b, first_panel + panel, sums)
                    };
                    let sums: Vec<Value> = (0..product.unit).map(of_panel).collect();
                    (product.store)(first + row, unit + u, &sums);
                });
            });
        });
    });
}

/// Panels from one on, the quantized rows, and where their sums go.
struct Panels<'a> {
    weights: &'a Weights,
    quantized: &'a Rows,
    first: Value,
    n_rows: Value,
    /// `[panels][rows][16]`.
    sums: Buffer,
}

impl Panels<'_> {
    /// Sums so many panels of units of so many.
    fn sum(&self, b: &Builder, n_panels: Value, (unpacked, unit): (Buffer, usize)) {
        let in_stream = rows_in_stream(b.target());
        let each = |sum: &dyn Fn(Value)| b.for_each(0, n_panels, 1, sum);
        let one_by_one = || {
            let are_few = self.n_rows.le(2 * in_stream);
            let stream = || {
                each(&|panel| {
                    for_each_tile(b, self.n_rows, in_stream, &|row, n| self.stream(b, (row, n), (panel, 1)));
                });
                []
            };
            let pass = || {
                each(&|panel| self.pass(b, panel, unpacked));
                []
            };
            b.if_else(are_few, stream, pass)
        };
        let tile = |rows: usize| (rows, units_in_stream(b.target(), self.weights.format, rows, unit) * unit);
        let tiles: Vec<_> = (1..in_stream).map(tile).filter(|&(_, panels)| panels > unit).collect();
        let are_abreast = tiles.iter().map(|&(rows, panels)| {
            let are_rows = self.n_rows.eq(rows);
            are_rows & n_panels.eq(panels)
        });
        let Some(are_abreast) = are_abreast.reduce(|any, this| any | this) else {
            one_by_one();
            return;
        };
        let abreast = || {
            for &(rows, panels) in &tiles {
                let are_rows = self.n_rows.eq(rows);
                b.if_(are_rows, || self.stream(b, (b.index(0), rows), (b.index(0), panels)));
            }
            []
        };
        b.if_else(are_abreast, abreast, one_by_one);
    }

    /// A tile of few rows and panels from a place on: the weights stream past.
    fn stream(&self, b: &Builder, (row, n_rows): (Value, usize), (panel, n_panels): (Value, usize)) {
        let lanes = lanes(b.target());
        let rows: Vec<Value> = (0..n_rows).map(|r| row + r).collect();
        let panels: Vec<Value> = (0..n_panels).map(|p| panel + p).collect();
        let zeros = vec![b.splat(0.0, lanes); n_rows * n_panels * LANES / lanes];
        let sums = b.for_range_vec(0, self.weights.n_groups(), 1, &zeros, |group, sums| {
            let integers = self.stream_group(b, (&rows, &panels), group);
            let of_weights = panels.iter().map(|&panel| self.weights.group_scales(b, self.first + panel, group));
            let of_weights: Vec<_> = of_weights.collect();
            let of_row = |&row| {
                let of_panel = |of_panel: &Option<Vec<Value>>| self.scales(b, [group, row], of_panel.as_deref());
                of_weights.iter().flat_map(of_panel).collect::<Vec<Value>>()
            };
            let terms = integers.iter().zip(rows.iter().flat_map(of_row)).zip(sums);
            terms.map(|((&integer, scale), &sum)| integer.to_f32().mul_add(scale, sum)).collect()
        });
        let tiles = rows.iter().flat_map(|&row| panels.iter().map(move |&panel| (row, panel)));
        for ((row, panel), sums) in tiles.zip(sums.chunks_exact(LANES / lanes)) {
            b.store(Value::concat(sums), self.sums, &[panel, row, b.index(0)]);
        }
    }

    /// The integer sums of a group, straight from the packed weights: for each row, each panel, each register of lanes.
    fn stream_group(&self, b: &Builder, (rows, panels): (&[Value], &[Value]), group: Value) -> Vec<Value> {
        let (weights, lanes) = (self.weights, lanes(b.target()));
        let registers = LANES / lanes;
        let starts: Vec<Value> = panels.iter().map(|&panel| weights.panel(self.first + panel)).collect();
        let (first_line, end) = weights.group_lines(group);
        let zeros = vec![b.splat_i32(0, lanes); rows.len() * panels.len() * registers];
        b.for_range_vec(first_line, end, 1, &zeros, |line, integers| {
            let mut integers = integers.to_vec();
            let lines: Vec<Value> = starts.iter().map(|&start| start + line * LINE).collect();
            if panels.len() <= 2 {
                lines.iter().for_each(|&line| b.prefetch(weights.integers, &[line + AHEAD]));
            }
            let first_pair = (line - first_line) * weights.line_pairs();
            let in_half = weights.line_pairs() / HALVES;
            for half in 0..HALVES {
                let pair = |p: usize| first_pair + (half * in_half + p);
                let load = |&row: &Value| (0..in_half).map(|p| self.load_pair(b, [group, row, pair(p)])).collect();
                let x: Vec<Vec<Value>> = rows.iter().map(load).collect();
                for (p, &line) in lines.iter().enumerate() {
                    let pairs = weights.load_half(b, line, half);
                    for (x, integers) in x.iter().zip(integers.chunks_exact_mut(panels.len() * registers)) {
                        let integers = &mut integers[p * registers..][..registers];
                        x.iter().zip(&pairs).for_each(|(&x, weights)| madd(b, x, weights, integers));
                    }
                }
            }
            integers
        })
    }

    /// A panel and many rows: for each group of the inputs, unpacked once, for each tile of rows.
    fn pass(&self, b: &Builder, panel: Value, unpacked: Buffer) {
        let number = self.first + panel;
        b.for_each(0, self.n_rows, 1, |row| b.store(b.splat(0.0, LANES), self.sums, &[panel, row, b.index(0)]));
        b.for_each(0, self.weights.n_groups(), 1, |group| {
            let n_pairs = self.unpack(b, (number, group), unpacked);
            let of_weights = self.weights.group_scales(b, number, group);
            for_each_tile(b, self.n_rows, rows_in_tile(b.target()), &|row, n| {
                let places: Vec<Value> = (0..n).map(|r| row + r).collect();
                let integers = self.pass_group(b, &places, (group, n_pairs), unpacked);
                for (&place, integers) in places.iter().zip(integers.chunks_exact(integers.len() / n)) {
                    let scales = self.scales(b, [group, place], of_weights.as_deref());
                    for (register, (&integer, scale)) in integers.iter().zip(scales).enumerate() {
                        let at = [panel, place, b.index(register * lanes(b.target()))];
                        let sum = b.load_vector(self.sums, &at, lanes(b.target()));
                        b.store(integer.to_f32().mul_add(scale, sum), self.sums, &at);
                    }
                }
            });
        });
    }

    /// Unpacks a group of a panel to `[pairs][2 · 16]`; gives the number of its pairs.
    fn unpack(&self, b: &Builder, (panel, group): (Value, Value), unpacked: Buffer) -> Value {
        let weights = self.weights;
        let (start, end) = weights.group_lines(group);
        let panel = weights.panel(panel);
        b.for_each(start, end, 1, |line| {
            let at = panel + line * LINE;
            let first_pair = (line - start) * weights.line_pairs();
            for (pair, registers) in weights.load_line(b, at).into_iter().enumerate() {
                for (register, weights) in registers.into_iter().enumerate() {
                    let lane = b.index(2 * register * lanes(b.target()));
                    b.store(weights, unpacked, &[first_pair + pair, lane]);
                }
            }
        });
        (end - start) * weights.line_pairs()
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
        b.for_range_vec(0, n_pairs, 2, &zeros, |pair, integers| {
            let mut integers = integers.to_vec();
            for pair in [pair, pair + 1] {
                let load = |register| b.load_vector(unpacked, &[pair, b.index(2 * lanes * register)], 2 * lanes);
                let weights: Vec<Value> = (0..registers).map(load).collect();
                for (&place, integers) in places.iter().zip(integers.chunks_exact_mut(registers)) {
                    madd(b, self.load_pair(b, [group, place, pair]), &weights, integers);
                }
            }
            integers
        })
    }

    /// A pair of a row's inputs, at `[group, place, pair]`, in every lane.
    fn load_pair(&self, b: &Builder, at: [Value; 3]) -> Value {
        b.load(self.quantized.pairs, &at).broadcast(lanes(b.target())).reinterpret(Num::I16)
    }

    /// What multiplies the integer sums of a group of a row, at `[group, place]`, for each register.
    fn scales(&self, b: &Builder, at: [Value; 2], weights: Option<&[Value]>) -> Vec<Value> {
        let x = b.load(self.quantized.scales, &at).broadcast(lanes(b.target()));
        match weights {
            Some(weights) => weights.iter().map(|&weights| x * weights).collect(),
            None => vec![x; LANES / lanes(b.target())],
        }
    }
}

/// Adds the products of a pair of inputs with the weights of each register.
fn madd(b: &Builder, x: Value, weights: &[Value], sums: &mut [Value]) {
    for (sum, &weights) in sums.iter_mut().zip(weights) {
        *sum = *sum + b.madd_pairs(weights, x);
    }
}

/// Units abreast for a number of rows.
fn abreast(b: &Builder, format: Elem, unit: usize, n_rows: Value) -> Value {
    let mut abreast = b.index(1);
    for n in 1..rows_in_stream(b.target()) {
        let units = units_in_stream(b.target(), format, n, unit);
        abreast = n_rows.eq(n).select(units, abreast);
    }
    abreast
}

/// Runs `tile(row, n)` for tiles of `in_tile` rows, and for what is left of them.
fn for_each_tile(b: &Builder, n_rows: Value, in_tile: usize, tile: &dyn Fn(Value, usize)) {
    let rest = n_rows % in_tile;
    let whole = n_rows - rest;
    b.for_each(0, whole, in_tile, |row| tile(row, in_tile));
    for n in 1..in_tile {
        b.if_(rest.eq(n), || tile(whole, n));
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

/// Streams of int8 weights that a thread reads at a time, at best. Of 1 to 12 the fastest for one row: 1.1 times the speed of
/// a single stream with prefetches, though with 16 registers half of the integer sums wait on the stack.
const STREAMS: usize = 8;

/// Units abreast for so many rows of a stream. Unpacking int4 keeps a core busy enough: two streams abreast, whose sums leave
/// the registers, were 0.85 times as fast as one.
fn units_in_stream(target: CpuTarget, format: Elem, rows: usize, unit: usize) -> usize {
    let streams = if format == Elem::I8 { STREAMS.min(2 * rows_in_stream(target)) } else { 1 };
    (streams / (rows * unit)).max(1)
}
