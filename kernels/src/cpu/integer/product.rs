//! Rows times integer panels on CPUs.
//!
//! 1. quantize a block of rows of x ([`super::quantize`]), in every thread separately
//! 2. sum: exact integer sums within a group of inputs; f32 sums over the groups, in order
//! 3. scale and store
//!
//! Few rows: the weights of several panels are streamed side by side. Many rows: a group of a panel is unpacked to i16 and
//! used by all row tiles of the block; the f32 sums are kept in an array that fits in the L1 cache.
//!
//! Bound by memory for few rows. For many rows, bound by pair multiplications, which a core issues at the rate of f32
//! multiply-adds (in registers), and by their additions, which compete with them: the innermost loop alone, with all its
//! operands in L1, runs at 1.6 times the f32 peak on Zen 4.

use super::activation_group;
use super::bytes::{OCTET, Octets};
use super::quantize::{Form, Rows};
use super::tiles::{self, Tiles};
use super::weights::{Integers, lanes};
use crate::cpu::builder::{Buffer, Builder, Num, Range, Value};
use crate::cpu::product::{Product, Region, abreast, for_each_group, rows_multiple};
use crate::kernel::{Elem, LANES};
use crate::target::{ArmLevel, CpuTarget};

/// Prefetch distance of weights, in bytes: the hardware prefetcher stops at each 4 KiB page. Used only for one or two
/// streams: more streams hide the latency themselves, and prefetches slow them down.
const AHEAD: usize = 2048;

/// Sums and stores a range of rows and a range of units.
pub(in crate::cpu) fn emit(b: &Builder, product: &Product, weights: &Integers, rows: Range, units: Range) {
    let (target, unit) = (b.target(), product.unit);
    let units_in_stream = |rows| units_in_stream(target, weights.format, rows, unit);
    let quantized = Rows::new(b, weights.k, weights.format, rows_multiple(target, rows_in_tile(target)));
    let n_panels = units_in_stream(1) * unit;
    let n_panels = if target.has_tiles() { n_panels.max(tiles::PANELS) } else { n_panels };
    let sums = b.stack(Num::F32, &[n_panels, quantized.capacity, LANES]);
    let group = activation_group(weights.format);
    let unpacked = match target {
        CpuTarget::X86(_) => b.stack(Num::I16, &[group / 2, 2 * LANES]),
        CpuTarget::Arm(_) => Octets::unpacked(b, group),
    };
    let tiles = Tiles::new(b, product, weights, &quantized, sums);
    b.for_each(rows.start, rows.end, quantized.capacity, |row| {
        let end = (row + quantized.capacity).min(rows.end);
        let n_rows = end - row;
        let vectors = || {
            // 1. quantize
            b.for_each(0, n_rows, 1, |r| quantized.fill(b, product.x, (product.x_row)(row + r), r, Form::Pairs));

            let abreast = abreast(b, n_rows, 1..rows_in_stream(target), units_in_stream);
            for_each_group(b, units, abreast, |first_unit, n_units| {
                // 2. sum
                let first = product.first_panel + first_unit * unit;
                let panels = Panels { b, weights, quantized: &quantized, first, unit, n_rows, sums, unpacked };
                panels.sum(n_units * unit);

                // 3. scale and store
                let block = Region { row, n_rows, unit: first_unit, n_units };
                product.store_region(b, &block, |panel, r| {
                    let sums = b.load_vector(sums, (panel, r, 0), LANES);
                    weights.scale_channels(b, first + panel, sums)
                });
            });
        };
        let Some(tiles) = &tiles else { return vectors() };
        let in_vectors = || {
            vectors();
            []
        };
        let in_tiles = || {
            tiles.emit(row, n_rows, units);
            []
        };
        b.if_else(n_rows.le(tiles::FEW), in_vectors, in_tiles);
    });
}

/// A group of panels, the quantized rows, and stack arrays.
struct Panels<'a, 'm> {
    b: &'a Builder<'m>,
    weights: &'a Integers,
    quantized: &'a Rows,
    /// Number of the first panel; the others are relative to it.
    first: Value,
    /// Panels per unit.
    unit: usize,
    n_rows: Value,
    /// `[panels][rows][16]`.
    sums: Buffer,
    /// A group of inputs of one panel: as i16, `[pairs][2 · 16]`, or as [`Octets::unpacked`].
    unpacked: Buffer,
}

