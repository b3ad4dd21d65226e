//! RMS norm on a CPU: each thread takes a range of rows; a row stays in the first-level cache between its two passes.
//!
//! 1. first pass: add the residual where fused, and square; 16 sums, column c in sum c mod 16
//! 2. one over the root of the mean, in f32, each operation correctly rounded
//! 3. second pass: scale, multiply by the weight, store

use super::Spec;
use crate::cpu::builder::{Builder, Compare, Value};
use crate::kernel::{LANES, padded};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (a, weight, out) = (b.buffer("a"), b.buffer("weight"), b.buffer("out"));
    let (start, end) = b.thread_range(b.scalar("rows"));
    b.for_each(start, end, 1, |row| {
        // 1. add and square, 2. one over the root
        let scale = scale(b, spec.cols, spec.eps, |column| {
            let x = b.load_vector(a, &[row, column], LANES);
            if !spec.residual {
                return x;
            }
            let sum = b.add(x, b.load_vector(b.buffer("b"), &[row, column], LANES));
            b.store(sum, b.buffer("sum"), &[row, column]);
            sum
        });

        // 3. scale
        let from = if spec.residual { b.buffer("sum") } else { a };
        b.for_each(b.index(0), b.index(padded(spec.cols)), LANES, |column| {
            let x = b.mul(b.load_vector(from, &[row, column], LANES), scale);
            b.store(b.mul(x, b.load_vector(weight, &[column], LANES)), out, &[row, column]);
        });
    });
}

/// In every lane, one over the root of the mean square of a row's columns plus eps; `load` gives the vector that begins at a
/// column, once each.
pub(crate) fn scale(b: &Builder, cols: usize, eps: f64, load: impl Fn(Value) -> Value) -> Value {
    let whole = cols - cols % LANES;
    let zero = b.splat(0.0, LANES);
    let [mut squares] = b.for_range(b.index(0), b.index(whole), LANES, [zero], |column, [squares]| {
        let x = load(column);
        [b.fma(x, x, squares)]
    });
    if whole < cols {
        // Lanes beyond the last column hold anything, NaN too.
        let is_column = b.cmp(Compare::Lt, b.iota(LANES), b.splat_i32((cols - whole) as i32, LANES));
        let x = b.select(is_column, load(b.index(whole)), zero);
        squares = b.fma(x, x, squares);
    }
    let mean = b.div(b.reduce_add(squares), b.f32(cols as f32));
    let scale = b.div(b.f32(1.0), b.sqrt(b.add(mean, b.f32(eps as f32))));
    b.broadcast(scale, LANES)
}
