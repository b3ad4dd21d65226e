//! Weighted sums on CPUs: each thread processes a range of vectors.
//!
//! 1. the first expert's product
//! 2. add the other experts' products in order

use super::Spec;
use crate::cpu::builder::Builder;
use crate::cpu::rows::for_each_vector;
use crate::kernel::LANES;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    for_each_vector(b, b.scalar("rows"), spec.cols, |t, column| {
        let first = t * spec.top_k;
        let term = |j: usize| {
            let weight = b.load(b.buffer("weights"), (t, j)).broadcast(LANES);
            (weight, b.load_vector(b.buffer("y"), (first + j, column), LANES))
        };
        // 1. first
        let (weight, y) = term(0);
        // 2. others
        let sum = (1..spec.top_k).map(term).fold(weight * y, |sum, (weight, y)| weight.mul_add(y, sum));
        b.store(sum, b.buffer("out"), (t, column));
    });
}
