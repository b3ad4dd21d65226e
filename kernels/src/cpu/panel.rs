//! Rows times float panels on CPUs.
//!
//! ```text
//! sum[r, i] = fma(x[r, j], weight[i, j], sum[r, i])      for j = 0 … k − 1
//! ```
//!
//! Each sum runs over j from 0 in f32, in its own lane. fp8 weights widen exactly; each group of 128 inputs has a sum of its own,
//! which is multiplied by the group's scale and added to the sum of the groups before it. Tiling of rows and panels decides which
//! sums run side by side, never the terms or order of a sum.
//!
//! Targets with bf16 instructions round the inputs of bf16 weights ([`super::rounded`]), and add them in pairs (VDPBF16PS) or in
//! [tiles](super::tiles).
//!
//! Few rows: tiles of all rows and enough panels to hide multiply-add latency; weights are streamed once. Many rows: blocks
//! of x that stay in cache; each panel is applied to a whole block and stays in L2 while the block's tiles are summed.
//! (Splitting the inputs too, to keep a piece of a panel in L1, was slower for every k from 2560 to 14336.)
//!
//! 1. for each block of rows (round them) and each group of units
//! 2. for each tile of the block's rows: sum in registers, then write to the stack
//! 3. `store`

use super::builder::{Buffer, Builder, Num, Range, Value};
use super::integer::FP8_GROUP;
use super::product::{Product, Region, abreast, for_each_group, rounds_inputs, rows_multiple};
use super::rounded::Rounded;
use super::tiles;
use crate::kernel::LANES;
use crate::target::CpuTarget;

/// Bytes of a block of x: a core's share of the last-level cache. Fastest of 0.1 to 12 MB for every k.
const BLOCK_BYTES: usize = 3 << 19;

/// Prefetch distance of weights, in elements. The hardware prefetcher stops at each 4 KiB page, which costs a single stream
/// a third of the bandwidth; several streams hide each other's stalls.
const AHEAD: usize = 1024;

/// What widened fp8 weights are to be multiplied by.
const FP8_UNIT: f32 = 256.0;

/// Sums and stores a range of rows and a range of units. The weights are panels of floats, with the scales of fp8.
pub(super) fn emit(b: &Builder, product: &Product, weights: (Buffer, Option<Buffer>), rows: Range, units: Range) {
    let (target, unit) = (b.target(), product.unit);
    let in_tile = rows_in_tile(target);
    let rounded = rounds_inputs(target, weights.0);
    let rounded = rounded.then(|| Rounded::new(b, product.k, rows_multiple(target, in_tile)));
    if let Some(rounded) = rounded.as_ref().filter(|rounded| target.has_tiles() && tiles::fit(rounded)) {
        tiles::emit(b, product, weights.0, rounded, rows, units);
        return;
    }
    let scratch = b.stack(Num::F32, &[in_tile, units_in_tile(target, 1, unit) * unit, LANES]);
    let panels = Panels { b, product, weight: weights.0, scales: weights.1, rounded: rounded.as_ref(), scratch };
    let in_block = match &rounded {
        Some(rounded) => rounded.capacity,
        None => (BLOCK_BYTES / (4 * product.k)).next_multiple_of(in_tile),
    };

    // 1. blocks and groups
    b.for_each(rows.start, rows.end, in_block, |first| {
        let end = (first + in_block).min(rows.end);
        if let Some(rounded) = &rounded {
            b.for_each(first, end, 1, |row| rounded.fill(b, product.x, (product.x_row)(row), row - first));
        }
        let abreast = abreast(b, end - first, 1..=in_tile, |rows| units_in_tile(target, rows, unit));
        for_each_group(b, units, abreast, |unit, n_units| {
            b.for_each(first, end, in_tile, |row| {
                let tile = Region { row, n_rows: (end - row).min(in_tile), unit, n_units };
                // 2. sum
                panels.sum(&tile, first);
                // 3. store
                product.store_region(b, &tile, |panel, r| b.load_vector(scratch, (r, panel, 0), LANES));
            });
        });
    });
}

