//! A norm, a product and a convolution on CPUs: the product's kernel ([`crate::cpu::whole`]) with a prologue and an epilogue.
//!
//! 1. norm: for each block of rows, each thread for itself
//! 2. sum
//! 3. convolve the first part, or multiply gate and up; store

use super::{Product, Spec};
use crate::cpu::builder::{Builder, Value};
use crate::kernel::LANES;
use crate::{causal_conv1d, linear_swiglu, split_linear};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let eps = Some(spec.eps);
    match &spec.product {
        Product::Split(split) => split_linear::cpu::product(b, split, eps, &|_, _, sum| sum),
        Product::Swiglu(swiglu) => linear_swiglu::cpu::product(b, swiglu, eps),
        Product::Conv(split, conv) => {
            split_linear::cpu::product(b, split, eps, &|row, panel, u| convolve(b, conv, row, panel, u));
        }
    }
}

/// 3. The convolution of a panel of channels, whose last input is u; the row is the only one of its sequence.
fn convolve(b: &Builder, conv: &causal_conv1d::Spec, row: Value, panel: Value, u: Value) -> Value {
    let sequence = b.load(b.buffer("sequence_of"), row).to_index();
    let slot = b.load(b.buffer("slots"), sequence).to_index() * b.scalar("slot_stride");
    let channels = causal_conv1d::cpu::Channels::load(b, conv, ["conv_weight", "conv_bias"], panel);
    let place = channels.place(slot);
    let mut inputs = channels.remembered(place);
    inputs.push(u);
    channels.remember(place, &inputs[1..]);
    channels.convolve(&inputs, panel * LANES)
}
