//! Rows of the embedding table on a CPU: each thread takes a range of tokens.
//!
//! 1. for each token: find its row
//! 2. widen and store: vectors from a row-major table, element after element from panels, where they lie apart

use super::Spec;
use crate::cpu::builder::{Builder, Value};
use crate::kernel::LANES;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (table, out) = (b.buffer("table"), b.buffer("out"));
    let (start, end) = b.thread_range(b.scalar("tokens"));
    b.for_each(start, end, 1, |token| {
        // 1. find
        let id = b.load(b.buffer("ids"), &[token]).to_index();
        // 2. widen and store
        let columns = b.index(spec.d_model);
        if spec.lanes == 1 {
            let row = id * columns;
            b.for_each(0, columns, LANES, |column| {
                let x = b.load_vector(table, &[row + column], LANES);
                b.store(x.to_f32(), out, &[token, column]);
            });
        } else {
            let lanes = b.index(spec.lanes);
            let first = id / lanes * (spec.d_model * spec.lanes) + id % lanes;
            b.for_each(0, columns, 1, |column: Value| {
                let x = b.load(table, &[first + column * lanes]);
                b.store(x.to_f32(), out, &[token, column]);
            });
        }
    });
}
