//! Rows of x as 16-bit integers, in arrays on the stack: what one thread's products read.
//!
//!     scale = max|x| / 32767,  q = round(x · (32767 / max|x|))      for each row and group of inputs, ties to even
//!
//! A group whose largest magnitude is below 2⁻¹¹⁰ counts as zeros, of scale 0: the quotient would leave the range of f32. A
//! group with an infinity or a NaN has the scale NaN, and so have all sums of its row.
//!
//! 1. largest magnitude: without its sign an f32 compares like an integer, NaN above infinity
//! 2. scale and its inverse
//! 3. multiply, round, store

use super::{activation_group, padded_inputs};
use crate::cpu::builder::{Buffer, Builder, Compare, Num, Value};
use crate::kernel::{Elem, LANES};

/// Most bytes on the stack, where a row alone does not take more: a quarter of a thread's.
const BYTES: usize = 512 << 10;

/// Most rows: those of one group, with their sums and a panel's weights, stay in the first-level cache.
const ROWS: usize = 72;

/// Quantized rows.
pub(super) struct Rows {
    /// Two inputs each: `[groups][capacity][group / 2]`.
    pub(super) pairs: Buffer,
    /// `[groups][capacity]`.
    pub(super) scales: Buffer,
    /// How many fit.
    pub(super) capacity: usize,
    k: usize,
    group: usize,
}

impl Rows {
    /// Room for as many rows of `k` inputs as fit, a multiple of `multiple` or less than it, one at least.
    pub(super) fn new(b: &Builder, k: usize, format: Elem, multiple: usize) -> Rows {
        let group = activation_group(format);
        let groups = padded_inputs(k).div_ceil(group);
        let fitting = (BYTES / (groups * (2 * group + 4))).clamp(1, ROWS);
        let capacity = if fitting < multiple { fitting } else { fitting - fitting % multiple };
        Rows {
            pairs: b.stack(Num::I32, &[groups, capacity, group / 2]),
            scales: b.stack(Num::F32, &[groups, capacity]),
            capacity,
            k,
            group,
        }
    }

    /// Quantizes row `from` of x into row `to`.
    pub(super) fn fill(&self, b: &Builder, x: Buffer, from: Value, to: Value) {
        let (n_groups, rest) = (self.k / self.group, self.k % self.group);
        b.for_each(b.index(0), b.index(n_groups), 1, |group| {
            let column = b.mul(group, b.index(self.group));
            let load = |at| b.load_vector(x, &[from, b.add(column, b.index(at))], LANES);
            self.fill_group(b, (group, to), self.group, &load);
        });
        if rest > 0 {
            // Lanes beyond the last column hold anything.
            let (column, zero) = (n_groups * self.group, b.splat(0.0, LANES));
            let load = |at: usize| {
                if at >= rest {
                    return zero;
                }
                let is_input = b.cmp(Compare::Lt, b.iota(LANES), b.splat_i32((rest - at) as i32, LANES));
                b.select(is_input, b.load_vector(x, &[from, b.index(column + at)], LANES), zero)
            };
            self.fill_group(b, (b.index(n_groups), to), padded_inputs(rest), &load);
        }
    }

    /// Quantizes `n_inputs` of a group; `load` gives the vector that begins at an input of it.
    fn fill_group(&self, b: &Builder, (group, row): (Value, Value), n_inputs: usize, load: &dyn Fn(usize) -> Value) {
        let vectors = (0..n_inputs).step_by(LANES);

        // 1. largest magnitude
        let magnitudes = vectors.clone().map(|at| b.bitcast(b.abs(load(at)), Num::I32));
        let largest = b.reduce_max(magnitudes.reduce(|x, y| b.max(x, y)).expect("a group has inputs"));

        // 2. scale
        let bits = |x: f32| b.i32(x.to_bits() as i32);
        let is_zero = b.cmp(Compare::Lt, largest, bits(2f32.powi(-110)));
        let is_finite = b.cmp(Compare::Lt, largest, bits(f32::INFINITY));
        let (max, steps) = (b.bitcast(largest, Num::F32), b.f32(i16::MAX.into()));
        let scale = b.select(is_finite, b.div(max, steps), b.f32(f32::NAN));
        b.store(b.select(is_zero, b.f32(0.0), scale), self.scales, &[group, row]);

        // 3. multiply
        let inverse = b.broadcast(b.div(steps, max), LANES);
        let mask = b.broadcast(b.select(is_zero, b.i32(0), b.neg(b.to_i32(is_finite))), LANES);
        for at in vectors {
            let scaled = b.bitcast(b.mul(load(at), inverse), Num::I32);
            let scaled = b.bitcast(b.and(scaled, mask), Num::F32);
            let rounded = b.to_i16(b.to_i32(b.round_even(scaled)));
            b.store(b.reinterpret(rounded, Num::I32), self.pairs, &[group, row, b.index(at / 2)]);
        }
    }
}
