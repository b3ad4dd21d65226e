//! Weighted sums on a CPU: each thread takes a range of vectors.
//!
//! 1. the first expert's product
//! 2. the others added in their order

use super::Spec;
use crate::cpu::builder::Builder;
use crate::cpu::rows::for_each_vector;
use crate::kernel::LANES;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    for_each_vector(b, b.scalar("rows"), spec.cols, |t, column| {
        let first = t * spec.top_k;
        let term = |j: usize| {
            let weight = b.load(b.buffer("weights"), &[t, b.index(j)]).broadcast(LANES);
            (weight, b.load_vector(b.buffer("y"), &[first + j, column], LANES))
        };
        // 1. first
        let (weight, y) = term(0);
        let mut sum = weight * y;
        // 2. others
        for j in 1..spec.top_k {
            let (weight, y) = term(j);
            sum = weight.mul_add(y, sum);
        }
        b.store(sum, b.buffer("out"), &[t, column]);
    });
}