/// Rows and panels that are summed side by side, starting at a first one.
struct Tile {
    row: Value,
    n_rows: usize,
    panel: Value,
    n_panels: usize,
}

impl<'m> Panels<'_, 'm> {
    /// i32 lanes per register.
    fn lanes(&self) -> usize {
        lanes(self.b.target())
    }

    /// Registers per panel.
    fn registers(&self) -> usize {
        LANES / self.lanes()
    }

    /// Sums `n_panels` panels: side by side, one by one, or in passes over unpacked weights.
    fn sum(&self, n_panels: Value) {
        let &Panels { b, unit, n_rows, .. } = self;
        let in_stream = rows_in_stream(b.target());
        let one_by_one = || {
            let stream = || {
                b.for_each(0, n_panels, 1, |panel| {
                    for_each_tile(b, n_rows, in_stream, &|row, n_rows| {
                        self.stream(&Tile { row, n_rows, panel, n_panels: 1 });
                    });
                });
                []
            };
            let pass = || {
                b.for_each(0, n_panels, 1, |panel| self.pass(panel));
                []
            };
            b.if_else(n_rows.le(2 * in_stream), stream, pass)
        };
        let panels_abreast = |rows| units_in_stream(b.target(), self.weights.format, rows, unit) * unit;
        let tiles: Vec<_> = (1..in_stream).map(|n| (n, panels_abreast(n))).filter(|&(_, n)| n > unit).collect();
        let are_abreast = tiles.iter().map(|&(rows, panels)| n_rows.eq(rows) & n_panels.eq(panels));
        let Some(are_abreast) = are_abreast.reduce(|any, this| any | this) else {
            one_by_one();
            return;
        };
        let abreast = || {
            for &(rows, panels) in &tiles {
                b.if_(n_rows.eq(rows), || {
                    self.stream(&Tile { row: b.index(0), n_rows: rows, panel: b.index(0), n_panels: panels });
                });
            }
            []
        };
        b.if_else(are_abreast, abreast, one_by_one);
    }

    /// Sums a tile of few rows while streaming the weights.
    fn stream(&self, tile: &Tile) {
        let (b, lanes) = (self.b, self.lanes());
        let rows: Vec<Value> = (0..tile.n_rows).map(|r| tile.row + r).collect();
        let panels: Vec<Value> = (0..tile.n_panels).map(|p| tile.panel + p).collect();
        let zeros = vec![b.splat(0.0, lanes); rows.len() * panels.len() * self.registers()];
        let sums = b.for_range(0, self.weights.n_groups(), 1, zeros, |group, sums| {
            let integers = self.stream_group(&rows, &panels, group);
            let of_weights = panels.iter().map(|&panel| self.weights.group_scales(b, self.first + panel, group));
            let of_weights: Vec<_> = of_weights.collect();
            let of_row = |&row| {
                let of_panel = |of_panel: &Option<Vec<Value>>| self.scales([group, row], of_panel.as_deref());
                of_weights.iter().flat_map(of_panel).collect::<Vec<Value>>()
            };
            let terms = integers.iter().zip(rows.iter().flat_map(of_row)).zip(&sums);
            terms.map(|((&integer, scale), &sum)| integer.to_f32().mul_add(scale, sum)).collect()
        });
        let places = rows.iter().flat_map(|&row| panels.iter().map(move |&panel| [panel, row, b.index(0)]));
        for (place, sums) in places.zip(sums.chunks_exact(self.registers())) {
            b.store(Value::concat(sums), self.sums, place);
        }
    }

    /// Integer sums of a group from the packed weights, indexed by row, panel and register of lanes.
    fn stream_group(&self, rows: &[Value], panels: &[Value], group: Value) -> Vec<Value> {
        let (b, weights, registers) = (self.b, self.weights, self.registers());
        if let Some(octets) = self.octets() {
            let panels: Vec<Value> = panels.iter().map(|&panel| self.first + panel).collect();
            return octets.stream_group(rows, &panels, group, &|row, octet| self.load_octet([group, row], octet));
        }
        let starts: Vec<Value> = panels.iter().map(|&panel| weights.panel(self.first + panel)).collect();
        let chunks = weights.group_chunks(group);
        let zeros = vec![b.splat_i32(0, self.lanes()); rows.len() * panels.len() * registers];
        b.for_range(chunks.start, chunks.end, 1, zeros, |chunk, mut integers| {
            let places: Vec<Value> = starts.iter().map(|&start| start + chunk * weights.chunk_bytes()).collect();
            if panels.len() <= 2 {
                places.iter().for_each(|&place| weights.prefetch(b, place + AHEAD));
            }
            let first_pair = (chunk - chunks.start) * weights.chunk_pairs();
            for (part, pairs) in weights.parts().into_iter().enumerate() {
                let load =
                    |&row: &Value| pairs.clone().map(|pair| self.load_pair([group, row, first_pair + pair])).collect();
                let x: Vec<Vec<Value>> = rows.iter().map(load).collect();
                for (p, &place) in places.iter().enumerate() {
                    let pairs = weights.load_part(b, place, part);
                    for (x, integers) in x.iter().zip(integers.chunks_exact_mut(panels.len() * registers)) {
                        let integers = &mut integers[p * registers..][..registers];
                        x.iter().zip(&pairs).for_each(|(&x, weights)| madd(b, x, weights, integers));
                    }
                }
            }
            integers
        })
    }

    /// Sums one panel for many rows: unpacks each group of inputs once and applies it to each row tile.
    fn pass(&self, panel: Value) {
        let (b, lanes) = (self.b, self.lanes());
        let number = self.first + panel;
        b.for_each(0, self.n_rows, 1, |row| b.store(b.splat(0.0, LANES), self.sums, (panel, row, 0)));
        b.for_each(0, self.weights.n_groups(), 1, |group| {
            let n_pairs = self.unpack(number, group);
            let of_weights = self.weights.group_scales(b, number, group);
            for_each_tile(b, self.n_rows, rows_in_tile(b.target()), &|row, n| {
                let rows: Vec<Value> = (0..n).map(|r| row + r).collect();
                let integers = self.pass_group(&rows, group, n_pairs);
                for (&row, integers) in rows.iter().zip(integers.chunks_exact(self.registers())) {
                    let scales = self.scales([group, row], of_weights.as_deref());
                    for (register, (&integer, scale)) in integers.iter().zip(scales).enumerate() {
                        let at = [panel, row, b.index(register * lanes)];
                        let sum = b.load_vector(self.sums, at, lanes);
                        b.store(integer.to_f32().mul_add(scale, sum), self.sums, at);
                    }
                }
            });
        });
    }

    /// Unpacks a group of a panel; returns its number of pairs or octets.
    fn unpack(&self, panel: Value, group: Value) -> Value {
        let (b, weights) = (self.b, self.weights);
        if let Some(octets) = self.octets() {
            return octets.unpack(panel, group, self.unpacked);
        }
        let chunks = weights.group_chunks(group);
        let panel = weights.panel(panel);
        b.for_each_in(chunks, |chunk| {
            let at = panel + chunk * weights.chunk_bytes();
            let first_pair = (chunk - chunks.start) * weights.chunk_pairs();
            let parts = (0..weights.parts().len()).flat_map(|part| weights.load_part(b, at, part));
            for (pair, registers) in parts.enumerate() {
                for (register, weights) in registers.into_iter().enumerate() {
                    let lane = b.index(2 * register * self.lanes());
                    b.store(weights, self.unpacked, (first_pair + pair, lane));
                }
            }
        });
        chunks.count() * weights.chunk_pairs()
    }

    /// Integer sums of a group from the unpacked weights, indexed by row and register of lanes.
    fn pass_group(&self, rows: &[Value], group: Value, n_pairs: Value) -> Vec<Value> {
        let (b, lanes, registers) = (self.b, self.lanes(), self.registers());
        if let Some(octets) = self.octets() {
            let x = |row, octet| self.load_octet([group, row], octet);
            return octets.pass_group(rows, n_pairs, self.unpacked, &x);
        }
        let zeros = vec![b.splat_i32(0, lanes); rows.len() * registers];
        b.for_range(0, n_pairs, 2, zeros, |pair, mut integers| {
            for pair in [pair, pair + 1] {
                let load = |register| {
                    let lane = b.index(2 * lanes * register);
                    b.load_vector(self.unpacked, (pair, lane), 2 * lanes)
                };
                let weights: Vec<Value> = (0..registers).map(load).collect();
                for (&row, integers) in rows.iter().zip(integers.chunks_exact_mut(registers)) {
                    madd(b, self.load_pair([group, row, pair]), &weights, integers);
                }
            }
            integers
        })
    }

    /// The weights by octets of inputs, on Arm.
    fn octets(&self) -> Option<Octets<'_, 'm>> {
        match self.b.target() {
            CpuTarget::X86(_) => None,
            CpuTarget::Arm(level) => Some(Octets { b: self.b, weights: self.weights, level }),
        }
    }

    /// An octet of a row's inputs, at `[group, row]`.
    fn load_octet(&self, [group, row]: [Value; 2], octet: Value) -> Value {
        self.b.load_vector(self.quantized.pairs, (group, row, octet * (OCTET / 2)), OCTET / 2)
    }

    /// One pair of a row's inputs, at `[group, row, pair]`, broadcast to every lane.
    fn load_pair(&self, at: [Value; 3]) -> Value {
        self.b.load(self.quantized.pairs, at).broadcast(self.lanes()).reinterpret(Num::I16)
    }

    /// Factors of a row's integer sums of a group, at `[group, row]`, per register.
    fn scales(&self, at: [Value; 2], weights: Option<&[Value]>) -> Vec<Value> {
        let x = self.b.load(self.quantized.scales, at).broadcast(self.lanes());
        match weights {
            Some(weights) => weights.iter().map(|&weights| x * weights).collect(),
            None => vec![x; self.registers()],
        }
    }
}

