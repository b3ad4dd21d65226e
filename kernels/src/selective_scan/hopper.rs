//! The Mamba-1 recurrence on Hopper: blocks split sequences and channels; time is sequential, the state in registers, the
//! inputs of a stretch of time in shared memory while the next one's are in flight.
//!
//!     h[c, n] = exp2(Δ[t, c] · a[c, n]) · h[c, n] + Δ[t, c] · u[t, c] · B[t, n]       a = −exp(A_log) · log₂(e)
//!     y[t, c] = Σₙ h[c, n] · C[t, n]                                                n from 0 to d_state − 1
//!     y[t, c] = (y[t, c] + d[c] · u[t, c]) · silu(z[t, c])                          (gated form)
//!
//! u, z and y bf16, all else f32; a and the states dense, `[channel][state]`; slot_stride is in elements.
//! Bound by the special-function unit (one exp2 per channel, state and token, 16 a cycle and multiprocessor) and about as
//! much by issue: some 30 instructions of a warp for 32 lanes' states of one token. 0.3 ms for 8192 tokens of 8192 channels
//! of 16 states.
//!
//! A channel is a group of lanes of a warp, each with a few states (`Shape`). As many tokens as a group has lanes are taken
//! together: each lane sums its states' part of y for all of them, then the lanes exchange, so that each has the whole y of
//! one token, and gates it.
//!
//! 1. decay rates and states of the thread
//! 2. for each stretch: wait for its inputs; for each group of tokens: states, sums over the lanes, gate, y to shared memory
//! 3. the copies of the stretch after the next start; y is stored, 16 bytes a thread
//! 4. states

use crate::hopper::{WARP, row_stride};
use crate::kernel::{Cost, Counts, Elem, Param};
use jamba_plan::format::{Blocks, Count, Launch};

#[cfg(feature = "emit")]
mod emit;
#[cfg(feature = "emit")]
mod stage;

#[cfg(feature = "emit")]
pub(crate) use emit::emit;

/// Tokens of a stretch.
const STRETCH: usize = 32;

/// Stretches in shared memory: one in use, one under way.
const STAGES: usize = 2;

/// Blocks that fill the device: with fewer, a thread has two states instead of four.
const MANY_BLOCKS: usize = 240;

/// Bytes of one sequence's state.
pub fn state_bytes(channels: usize, d_state: usize) -> usize {
    4 * channels * d_state
}

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Channels: d_inner.
    pub channels: usize,
    /// States per channel.
    pub d_state: usize,
    /// True when the D skip and the SiLU gate are part of it.
    pub gated: bool,
}

/// How channels and states lie over threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Lanes of a channel: a power of two, 32 at most.
    lanes: usize,
    /// States of a lane, which follow each other.
    states: usize,
    /// Threads of a block.
    threads: u32,
}

impl Shape {
    /// With four states a lane, or two where the channels are few; where d_state does not divide so, the last lanes have
    /// fewer states or none.
    pub(crate) fn of(channels: usize, d_state: usize) -> Shape {
        let with = |states: usize| {
            let lanes = d_state.div_ceil(states).next_power_of_two().min(WARP as usize);
            // The 8 channels that 16 bytes of bf16 hold, at least.
            let threads = (8 * lanes).max(128) as u32;
            Shape { lanes, states: d_state.div_ceil(lanes), threads }
        };
        let four = with(4);
        if channels.div_ceil(four.channels()) >= MANY_BLOCKS { four } else { with(2) }
    }

    /// Channels of a block.
    pub(crate) fn channels(self) -> usize {
        self.threads as usize / self.lanes
    }

    /// Whether each lane has as many states as any.
    pub(crate) fn is_whole(self, d_state: usize) -> bool {
        self.lanes * self.states == d_state
    }
}

/// Bytes of one stage in shared memory, by what is read: rows of the block's channels, or of all states.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    dt: usize,
    b: usize,
    c: usize,
    u: usize,
    z: usize,
    /// Of all of it.
    bytes: usize,
    /// From a row of B or C to the next, in bytes: lanes beyond the last state read zeros or anything that is finite.
    state_row: usize,
}

