//! One token of each sequence on Hopper: the norms of Δ, B and C, the projection of Δ and the recurrence in one launch. Blocks split
//! sequences and channels as the scan of many tokens does.
//!
//! ```text
//! dt, B, C = rms_norm of the parts of x[s, :]                              dt rounded to bf16
//! Δ[c] = softplus(Σⱼ dt[j] · dt_weight[c, j] + dt_bias[c])                 j from 0 to dt_rank − 1
//! h[c, n] = exp2(Δ[c] · a[c, n]) · h[c, n] + Δ[c] · u[s, c] · B[n];  y[s, c] = (Σₙ h[c, n] · C[n] + d[c] · u[s, c]) · silu(z[s, c])
//! ```
//!
//! x, Δ and the state are f32; u, z, y and dt_weight bf16. Each block norms the sequence's row for itself: dt_rank + 2 · d_state
//! numbers from L2. The lanes of a channel take pieces of 8 inputs in turn; their sums are added over the lanes.
//! Bound by being launched, and by memory: dt_weight and a once, the state read and written.
//!
//! 1. load rates, states, weights and activations
//! 2. a warp for each part: norm, to shared memory
//! 3. Δ; states; y over the lanes; gate, store

use crate::hopper::operand::{matrix, read, small, vector, write};
use crate::kernel::{Amount, Blocks, Cost, Elem, Grid, Launch, Operand, Param, Per, Work, hopper_body};
use crate::operand::{Extent, Source};
use crate::selective_scan::{FIRST, Projection, Spec};
use jamba_plan::format::{Table, Transform};

use super::shape;
use crate::hopper::row_stride;

/// Inputs of a piece: 16 bytes of bf16.
const PIECE: usize = 8;

/// A scan with norms and projection.
#[derive(Clone, Debug)]
pub(crate) struct Normed {
    spec: Spec,
    dt_rank: usize,
    /// Added to the means of squares.
    eps: f64,
}

impl Normed {
    /// Columns of dt, B and C.
    fn parts(&self) -> [usize; 3] {
        [self.dt_rank, self.spec.d_state, self.spec.d_state]
    }

    /// Where the normed parts are in shared memory: dt to whole pieces, B and C to the states of all lanes.
    fn places(&self) -> [usize; 4] {
        let shape = shape(&self.spec);
        let states = 4 * shape.lanes * shape.states;
        let b = 4 * self.dt_rank.next_multiple_of(PIECE);
        [0, b, b + states, b + 2 * states]
    }
}

pub(super) fn launch(spec: &Spec, projection: Projection, eps: f64) -> Launch {
    let Spec { channels, d_state, gated, .. } = *spec;
    let Projection { dt_rank, format } = projection;
    let normed = Normed { spec: spec.clone(), dt_rank, eps };
    let weight = Param::read("dt_weight", format, &[row_stride(format, dt_rank)]);
    // Parameters are in the order of the separate launches'.
    let mut operands = vec![
        read("x", Elem::F32, dt_rank + 2 * d_state, FIRST),
        vector("dt_norm", dt_rank, FIRST + 1),
        vector("b_norm", d_state, FIRST + 2),
        vector("c_norm", d_state, FIRST + 3),
        Operand::new(weight, Source::Weight(matrix(format, FIRST + 4, channels, dt_rank)), Extent::fixed(0)),
        vector("dt_bias", channels, FIRST + 5),
        read("u", Elem::Bf16, channels, 0),
        small("a", channels, d_state, 1, Transform::DecayRate),
        Operand::state(Elem::F32, channels * d_state),
    ];
    if gated {
        operands.extend([vector("d", channels, spec.skip()), read("z", Elem::Bf16, channels, spec.skip() + 1)]);
    }
    operands.extend([
        Operand::table(Table::Slots),
        write("y", Elem::Bf16, channels, 0),
        Operand::count("sequences", Per::Sequence),
        Operand::slot_stride(),
    ]);
    let shape = shape(spec);
    let along_channels = Blocks::Fixed(channels.div_ceil(shape.channels()) as u32);
    let along_sequences = Blocks::Of { per: Per::Sequence, factor: 1, per_block: 1 };
    let rank = dt_rank as f64;
    let own = super::cost(spec);
    let weights = (channels * (dt_rank * format.bytes() + 4)) as f64;
    Launch {
        op: "selective_scan",
        symbol: format!("{}_c{channels}_n{d_state}{}_decode_sm90", spec.name(), spec.selection.symbol()),
        operands,
        cost: Cost {
            // As the scan, without a row of Δ.
            bytes: Amount {
                constant: own.bytes.constant + weights,
                rows: own.bytes.rows + 4.0 * rank - 4.0 * channels as f64,
                ..own.bytes
            },
            operations: Amount::per_row(own.operations.rows + channels as f64 * (2.0 * rank + 20.0)),
        },
        grid: Some(Grid {
            blocks: [along_channels, along_sequences, Blocks::Fixed(1)],
            threads: shape.threads,
            shared_bytes: normed.places()[3] as u32,
            // slots and state, or x; then y
            work: Work { dependent_reads: 2, ..Work::default() },
        }),
        body: hopper_body!(normed, emit),
    }
}

#[cfg(feature = "emit")]
mod emit;
#[cfg(feature = "emit")]
pub(crate) use emit::emit;
