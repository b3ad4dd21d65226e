//! Column slices on CPUs: each thread processes a range of vectors.
//!
//! 1. for each vector: load from the slice, aligned or not (the last load may extend beyond it)
//! 2. store

use super::Spec;
use crate::cpu::builder::Builder;
use crate::cpu::rows::for_each_vector;
use crate::kernel::LANES;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    for_each_vector(b, b.scalar("rows"), spec.len, |row, column| {
        // 1. load
        let x = b.load_vector(b.buffer("x"), (row, column + spec.start), LANES);
        // 2. store
        b.store(x, b.buffer("out"), (row, column));
    });
}
