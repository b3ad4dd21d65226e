//! Embedding lookup on CPUs: each thread processes a range of tokens.
//!
//! 1. for each token: find its row
//! 2. widen and store: vectors from a row-major table, single elements from panels, whose rows are strided; panels of int8
//!    interleave pairs of inputs ([`jamba_plan::quantize`])

use super::Spec;
use crate::cpu::builder::Builder;
use crate::cpu::integer::padded_inputs;
use crate::kernel::{Elem, LANES};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (table, out) = (b.buffer("weight"), b.buffer("out"));
    b.parallel_for(b.scalar("tokens"), |token| {
        // 1. find
        let id = b.load(b.buffer("ids"), token).to_index();
        // 2. widen and store
        if spec.lanes == 1 {
            let row = id * spec.d_model;
            b.for_each(0, spec.d_model, LANES, |column| {
                let x = b.load_vector(table, row + column, LANES);
                b.store(x.to_f32(), out, (token, column));
            });
        } else if spec.format == Elem::I8 {
            let first = id / LANES * (padded_inputs(spec.d_model) * LANES) + id % LANES * 2;
            let scale = b.load(b.buffer("scales"), id);
            b.for_each(0, spec.d_model, 1, |column| {
                let q = b.load(table, first + column / 2 * (2 * LANES) + column % 2);
                b.store(q.to_f32() * scale, out, (token, column));
            });
        } else {
            let first = id / spec.lanes * (spec.d_model * spec.lanes) + id % spec.lanes;
            b.for_each(0, spec.d_model, 1, |column| {
                let x = b.load(table, first + column * spec.lanes);
                b.store(x.to_f32(), out, (token, column));
            });
        }
    });
}
