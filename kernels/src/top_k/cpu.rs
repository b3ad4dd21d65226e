//! The k largest on a CPU: each thread takes a range of rows, and walks a row once for each of the k.
//!
//! 1. the first of the greatest elements that come after the last one taken: less, or equal and to its right
//! 2. store it and its index
//!
//! NaN is never greater than anything. A row with fewer than k elements above −∞ gives its j-th column as the j-th of
//! those missing: an index that exists, with whatever weight stands there.

use super::Spec;
use crate::cpu::builder::{Buffer, Builder, Value};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (p, weights, experts) = (b.buffer("p"), b.buffer("weights"), b.buffer("experts"));
    let (start, end) = b.thread_range(b.scalar("rows"));
    b.for_each(start, end, 1, |row| {
        // 2. store
        self::row(b, spec, (p, row), |j, weight, index| {
            b.store(weight, weights, &[row, j]);
            b.store(index.to_i32(), experts, &[row, j]);
        });
    });
}

/// The k largest of one row of a buffer: gives the number, the element and the index of each to `store`.
pub(crate) fn row(b: &Builder, spec: &Spec, (p, row): (Buffer, Value), store: impl FnOnce(Value, Value, Value)) {
    let (lowest, none) = (b.f32(f32::NEG_INFINITY), b.index(spec.cols));
    let before_all = [b.f32(f32::INFINITY), b.index(0)];
    b.for_range(0, spec.k, 1, before_all, |j, [last, after]| {
        // 1. find
        let search = b.for_range(0, spec.cols, 1, [lowest, none], |i, [best, best_index]| {
            let x = b.load(p, &[row, i]);
            let to_the_right = x.eq(last) & i.ge(after);
            let is_left = x.lt(last) | to_the_right;
            let better = is_left & x.gt(best);
            [better.select(x, best), better.select(i, best_index)]
        });
        let [best, found] = search;
        let index = found.eq(none).select(j, found);
        store(j, b.load(p, &[row, index]), index);
        [best, index + 1]
    });
}
