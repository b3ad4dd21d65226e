//! Depthwise causal convolution over the last `taps` inputs of each sequence, then activation.
//!
//!     y[t, c] = activation(Σₖ u[t − taps + 1 + k, c] · weight[c, k] + bias[c])
//!
//! Inputs before the step come from the sequence's state, `[ceil(channels / 16)][taps − 1][16]` f32 in its slot, oldest
//! first; the state is left holding the last taps − 1 inputs; slot_stride is in elements. Weights lie in panels
//! `[ceil(channels / 16)][taps][16]`, f32.
//! Threads split the channels; each walks along time with the last inputs in registers.
//! Bound by memory: u read once, y written once.

use crate::kernel::{Cost, Counts, Elem, Param, epilogue, padded};
use jambac_graph::Activation;

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Channels: d_inner.
    pub channels: usize,
    /// Inputs that one output sees: d_conv.
    pub taps: usize,
    /// True when a bias follows the weight.
    pub bias: bool,
    /// Applied to the sum.
    pub activation: Activation,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        let epilogue = epilogue(self.bias, self.activation);
        format!("causal_conv1d_c{}_k{}{epilogue}", self.channels, self.taps)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = &[padded(self.channels)];
        let mut params = vec![Param::read("u", Elem::F32, row), Param::read("weight", Elem::F32, &[])];
        if self.bias {
            params.push(Param::read("bias", Elem::F32, &[]));
        }
        params.extend([
            Param::read_write("state", Elem::F32, &[]),
            Param::read("starts", Elem::I32, &[]),
            Param::read("slots", Elem::I32, &[]),
            Param::write("y", Elem::F32, row),
            Param::scalar("sequences"),
            Param::scalar("slot_stride"),
        ]);
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let elements = (counts.tokens * self.channels) as f64;
        let state = (counts.sequences * self.channels * (self.taps - 1)) as f64;
        Cost { bytes: (2.0 * elements + 2.0 * state) * 4.0, flops: elements * 2.0 * self.taps as f64 }
    }
}

impl Spec {
    /// Bytes of one sequence's state.
    pub fn state_bytes(&self) -> usize {
        padded(self.channels) * (self.taps - 1) * 4
    }
}
