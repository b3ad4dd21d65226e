//! Quantizes rows of x to 16-bit integers, in stack arrays private to a thread.
//!
//! ```text
//! scale = max|x| / 32767,  q = round(x · (32767 / max|x|))      for each row and group of inputs, ties to even
//! ```
//!
//! A group whose maximum magnitude is below 2⁻¹¹⁰ is quantized to zeros with scale 0, because the quotient would exceed the
//! range of f32. A group with an infinity or a NaN has scale NaN, and so have all sums of its row.
//!
//! 1. maximum magnitude: absolute values compared as integers, with NaN above infinity
//! 2. scale and its inverse
//! 3. multiply, round, store

use super::bytes::octets;
use super::{activation_group, padded_inputs};
use crate::cpu::builder::{Buffer, Builder, Num, Value};
use crate::cpu::product::rows_on_stack;
use crate::kernel::{Elem, LANES};
use crate::target::CpuTarget;

/// Maximum number of rows: the rows of one group, their sums and a panel's weights fit in the L1 cache.
const ROWS: usize = 72;

/// How the integers of a row's group are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Pairs of inputs; on Arm [`octets`].
    Pairs,
    /// The upper bytes of all inputs, then the lower bytes.
    Bytes,
}

/// Quantized rows.
pub(super) struct Rows {
    /// `[groups][capacity][group / 2]`, in a [`Form`].
    pub(super) pairs: Buffer,
    /// `[groups][capacity]`.
    pub(super) scales: Buffer,
    /// Maximum number of rows.
    pub(super) capacity: usize,
    k: usize,
    group: usize,
}

impl Rows {
    /// Allocates for as many rows of `k` inputs as fit: a multiple of `multiple` or less than it, at least one.
    pub(super) fn new(b: &Builder, k: usize, format: Elem, multiple: usize) -> Rows {
        let group = activation_group(format);
        let groups = padded_inputs(k).div_ceil(group);
        let in_row = groups * (2 * group + 4);
        let capacity = rows_on_stack(b.target(), in_row, ROWS, multiple);
        Rows {
            pairs: b.stack(Num::I32, &[groups, capacity, group / 2]),
            scales: b.stack(Num::F32, &[groups, capacity]),
            capacity,
            k,
            group,
        }
    }

    /// Quantizes row `from` of x into row `to`.
    pub(super) fn fill(&self, b: &Builder, x: Buffer, from: Value, to: Value, form: Form) {
        let (n_groups, rest) = (self.k / self.group, self.k % self.group);
        b.for_each(0, n_groups, 1, |group| {
            let column = group * self.group;
            let load = |at| b.load_vector(x, (from, column + at), LANES);
            self.fill_group(b, [group, to], self.group, form, &load);
        });
        if rest > 0 {
            // Lanes beyond the last column are unspecified.
            let (column, zero) = (n_groups * self.group, b.splat(0.0, LANES));
            let load = |at: usize| {
                if at >= rest {
                    return zero;
                }
                let is_input = b.iota(LANES).lt(rest - at);
                is_input.select(b.load_vector(x, (from, column + at), LANES), zero)
            };
            self.fill_group(b, [b.index(n_groups), to], padded_inputs(rest), form, &load);
        }
    }

    /// Quantizes `n_inputs` of a group; `load` returns the vector that starts at an input of the group.
    fn fill_group(
        &self,
        b: &Builder,
        [group, row]: [Value; 2],
        n_inputs: usize,
        form: Form,
        load: &dyn Fn(usize) -> Value,
    ) {
        let vectors = (0..n_inputs).step_by(LANES);

        // 1. maximum magnitude
        let magnitudes = vectors.clone().map(|at| load(at).abs().bitcast(Num::I32));
        let largest = magnitudes.reduce(|x, y| x.max(y)).expect("a group has inputs").reduce_max();

        // 2. scale
        let is_zero = largest.lt(2f32.powi(-110).to_bits());
        let is_finite = largest.lt(f32::INFINITY.to_bits());
        let (max, steps) = (largest.bitcast(Num::F32), b.f32(i16::MAX.into()));
        let scale = is_finite.select(max / steps, f32::NAN);
        b.store(is_zero.select(0.0, scale), self.scales, (group, row));

        // 3. multiply
        let inverse = (steps / max).broadcast(LANES);
        let mask = is_zero.select(0, -is_finite.to_i32()).broadcast(LANES);
        for at in vectors {
            let scaled = (load(at) * inverse).bitcast(Num::I32);
            let scaled = (scaled & mask).bitcast(Num::F32);
            let rounded = scaled.round_ties_even().to_i32().to_i16();
            if form == Form::Bytes {
                for (half, byte) in [rounded.shr_signed(8), rounded].into_iter().enumerate() {
                    let to = (half * self.group + at) / 4;
                    b.store(byte.to_i8().reinterpret(Num::I32), self.pairs, (group, row, to));
                }
                continue;
            }
            let stored = match b.target() {
                CpuTarget::X86(_) => rounded.reinterpret(Num::I32),
                CpuTarget::Arm(_) => octets(rounded),
            };
            b.store(stored, self.pairs, (group, row, at / 2));
        }
    }
}