impl Layout {
    fn of(spec: &Spec) -> Layout {
        let shape = spec.shape();
        let state_row = (4 * shape.lanes * shape.states).next_multiple_of(16);
        let f32_rows = 4 * STRETCH * shape.channels();
        let bf16_rows = f32_rows / 2;
        let (b, c) = (f32_rows, f32_rows + STRETCH * state_row);
        let u = c + STRETCH * state_row;
        let z = u + bf16_rows;
        let bytes = if spec.gated { z + bf16_rows } else { z };
        Layout { dt: 0, b, c, u, z, bytes, state_row }
    }
}

impl Spec {
    pub(crate) fn shape(&self) -> Shape {
        Shape::of(self.channels, self.d_state)
    }

    pub(crate) fn symbol(&self) -> String {
        let name = if self.gated { "gated_selective_scan" } else { "selective_scan" };
        format!("{name}_c{}_n{}_sm90", self.channels, self.d_state)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let rows = |name, elem, cols| Param::read(name, elem, &[row_stride(elem, cols)]);
        let mut params = vec![
            rows("u", Elem::Bf16, self.channels),
            Param::read("a", Elem::F32, &[]),
            rows("dt", Elem::F32, self.channels),
            rows("b", Elem::F32, self.d_state),
            rows("c", Elem::F32, self.d_state),
            Param::read_write("state", Elem::F32, &[]),
        ];
        if self.gated {
            params.extend([Param::read("d", Elem::F32, &[]), rows("z", Elem::Bf16, self.channels)]);
        }
        params.extend([
            Param::read("starts", Elem::I32, &[]),
            Param::read("slots", Elem::I32, &[]),
            Param::write("y", Elem::Bf16, &[row_stride(Elem::Bf16, self.channels)]),
            Param::count("sequences"),
            Param::scalar("slot_stride"),
        ]);
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let (tokens, channels, d_state) = (counts.tokens as f64, self.channels as f64, self.d_state as f64);
        let (streams, gate) = if self.gated { (10.0, 6.0) } else { (8.0, 0.0) };
        let state = 8.0 * counts.sequences as f64 * channels * d_state;
        Cost {
            bytes: tokens * (streams * channels + 8.0 * d_state) + state + 4.0 * channels * d_state,
            flops: tokens * channels * (7.0 * d_state + gate),
        }
    }

    pub(crate) fn launch(&self) -> Launch {
        let shape = self.shape();
        let channels = Blocks::Fixed(self.channels.div_ceil(shape.channels()) as u32);
        let sequences = Blocks::Of { count: Count::Sequences, factor: 1, per_block: 1 };
        let y_bytes = 2 * STRETCH * shape.channels();
        let shared_bytes = (STAGES * Layout::of(self).bytes + y_bytes) as u32;
        Launch { grid: [channels, sequences, Blocks::Fixed(1)], threads: shape.threads, shared_bytes }
    }

    /// Bytes of one sequence's state.
    pub fn state_bytes(&self) -> usize {
        state_bytes(self.channels, self.d_state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_lie_over_lanes() {
        let shape = |lanes, states, threads| Shape { lanes, states, threads };
        assert_eq!(Shape::of(8192, 16), shape(4, 4, 128));
        assert_eq!(Shape::of(5120, 16), shape(8, 2, 128));
        assert_eq!(Shape::of(8192, 64), shape(16, 4, 128));
        assert_eq!(Shape::of(256, 64), shape(32, 2, 256));
        assert_eq!(Shape::of(40, 5), shape(4, 2, 128));
        assert_eq!(Shape::of(40, 100), shape(32, 4, 256));
        assert_eq!(Shape::of(40, 1), shape(1, 1, 128));
        for (channels, d_state) in [(8192, 16), (40, 5), (40, 100), (40, 1), (5120, 16)] {
            let shape = Shape::of(channels, d_state);
            assert!(shape.lanes * shape.states >= d_state && shape.channels().is_multiple_of(8));
        }
    }
}
