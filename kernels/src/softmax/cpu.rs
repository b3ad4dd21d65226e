//! Softmax on a CPU: each thread takes a range of rows.
//!
//! 1. the row's maximum
//! 2. exponentials, stored, and their sum: 16 sums, column c in sum c mod 16
//! 3. divide

use super::Spec;
use crate::cpu::builder::{Buffer, Builder, Value};
use crate::cpu::math;
use crate::kernel::{LANES, padded};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (start, end) = b.thread_range(b.scalar("rows"));
    b.for_each(start, end, 1, |row| self::row(b, spec.cols, (b.buffer("x"), row), (b.buffer("out"), row)));
}

/// One row of `cols` columns: a row of a buffer to a row of another.
pub(crate) fn row(b: &Builder, cols: usize, x: (Buffer, Value), out: (Buffer, Value)) {
    let (zero, lowest) = (b.splat(0.0, LANES), b.splat(f32::NEG_INFINITY, LANES));
    let fold = |init: Value, next: &dyn Fn(Value, Value) -> Value| {
        let [result] = b.for_range(0, cols, LANES, [init], |column, [result]| [next(column, result)]);
        result
    };
    // Lanes beyond the last column hold anything, NaN too.
    let mask = |column: Value, x: Value, padding: Value| {
        let n_columns = (cols - column).to_i32().broadcast(LANES);
        b.iota(LANES).lt(n_columns).select(x, padding)
    };
    let load = |(buffer, row): (Buffer, Value), column: Value| b.load_vector(buffer, &[row, column], LANES);
    let store = |value: Value, column: Value| b.store(value, out.0, &[out.1, column]);
    // 1. maximum
    let max = fold(lowest, &|column, max| mask(column, load(x, column), lowest).max(max));
    let max = max.reduce_max().broadcast(LANES);
    // 2. exponentials
    let sum = fold(zero, &|column, sum| {
        let exp = math::exp(load(x, column) - max);
        store(exp, column);
        sum + mask(column, exp, zero)
    });
    let sum = sum.reduce_add().broadcast(LANES);
    // 3. divide
    b.for_each(0, padded(cols), LANES, |column| store(load(out, column) / sum, column));
}