struct Panels<'a, 'm> {
    b: &'a Builder<'m>,
    product: &'a Product<'a>,
    weight: Buffer,
    /// Of fp8.
    scales: Option<Buffer>,
    /// The block's rows, where the target rounds inputs.
    rounded: Option<&'a Rounded>,
    /// Sums of a tile, `[rows][panels][16]`.
    scratch: Buffer,
}

/// Sums that stay in registers during the loop over j: rows and panels, starting at a first one.
struct Tile {
    row: Value,
    /// First row of the block.
    block: Value,
    n_rows: usize,
    panel: Value,
    n_panels: usize,
}

impl Panels<'_, '_> {
    /// Sums a tile: all panels side by side if they fill the registers, else one by one.
    fn sum(&self, tile: &Region, block: Value) {
        let &Panels { b, product: &Product { unit, .. }, .. } = self;
        let panel = tile.unit * unit;
        for n_rows in 1..=rows_in_tile(b.target()) {
            let units = units_in_tile(b.target(), n_rows, unit);
            let one_by_one = || {
                b.for_each(0, tile.n_units * unit, 1, |p| {
                    self.sum_in_registers(&Tile { row: tile.row, block, n_rows, panel: panel + p, n_panels: 1 }, p);
                });
                []
            };
            b.if_(tile.n_rows.eq(n_rows), || {
                if units == 1 {
                    one_by_one();
                    return;
                }
                let abreast = || {
                    let all = Tile { row: tile.row, block, n_rows, panel, n_panels: units * unit };
                    self.sum_in_registers(&all, b.index(0));
                    []
                };
                b.if_else(tile.n_units.eq(units), abreast, one_by_one);
            });
        }
    }

    /// Sums all inputs of a tile into the scratch panels from number `to` on.
    fn sum_in_registers(&self, tile: &Tile, to: Value) {
        let &Panels { b, product, weight, scales, scratch, .. } = self;
        let &Tile { n_rows, n_panels, .. } = tile;
        let rows: Vec<Value> = (0..n_rows).map(|r| (product.x_row)(tile.row + r)).collect();
        let panels = (0..n_panels).map(|p| product.first_panel + tile.panel + p);
        let panels: Vec<Value> = panels.map(|panel| panel * (product.k * LANES)).collect();

        let add_input = |j: Value, sums: &[Value]| {
            let offset = j * LANES;
            let load = |&panel: &Value| {
                let stored = b.load_vector(weight, panel + offset, LANES);
                if scales.is_some() { stored.e4m3_to_f32() } else { stored.to_f32() }
            };
            let weights: Vec<Value> = panels.iter().map(load).collect();
            let mut next = Vec::with_capacity(sums.len());
            for (&row, sums) in rows.iter().zip(sums.chunks_exact(n_panels)) {
                let x = b.load(product.x, (row, j)).broadcast(LANES);
                next.extend(weights.iter().zip(sums).map(|(&weight, &sum)| x.mul_add(weight, sum)));
            }
            next
        };
        let zeros = vec![b.splat(0.0, LANES); n_rows * n_panels];
        let store = |sums: &[Value]| {
            for (r, sums) in sums.chunks_exact(n_panels).enumerate() {
                for (p, &sum) in sums.iter().enumerate() {
                    b.store(sum, scratch, (r, to + p, 0));
                }
            }
        };
        if let Some(scales) = scales {
            let each = |store: &dyn Fn(usize, usize)| {
                (0..n_rows * n_panels).for_each(|at| store(at / n_panels, at % n_panels))
            };
            each(&|r, p| b.store(zeros[0], scratch, (r, to + p, 0)));
            let n_groups = product.k.div_ceil(FP8_GROUP);
            let numbers: Vec<Value> = (0..n_panels).map(|p| product.first_panel + tile.panel + p).collect();
            b.for_each(0, n_groups, 1, |group| {
                let first = group * FP8_GROUP;
                let end = (first + FP8_GROUP).min(product.k);
                let sums = b.for_range(first, end, 1, zeros.clone(), |j, sums| add_input(j, &sums));
                each(&|r, p| {
                    let scale = b.load_vector(scales, (numbers[p] * n_groups + group) * LANES, LANES) * FP8_UNIT;
                    let before = b.load_vector(scratch, (r, to + p, 0), LANES);
                    b.store(sums[r * n_panels + p].mul_add(scale, before), scratch, (r, to + p, 0));
                });
            });
            return;
        }
        if let Some(rounded) = self.rounded {
            let sums = self.sum_of_pairs(rounded, tile, &panels, zeros);
            store(&sums);
            return;
        }
        // Two inputs at a time: one prefetch per cache line of 2-byte weights.
        let paired = product.k - product.k % 2;
        let mut sums = b.for_range(0, paired, 2, zeros, |j, sums| {
            if n_panels <= 2 {
                let ahead = j * LANES + AHEAD;
                panels.iter().for_each(|&panel| b.prefetch(weight, panel + ahead));
            }
            add_input(j + 1, &add_input(j, &sums))
        });
        if paired < product.k {
            sums = add_input(b.index(paired), &sums);
        }

        store(&sums);
    }

