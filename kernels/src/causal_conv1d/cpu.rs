//! Causal convolution on a CPU: each thread takes a range of channel vectors and walks each along time, the vector's taps
//! and its last inputs in registers.
//!
//! 1. the last inputs before the step, from the sequence's state
//! 2. along time: the taps in order, the oldest input first, then the bias and the activation
//! 3. the last inputs of the step, to the state

use super::Spec;
use crate::builder::{Builder, Value};
use crate::kernel::{LANES, padded};
use crate::math;
use jambac_graph::Activation;

/// Tokens that the fetch from memory is ahead of the arithmetic: a row is further away than hardware prefetchers look.
const AHEAD: usize = 8;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (u, y, state) = (b.buffer("u"), b.buffer("y"), b.buffer("state"));
    let (starts, slots) = (b.buffer("starts"), b.buffer("slots"));
    let past = spec.taps - 1;
    let (start, end) = b.thread_range(b.index(padded(spec.channels) / LANES));
    b.for_each(start, end, 1, |block| {
        let column = b.mul(block, b.index(LANES));
        let vector = |first: Value, number: usize| b.add(first, b.index(number * LANES));
        let panel = b.mul(block, b.index(spec.taps * LANES));
        let weight: Vec<Value> =
            (0..spec.taps).map(|k| b.load_vector(b.buffer("weight"), &[vector(panel, k)], LANES)).collect();
        let bias = spec.bias.then(|| b.load_vector(b.buffer("bias"), &[column], LANES));

        b.for_each(b.index(0), b.scalar("sequences"), 1, |s| {
            // 1. from the state
            let slot = b.mul(b.to_index(b.load(slots, &[s])), b.scalar("slot_stride"));
            let remembered = b.add(slot, b.mul(block, b.index(past * LANES)));
            let inputs: Vec<Value> = (0..past).map(|k| b.load_vector(state, &[vector(remembered, k)], LANES)).collect();

            // 2. along time
            let first = b.to_index(b.load(starts, &[s]));
            let end = b.to_index(b.load(starts, &[b.add(s, b.index(1))]));
            let inputs = b.for_range_vec(first, end, 1, &inputs, |t, inputs| {
                b.prefetch(u, &[b.add(t, b.index(AHEAD)), column]);
                let inputs = [inputs, &[b.load_vector(u, &[t, column], LANES)]].concat();
                let mut sum = b.mul(inputs[0], weight[0]);
                for (&input, &weight) in inputs.iter().zip(&weight).skip(1) {
                    sum = b.fma(input, weight, sum);
                }
                if let Some(bias) = bias {
                    sum = b.add(sum, bias);
                }
                let activated = match spec.activation {
                    Activation::None => sum,
                    Activation::Silu => math::silu(b, sum),
                    Activation::Softplus => math::softplus(b, sum),
                };
                b.store(activated, y, &[t, column]);
                inputs[1..].to_vec()
            });

            // 3. to the state
            for (k, &input) in inputs.iter().enumerate() {
                b.store(input, state, &[vector(remembered, k)]);
            }
        });
    });
}
