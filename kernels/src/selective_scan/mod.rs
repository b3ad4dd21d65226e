//! The Mamba-1 recurrence (arXiv 2312.00752), sequential in time, with what stands before it and behind it where fused.
//!
//!     h[c, n] = exp(Δ[t, c] · A[c, n]) · h[c, n] + Δ[t, c] · u[t, c] · B[t, n]
//!     y[t, c] = Σₙ h[c, n] · C[t, n]                                   n from 0 to d_state − 1
//!     y[t, c] = (y[t, c] + d[c] · u[t, c]) · silu(z[t, c])             (gated form)
//!
//! Δ, B and C are given, or made from less ([`Selection`]):
//!
//!     Δ[t, c] = softplus(Σⱼ dt[t, j] · dt_weight[c, j] + dt_bias[c])   j from 0 to dt_rank − 1   (projected, normed)
//!     dt, B, C = rms_norm of the parts of x[t, :]                                                (normed)
//!
//! A comes packed as −exp(A_log) · log₂(e), so that exp(Δ · A) = exp2(Δ · a). Lanes are channels; A and the state lie in
//! panels `[ceil(channels / 16)][d_state][16]`, f32, dt_weight in those of [`crate::linear`]; slot_stride is in elements.
//! Token t belongs to sequence sequence_of\[t\], whose tokens follow each other and whose state is slot slots\[sequence\]. Threads
//! split the channels.
//! Bound by arithmetic: one exp2 and three multiply-adds per channel, state and token.

use crate::kernel::{Cost, Counts, Elem, Param, padded};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;
#[cfg(feature = "emit")]
mod selection;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Channels: d_inner.
    pub channels: usize,
    /// States per channel.
    pub d_state: usize,
    /// Where Δ, B and C come from.
    pub selection: Selection,
    /// True when the D skip and the SiLU gate are part of it.
    pub gated: bool,
}

/// Where Δ, B and C come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Selection {
    /// Slots `dt`, `b` and `c`.
    Given,
    /// Δ from the low-rank rows in slot `dt`, B and C from slots `b` and `c`.
    Projected(Projection),
    /// All three from the parts of slot `x`: dt_rank, d_state and d_state columns.
    Normed {
        /// Of the first part, to Δ.
        projection: Projection,
        /// Added to the means of squares.
        eps: f64,
    },
}

/// The linear that makes Δ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Projection {
    /// Its inputs.
    pub dt_rank: usize,
    /// Stored type of its weight.
    pub format: Elem,
}

impl Selection {
    /// The linear, where Δ is not given.
    pub fn projection(self) -> Option<Projection> {
        match self {
            Selection::Given => None,
            Selection::Projected(projection) | Selection::Normed { projection, .. } => Some(projection),
        }
    }

    fn symbol(self) -> String {
        let projected = |Projection { dt_rank, format }: Projection| format!("_r{dt_rank}_{}", format.name());
        match self {
            Selection::Given => String::new(),
            Selection::Projected(projection) => projected(projection),
            Selection::Normed { projection, eps } => format!("{}_e{:x}", projected(projection), (eps as f32).to_bits()),
        }
    }

    fn params(self, channels: usize, d_state: usize) -> Vec<Param> {
        let rows = |name, cols| Param::read(name, Elem::F32, &[padded(cols)]);
        let vector = |name| Param::read(name, Elem::F32, &[]);
        let mut params = match self {
            Selection::Given => vec![rows("dt", channels), rows("b", d_state), rows("c", d_state)],
            Selection::Projected(Projection { dt_rank, .. }) => {
                vec![rows("dt", dt_rank), rows("b", d_state), rows("c", d_state)]
            }
            Selection::Normed { projection: Projection { dt_rank, .. }, .. } => {
                vec![rows("x", dt_rank + 2 * d_state), vector("dt_norm"), vector("b_norm"), vector("c_norm")]
            }
        };
        if let Some(Projection { format, .. }) = self.projection() {
            params.extend([Param::read("dt_weight", format, &[]), vector("dt_bias")]);
        }
        params
    }
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        let name = if self.gated { "gated_selective_scan" } else { "selective_scan" };
        format!("{name}_c{}_n{}{}", self.channels, self.d_state, self.selection.symbol())
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = &[padded(self.channels)];
        let mut params = vec![Param::read("u", Elem::F32, row), Param::read("a", Elem::F32, &[])];
        params.extend(self.selection.params(self.channels, self.d_state));
        params.push(Param::read_write("state", Elem::F32, &[]));
        if self.gated {
            params.extend([Param::read("d", Elem::F32, &[]), Param::read("z", Elem::F32, row)]);
        }
        params.extend([
            Param::read("sequence_of", Elem::I32, &[]),
            Param::read("slots", Elem::I32, &[]),
            Param::write("y", Elem::F32, row),
            Param::scalar("tokens"),
            Param::scalar("slot_stride"),
        ]);
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let (tokens, channels, d_state) = (counts.tokens as f64, self.channels as f64, self.d_state as f64);
        let gate = if self.gated { 20.0 } else { 1.0 };
        let rank = self.selection.projection().map_or(0.0, |projection| projection.dt_rank as f64);
        let (rows, weight, projecting) = match self.selection.projection() {
            None => (tokens * channels, 0.0, 0.0),
            // A softplus takes as many operations as a gate.
            Some(Projection { format, .. }) => {
                (tokens * rank, channels * rank * format.bytes() as f64, 2.0 * rank + 20.0)
            }
        };
        let streams = if self.gated { 3.0 } else { 2.0 };
        let state = 2.0 * counts.sequences as f64 * channels * d_state;
        Cost {
            bytes: weight
                + (streams * tokens * channels + rows + 2.0 * tokens * d_state + state + channels * d_state) * 4.0,
            flops: tokens * channels * (d_state * 14.0 + gate + projecting),
        }
    }

    /// Bytes of one sequence's state.
    pub fn state_bytes(&self) -> usize {
        padded(self.channels) * self.d_state * 4
    }
}
