//! The kernel body of routing.

use super::Spec;
use crate::cpu::builder::Value;
use crate::hopper::select::{Largest, short_row, sort_by_expert};
use crate::hopper::{Builder, row_stride};
use crate::kernel::Elem;
use std::f32::consts::LOG2_E;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    sort_by_expert(b, spec.n_experts, spec.top_k, |token| largest(b, spec, token));
}

/// Stores the experts of a token's largest logits, each expert once, and their weights; returns the experts.
fn largest(b: &Builder, spec: &Spec, token: Value) -> Vec<Value> {
    let &Spec { n_experts, top_k, .. } = spec;
    let x = short_row(b, b.pointer("logits"), token, n_experts);
    let most = x[1..].iter().fold(x[0], |most, &x| b.greater(most, x));
    let probability = |x: Value| b.exp2((x - most) * LOG2_E);
    let sum = x[1..].iter().fold(probability(x[0]), |sum, &x| sum + probability(x));
    let scale = b.reciprocal(sum);

    let weights = b.row(b.pointer("weights"), token, 4 * row_stride(Elem::F32, top_k));
    let experts = b.row(b.pointer("experts"), token, 4 * top_k);
    let mut largest = Largest::of(b, x);
    let choose = |j: usize| {
        let (logit, expert) = largest.take();
        b.store(probability(logit) * scale, b.at_byte(weights, 4 * j));
        b.store(expert, b.at_byte(experts, 4 * j));
        expert
    };
    (0..top_k).map(choose).collect()
}