/// Adds the products of a pair of inputs with the weights in each register.
fn madd(b: &Builder, x: Value, weights: &[Value], sums: &mut [Value]) {
    for (sum, &weights) in sums.iter_mut().zip(weights) {
        *sum = *sum + b.madd_pairs(weights, x);
    }
}

/// Runs `tile(row, n)` for tiles of `in_tile` rows, and once for the remainder.
fn for_each_tile(b: &Builder, n_rows: Value, in_tile: usize, tile: &dyn Fn(Value, usize)) {
    let rest = n_rows % in_tile;
    let whole = n_rows - rest;
    b.for_each(0, whole, in_tile, |row| tile(row, in_tile));
    for n in 1..in_tile {
        b.if_(rest.eq(n), || tile(whole, n));
    }
}

/// Rows per one-panel tile: their sums and the panel's weights fill the registers.
fn rows_in_tile(target: CpuTarget) -> usize {
    match (target, target.vector_bytes()) {
        (CpuTarget::Arm(_), _) => 3,
        (_, 16) => 2,
        (_, 32) => 6,
        _ => 12,
    }
}

/// Rows per tile when weights are streamed, with registers left to unpack them. Up to two such tiles count as few rows.
fn rows_in_stream(target: CpuTarget) -> usize {
    match (target, target.vector_bytes()) {
        (CpuTarget::Arm(ArmLevel::I8mm), _) => 1,
        (_, 16) => 2,
        (_, 32) => 4,
        _ => 8,
    }
}

/// Maximum number of int8 weight streams that a thread reads at a time. Fastest of 1 to 12 for one row: 1.1 times the speed
/// of a single stream with prefetches, although with 16 registers half of the integer sums spill to the stack.
const STREAMS: usize = 8;

/// Units side by side for a number of streamed rows. Unpacking int4 and int3 already saturates a core: two streams side by side,
/// whose sums spill, ran at 0.85 times the speed of one.
fn units_in_stream(target: CpuTarget, format: Elem, rows: usize, unit: usize) -> usize {
    let streams = match (target, format) {
        // On Arm the sums of two panels and of their weights spill.
        (CpuTarget::X86(_), Elem::I8) => STREAMS.min(2 * rows_in_stream(target)),
        _ => 1,
    };
    (streams / (rows * unit)).max(1)
}
