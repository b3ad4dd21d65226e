//! Softmax on CPUs: each thread processes a range of rows.
//!
//! 1. the row's maximum
//! 2. exponentials, stored, and their sum: 16 sums, column c in sum c mod 16
//! 3. divide

use super::Spec;
use crate::cpu::builder::{Builder, Value};
use crate::cpu::math;
use crate::cpu::rows::Row;
use crate::kernel::{LANES, padded};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let row_of = |name, row| Row { buffer: b.buffer(name), row };
    b.parallel_for(b.scalar("rows"), |row| self::row(b, spec.cols, row_of("x", row), row_of("out", row)));
}

/// One row of `cols` columns.
pub(crate) fn row(b: &Builder, cols: usize, x: Row, out: Row) {
    let (zero, lowest) = (b.splat(0.0, LANES), b.splat(f32::NEG_INFINITY, LANES));
    // Lanes beyond the last column are unspecified and may be NaN.
    let mask = |column: Value, x: Value, padding: Value| {
        let n_columns = (cols - column).to_i32().broadcast(LANES);
        b.iota(LANES).lt(n_columns).select(x, padding)
    };
    // 1. maximum
    let max = b.for_range(0, cols, LANES, lowest, |column, max| mask(column, x.vector(b, column), lowest).max(max));
    let max = max.reduce_max().broadcast(LANES);
    // 2. exponentials
    let sum = b.for_range(0, cols, LANES, zero, |column, sum| {
        let exp = math::exp(x.vector(b, column) - max);
        out.store(b, exp, column);
        sum + mask(column, exp, zero)
    });
    let sum = sum.reduce_add().broadcast(LANES);
    // 3. divide
    b.for_each(0, padded(cols), LANES, |column| out.store(b, out.vector(b, column) / sum, column));
}
