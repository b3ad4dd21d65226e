//! The k largest on CPUs: each thread processes a range of rows, with k passes over each row.
//!
//! 1. find the first of the greatest elements after the last one taken: less than it, or equal and to its right
//! 2. store it and its index
//!
//! NaN is never greater than anything. If a row has fewer than k elements above −∞, column j replaces a missing j-th
//! element: a valid index, and its weight.

use super::Spec;
use crate::cpu::builder::{Builder, Value};
use crate::cpu::rows::Row;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (p, weights, experts) = (b.buffer("p"), b.buffer("weights"), b.buffer("experts"));
    b.parallel_for(b.scalar("rows"), |row| {
        // 2. store
        self::row(b, spec, Row { buffer: p, row }, |j, weight, index| {
            b.store(weight, weights, (row, j));
            b.store(index.to_i32(), experts, (row, j));
        });
    });
}

/// Calls `store` with the rank, the element and the index of each of the k largest elements of a row.
pub(crate) fn row(b: &Builder, spec: &Spec, p: Row, store: impl FnOnce(Value, Value, Value)) {
    let (lowest, none) = (b.f32(f32::NEG_INFINITY), b.index(spec.cols));
    let before_all = [b.f32(f32::INFINITY), b.index(0)];
    b.for_range(0, spec.k, 1, before_all, |j, [last, after]| {
        // 1. find
        let [best, found] = b.for_range(0, spec.cols, 1, [lowest, none], |i, [best, best_index]| {
            let x = p.element(b, i);
            let to_the_right = x.eq(last) & i.ge(after);
            let is_left = x.lt(last) | to_the_right;
            let better = is_left & x.gt(best);
            [better.select(x, best), better.select(i, best_index)]
        });
        let index = found.eq(none).select(j, found);
        store(j, p.element(b, index), index);
        [best, index + 1]
    });
}
