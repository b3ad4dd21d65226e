//! The Mamba-1 recurrence (arXiv 2312.00752), sequential in time, with the D skip and the SiLU gate where fused.
//!
//!     h[c, n] = exp(dt[t, c] · A[c, n]) · h[c, n] + dt[t, c] · u[t, c] · b[t, n]
//!     y[t, c] = Σₙ h[c, n] · c[t, n]                                   n from 0 to d_state − 1
//!     y[t, c] = (y[t, c] + d[c] · u[t, c]) · silu(z[t, c])             (gated form)
//!
//! A comes packed as −exp(A_log) · log₂(e), so that exp(dt · A) = exp2(dt · a). Lanes are channels; A and the state lie in
//! panels `[ceil(channels / 16)][d_state][16]`, f32; slot_stride is in elements. Threads split the channels.
//! Bound by arithmetic: one exp2 and three multiply-adds per channel, state and token.

use crate::kernel::{Cost, Counts, Elem, Param, padded};

#[cfg(feature = "emit")]
pub(crate) mod cpu;

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

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        let name = if self.gated { "gated_selective_scan" } else { "selective_scan" };
        format!("{name}_c{}_n{}", self.channels, self.d_state)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let (row, states) = (&[padded(self.channels)], &[padded(self.d_state)]);
        let mut params = vec![
            Param::read("dt", Elem::F32, row),
            Param::read("u", Elem::F32, row),
            Param::read("a", Elem::F32, &[]),
            Param::read("b", Elem::F32, states),
            Param::read("c", Elem::F32, states),
            Param::read_write("state", Elem::F32, &[]),
        ];
        if self.gated {
            params.extend([Param::read("d", Elem::F32, &[]), Param::read("z", Elem::F32, row)]);
        }
        params.extend([
            Param::read("starts", Elem::I32, &[]),
            Param::read("slots", Elem::I32, &[]),
            Param::write("y", Elem::F32, row),
            Param::scalar("sequences"),
            Param::scalar("slot_stride"),
        ]);
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let (tokens, channels, d_state) = (counts.tokens as f64, self.channels as f64, self.d_state as f64);
        let streams = if self.gated { 4.0 } else { 3.0 };
        let state = 2.0 * counts.sequences as f64 * channels * d_state;
        Cost {
            bytes: (streams * tokens * channels + 2.0 * tokens * d_state + state + channels * d_state) * 4.0,
            flops: tokens * channels * (d_state * 14.0 + if self.gated { 20.0 } else { 1.0 }),
        }
    }
}

impl Spec {
    /// Bytes of one sequence's state.
    pub fn state_bytes(&self) -> usize {
        padded(self.channels) * self.d_state * 4
    }
}
