//! Routing on CPUs, on the first thread; the other threads return. Sorting needs the experts of every row, and a barrier
//! before it would take longer than processing the rows.
//!
//! 1. for each row: probabilities, on the stack ([`crate::softmax`])
//! 2. the largest probabilities and their indices ([`crate::top_k`])
//! 3. sort slots by expert ([`crate::moe_permute`])

use super::Spec;
use crate::cpu::builder::{Builder, Num};
use crate::cpu::rows::Row;
use crate::kernel::padded;
use crate::{moe_permute, softmax, top_k};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let &Spec { n_experts, top_k } = spec;
    let (logits, weights, experts) = (b.buffer("logits"), b.buffer("weights"), b.buffer("experts"));
    let probabilities = Row { buffer: b.stack(Num::F32, &[1, padded(n_experts)]), row: b.index(0) };
    b.if_(b.thread().eq(0), || {
        b.for_each(0, b.scalar("rows"), 1, |row| {
            // 1. probabilities
            softmax::cpu::row(b, n_experts, Row { buffer: logits, row }, probabilities);
            // 2. largest
            let largest = top_k::Spec { cols: n_experts, k: top_k };
            top_k::cpu::row(b, &largest, probabilities, |j, weight, expert| {
                b.store(weight, weights, (row, j));
                b.store(expert.to_i32(), experts, (row, j));
            });
        });
        // 3. sort
        moe_permute::cpu::sort(b, &moe_permute::Spec { n_experts, top_k }, b.scalar("rows"));
    });
}
