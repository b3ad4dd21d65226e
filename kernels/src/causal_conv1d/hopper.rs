//! Causal convolution on Hopper: blocks split channels and runs of tokens; a thread walks four channels along a run, their
//! taps and last inputs in registers.
//!
//!     y[t, c] = activation(Σₖ u[t − taps + 1 + k, c] · weight[c, k] + bias[c])      u, y bf16; sums in f32
//!
//! Inputs before the step come from the sequence's state, `[taps − 1][row_stride(f32, channels)]` f32 in its slot, oldest first;
//! the state is left holding the last taps − 1 inputs; slot_stride is in elements. Weights are dense, `[channel][tap]` f32.
//! Bound by memory: 2 bytes of u read and 2 of y written for each element, u once more for the taps − 1 tokens before a run.
//!
//! A run never ends inside a sequence's first taps − 1 tokens: only the thread that begins a sequence reads its state, and it
//! writes the next one.
//!
//! 1. taps and bias of the channels
//! 2. for each sequence in the run: the inputs before it, from the state (then also the next state) or from u
//! 3. along time: the taps in order, the oldest input first, then the bias and the activation; in groups, with the next
//!    group's rows in flight, and the rest by single tokens

use crate::hopper::row_stride;
use crate::kernel::{Cost, Counts, Elem, Param, epilogue};
use jamba_plan::format::{Blocks, Count, Launch};
use jambac_graph::Activation;

/// Channels of a thread: 8 bytes of bf16.
const CHANNELS: usize = 4;

/// Threads of a block.
const THREADS: u32 = 128;

/// Bytes of one sequence's state.
pub fn state_bytes(channels: usize, taps: usize) -> usize {
    4 * row_stride(Elem::F32, channels) * (taps - 1)
}

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
    /// Tokens of a run; the results do not depend on it.
    pub run: u32,
}

impl Spec {
    /// Tokens of a run where sequences are long.
    pub const RUN_PREFILL: u32 = 32;

    /// Tokens of a run where each is of another sequence.
    pub const RUN_DECODE: u32 = 1;

    pub(crate) fn symbol(&self) -> String {
        let epilogue = epilogue(self.bias, self.activation);
        format!("causal_conv1d_c{}_k{}{epilogue}_run{}_sm90", self.channels, self.taps, self.run)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = &[row_stride(Elem::Bf16, self.channels)];
        let mut params = vec![Param::read("u", Elem::Bf16, row), Param::read("weight", Elem::F32, &[])];
        if self.bias {
            params.push(Param::read("bias", Elem::F32, &[]));
        }
        params.extend([
            Param::read_write("state", Elem::F32, &[]),
            Param::read("sequence_of", Elem::I32, &[]),
            Param::read("starts", Elem::I32, &[]),
            Param::read("slots", Elem::I32, &[]),
            Param::write("y", Elem::Bf16, row),
            Param::count("tokens"),
            Param::scalar("slot_stride"),
        ]);
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let elements = (counts.tokens * self.channels) as f64;
        let state = (counts.sequences * self.channels * (self.taps - 1)) as f64;
        Cost { bytes: 4.0 * elements + 8.0 * state, flops: elements * 2.0 * self.taps as f64 }
    }

    pub(crate) fn launch(&self) -> Launch {
        let runs = Blocks::Of { count: Count::Tokens, factor: 1, per_block: self.run };
        let channels = self.channels.div_ceil(CHANNELS * THREADS as usize) as u32;
        Launch { grid: [runs, Blocks::Fixed(channels), Blocks::Fixed(1)], threads: THREADS, shared_bytes: 0 }
    }

    /// Bytes of one sequence's state.
    pub fn state_bytes(&self) -> usize {
        state_bytes(self.channels, self.taps)
    }

    fn state_row(&self) -> usize {
        row_stride(Elem::F32, self.channels)
    }
}

#[cfg(feature = "emit")]
mod emit;
#[cfg(feature = "emit")]
pub(crate) use emit::emit;