    /// The sums of rounded inputs: of a pair, the second is added first.
    fn sum_of_pairs(&self, rounded: &Rounded, tile: &Tile, panels: &[Value], zeros: Vec<Value>) -> Vec<Value> {
        let &Panels { b, product: &Product { k, .. }, weight, .. } = self;
        let rows: Vec<Value> = (0..tile.n_rows).map(|r| tile.row + r - tile.block).collect();
        let add_pair = |j: Value, sums: &[Value], load: &dyn Fn(Value) -> [Value; 2]| {
            let weights = panels.iter().map(|&panel| {
                let [low, high] = load(panel + j * LANES);
                low.interleave(high)
            });
            let weights: Vec<Value> = weights.collect();
            let mut next = Vec::with_capacity(sums.len());
            for (&row, sums) in rows.iter().zip(sums.chunks_exact(panels.len())) {
                let x = b.load(rounded.pairs, (row, j / 2)).broadcast(LANES).reinterpret(Num::Bf16);
                next.extend(weights.iter().zip(sums).map(|(&weight, &sum)| b.dot_bf16(sum, x, weight)));
            }
            next
        };
        let sums = b.for_range(0, k - k % 2, 2, zeros, |j, sums| {
            if panels.len() <= 2 {
                panels.iter().for_each(|&panel| b.prefetch(weight, panel + (j * LANES + AHEAD)));
            }
            add_pair(j, &sums, &|at| [0, LANES].map(|offset| b.load_vector(weight, at + offset, LANES)))
        });
        if k.is_multiple_of(2) {
            return sums;
        }
        let zero = b.splat_i32(0, LANES / 2).reinterpret(Num::Bf16);
        add_pair(b.index(k - 1), &sums, &|at| [b.load_vector(weight, at, LANES), zero])
    }
}

/// Vector registers for the sums of one row and one panel.
fn registers(target: CpuTarget) -> usize {
    LANES * 4 / target.vector_bytes()
}

/// Rows of a one-panel tile. With 16 registers, the sums, the panel's weights and one or two temporaries fill them. With 32
/// registers, enough sums to hide the latency; those of Arm are filled too.
fn rows_in_tile(target: CpuTarget) -> usize {
    match (target, target.vector_bytes()) {
        (CpuTarget::Arm(_), _) => 6,
        (_, 16) => 2,
        (_, 32) => 6,
        _ => 8,
    }
}

/// Units side by side for a number of rows: eight sums keep two multiply-add units with a latency of four cycles busy, sixteen
/// the four units of large Arm cores.
fn units_in_tile(target: CpuTarget, rows: usize, unit: usize) -> usize {
    let sums = match target {
        CpuTarget::X86(_) => 8,
        CpuTarget::Arm(_) => 16,
    };
    (sums / (rows * registers(target) * unit)).max(1)
}
