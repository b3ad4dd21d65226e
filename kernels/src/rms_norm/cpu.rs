//! RMS norm on CPUs: each thread processes a range of rows; a row stays in L1 between its two passes.
//!
//! 1. first pass: add the residual if fused, and square; 16 sums, column c in sum c mod 16
//! 2. 1 / sqrt(mean + eps), in f32, each operation correctly rounded
//! 3. second pass: scale, multiply by the weight, store

use super::Spec;
use crate::cpu::builder::{Builder, Value};
use crate::cpu::rows::Row;
use crate::kernel::{LANES, padded};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (a, weight, out) = (b.buffer("a"), b.buffer("weight"), b.buffer("out"));
    b.parallel_for(b.scalar("rows"), |row| {
        // 1. add and square, 2. 1 / sqrt
        let scale = scale(b, spec.cols, spec.eps, |column| {
            if !spec.residual {
                return b.load_vector(a, (row, column), LANES);
            }
            let sum = sum_at(b, row, column);
            b.store(sum, b.buffer("sum"), (row, column));
            sum
        });

        // 3. scale
        let from = if spec.residual { b.buffer("sum") } else { a };
        b.for_each(0, padded(spec.cols), LANES, |column| {
            let x = b.load_vector(from, (row, column), LANES) * scale;
            b.store(x * b.load_vector(weight, column, LANES), out, (row, column));
        });
    });
}

/// The norm of the sum of a row of `a` and of `b`, with weight `norm`: the bits of [`emit`].
pub(crate) fn of_sum(b: &Builder, cols: usize, eps: f64, row: Value, out: Row) {
    // 1. add and square, 2. 1 / sqrt
    let scale = scale(b, cols, eps, |column| {
        let sum = sum_at(b, row, column);
        out.store(b, sum, column);
        sum
    });
    // 3. scale
    b.for_each(0, padded(cols), LANES, |column| {
        let x = out.vector(b, column) * scale;
        out.store(b, x * b.load_vector(b.buffer("norm"), column, LANES), column);
    });
}

/// Stores the sum of a row of `a` and of `b` in `sum`.
pub(crate) fn store_sum(b: &Builder, cols: usize, row: Value) {
    b.for_each(0, padded(cols), LANES, |column| b.store(sum_at(b, row, column), b.buffer("sum"), (row, column)));
}

fn sum_at(b: &Builder, row: Value, column: Value) -> Value {
    b.load_vector(b.buffer("a"), (row, column), LANES) + b.load_vector(b.buffer("b"), (row, column), LANES)
}

/// 1 / sqrt(mean(x²) + eps) of a row, in every lane; `load` returns the vector that starts at a column and is called once
/// per column vector.
pub(crate) fn scale(b: &Builder, cols: usize, eps: f64, load: impl Fn(Value) -> Value) -> Value {
    let whole = cols - cols % LANES;
    let zero = b.splat(0.0, LANES);
    let mut squares = b.for_range(0, whole, LANES, zero, |column, squares| {
        let x = load(column);
        x.mul_add(x, squares)
    });
    if whole < cols {
        // Lanes beyond the last column are unspecified and may be NaN.
        let is_column = b.iota(LANES).lt(cols - whole);
        let x = is_column.select(load(b.index(whole)), zero);
        squares = x.mul_add(x, squares);
    }
    let mean = squares.reduce_add() / cols as f32;
    let scale = 1.0 / (mean + eps as f32).sqrt();
    scale.broadcast(LANES)
}
