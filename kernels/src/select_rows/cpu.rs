//! Row selection on CPUs: each thread processes a range of vectors.
//!
//! 1. for each vector: load from the selected row
//! 2. store

use super::Spec;
use crate::cpu::builder::Builder;
use crate::cpu::rows::for_each_vector;
use crate::kernel::LANES;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    for_each_vector(b, b.scalar("outputs"), spec.cols, |row, column| {
        // 1. load
        let wanted = b.load(b.buffer("rows"), row).to_index();
        let x = b.load_vector(b.buffer("x"), (wanted, column), LANES);
        // 2. store
        b.store(x, b.buffer("out"), (row, column));
    });
}
