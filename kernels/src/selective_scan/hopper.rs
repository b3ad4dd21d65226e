//! The Mamba-1 recurrence on Hopper. Blocks split sequences and channels; time is sequential, with the state in registers
//! and the inputs of a stretch of time in shared memory, while the next stretch's inputs are in flight.
//!
//! ```text
//! h[c, n] = exp2(Δ[t, c] · a[c, n]) · h[c, n] + Δ[t, c] · u[t, c] · B[t, n]       a = −exp(A_log) · log₂(e)
//! y[t, c] = Σₙ h[c, n] · C[t, n]                                                n from 0 to d_state − 1
//! y[t, c] = (y[t, c] + d[c] · u[t, c]) · silu(z[t, c])                          (gated form)
//! ```
//!
//! u, z and y are bf16, everything else is f32; a and the states are dense, `[channel][state]`; slot_stride is in elements.
//! Bound by the special-function unit (one exp2 per channel, state and token, 16 per cycle and SM) and about equally by
//! issue: about 30 warp instructions for 32 lanes' states of one token. 0.3 ms for 8192 tokens of 8192 channels with 16
//! states.
//!
//! A channel is a group of lanes of a warp, each with a few states (`Shape`). Tokens are processed in groups of as many
//! tokens as a channel has lanes: each lane sums its states' part of y for all of them, then the lanes exchange, so that
//! each has the complete y of one token, and gates it.
//!
//! 1. load decay rates and states of the thread
//! 2. for each stretch: wait for its inputs; for each group of tokens: states, sums over the lanes, gate, y to shared
//!    memory
//! 3. start the copies of the stretch after the next; store y, 16 bytes per thread
//! 4. store states

use super::{FIRST, Projection, Selection, Spec};
use crate::hopper::facts::WARP;
use crate::hopper::matmul;
use crate::hopper::operand::{read, small, vector, write};
use crate::kernel::{
    Amount, Blocks, Candidate, Config, Cost, Elem, Grid, Hopper, Launch, Lowering, Operand, Per, Source, StepSize,
    Unsupported, Work, hopper_body,
};
use crate::{linear, split_rms_norm};
use jamba_plan::format::{Table, Transform};
use jambac_graph::Activation;

mod decode;
#[cfg(feature = "emit")]
mod emit;
#[cfg(feature = "emit")]
mod stage;

#[cfg(feature = "emit")]
pub(crate) use emit::emit;

/// Tokens per stretch.
const STRETCH: usize = 32;

/// Stretches in shared memory: one in use, one in flight.
const STAGES: usize = 2;

/// Number of blocks per sequence from which on a thread has four states instead of two: slightly fewer than two blocks for
/// each of the [`N_SMS`](crate::hopper::facts::N_SMS) SMs.
const MANY_BLOCKS: usize = 240;

/// Distribution of channels and states over threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Lanes per channel: a power of two, at most 32.
    lanes: usize,
    /// Consecutive states per lane.
    states: usize,
    /// Threads per block.
    threads: u32,
}

impl Shape {
    /// Four states per lane, or two if there are few channels. If this does not divide d_state, the last lanes have fewer
    /// states or none.
    pub(crate) fn of(channels: usize, d_state: usize) -> Shape {
        let with = |states: usize| {
            let lanes = d_state.div_ceil(states).next_power_of_two().min(WARP as usize);
            // At least the 8 channels in 16 bytes of bf16.
            let threads = (8 * lanes).max(128) as u32;
            Shape { lanes, states: d_state.div_ceil(lanes), threads }
        };
        let four = with(4);
        if channels.div_ceil(four.channels()) >= MANY_BLOCKS { four } else { with(2) }
    }

    /// Channels per block.
    pub(crate) fn channels(self) -> usize {
        self.threads as usize / self.lanes
    }

    /// Whether all lanes have the same number of states.
    pub(crate) fn is_whole(self, d_state: usize) -> bool {
        self.lanes * self.states == d_state
    }
}

/// Bytes per stage in shared memory, by operand: rows of the block's channels, or of all states.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    dt: usize,
    b: usize,
    c: usize,
    u: usize,
    z: usize,
    /// Total size.
    bytes: usize,
    /// Row stride of B and C in bytes: lanes beyond the last state read zeros or finite numbers.
    state_row: usize,
}

impl Layout {
    fn of(spec: &Spec) -> Layout {
        let shape = shape(spec);
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

pub(super) fn shape(spec: &Spec) -> Shape {
    Shape::of(spec.channels, spec.d_state)
}

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        match self.selection.projection() {
            None | Some(Projection { format: Elem::Bf16, .. }) => Ok(()),
            Some(Projection { format, .. }) => {
                Err(Unsupported(format!("the weight of Δ is {}, expected bf16 on sm_90a", format.name())))
            }
        }
    }

    /// A step of few sequences projects Δ in the scan; others, which fill tiles, before it.
    fn configs(&self, step: &StepSize) -> Vec<Candidate> {
        let Some(projection) = self.selection.projection() else { return vec![Candidate::accepted(Config::Only)] };
        let decode = matches!(self.selection, Selection::Normed { .. }).then(|| match matmul::choose_few(step) {
            true => Candidate::accepted(Config::Decode),
            false => Candidate::rejected(Config::Decode, "each sequence would read the weight of Δ"),
        });
        decode.into_iter().chain(Lowering::<Hopper>::configs(&self.linear(projection), step)).collect()
    }

    fn lower(&self, config: Config) -> Vec<Launch> {
        match self.selection {
            Selection::Given => vec![self.given()],
            Selection::Normed { projection, eps } if config == Config::Decode => {
                vec![decode::launch(self, projection, eps)]
            }
            Selection::Normed { projection, eps } => {
                let Projection { dt_rank, .. } = projection;
                let parts = vec![(dt_rank, Elem::Bf16), (self.d_state, Elem::F32), (self.d_state, Elem::F32)];
                let norms = Lowering::<Hopper>::lower(&split_rms_norm::Spec { parts, eps }, Config::Only);
                let norms = norms.into_iter().map(|norms| {
                    norms.rebound(|operand| Source::Operand(FIRST + operand), |part| NORMED[part].clone())
                });
                norms.chain(self.projected(projection, config, NORMED)).collect()
            }
            Selection::Projected(projection) => {
                self.projected(projection, config, [0, 1, 2].map(|part| Source::Operand(FIRST + part)))
            }
        }
    }
}

/// dt, B and C, and Δ, where separate launches compute them.
const NORMED: [Source; 3] = [Source::Scratch("low"), Source::Scratch("b"), Source::Scratch("c")];
const STEP_SIZE: Source = Source::Scratch("dt");

impl Spec {
    /// The linear of a projection.
    fn linear(&self, Projection { dt_rank, format }: Projection) -> linear::Spec {
        let activation = Activation::Softplus;
        linear::Spec { n: self.channels, k: dt_rank, format, out: Elem::F32, bias: true, activation }
    }

    /// The projection of `low`, and the scan that reads Δ.
    fn projected(&self, projection: Projection, config: Config, [low, b, c]: [Source; 3]) -> Vec<Launch> {
        let weight = FIRST + self.selection.n_operands() - 2;
        let linear = Lowering::<Hopper>::lower(&self.linear(projection), config).into_iter().map(|linear| {
            let operand = |operand| match operand {
                0 => low.clone(),
                parameter => Source::Operand(weight + parameter - 1),
            };
            linear.rebound(operand, |_| STEP_SIZE)
        });
        let given = Spec { selection: Selection::Given, ..self.clone() };
        let operand = |operand: usize| match operand.checked_sub(FIRST) {
            None => Source::Operand(operand),
            Some(0) => STEP_SIZE,
            Some(1) => b.clone(),
            Some(2) => c.clone(),
            Some(_) => Source::Operand(operand + self.skip() - given.skip()),
        };
        let scan = given.given().rebound(operand, Source::Result);
        linear.chain([scan]).collect()
    }

    /// The scan of Δ, B and C that are given.
    fn given(&self) -> Launch {
        let &Spec { channels, d_state, gated, .. } = self;
        let mut operands = vec![
            read("u", Elem::Bf16, channels, 0),
            small("a", channels, d_state, 1, Transform::DecayRate),
            read("dt", Elem::F32, channels, FIRST),
            read("b", Elem::F32, d_state, FIRST + 1),
            read("c", Elem::F32, d_state, FIRST + 2),
            Operand::state(Elem::F32, channels * d_state),
        ];
        if gated {
            operands.extend([vector("d", channels, self.skip()), read("z", Elem::Bf16, channels, self.skip() + 1)]);
        }
        operands.extend([
            Operand::table(Table::Starts),
            Operand::table(Table::Slots),
            write("y", Elem::Bf16, channels, 0),
            Operand::count("sequences", Per::Sequence),
            Operand::slot_stride(),
        ]);
        Launch {
            op: "selective_scan",
            symbol: format!("{}_c{channels}_n{d_state}_sm90", self.name()),
            operands,
            cost: cost(self),
            grid: Some(grid(self)),
            body: hopper_body!(self, emit),
        }
    }
}

fn cost(spec: &Spec) -> Cost {
    let (channels, d_state) = (spec.channels as f64, spec.d_state as f64);
    let (streams, gate) = if spec.gated { (10.0, 6.0) } else { (8.0, 0.0) };
    Cost {
        bytes: Amount {
            constant: 4.0 * channels * d_state,
            rows: streams * channels + 8.0 * d_state,
            sequences: 8.0 * channels * d_state,
            ..Amount::default()
        },
        operations: Amount::per_row(channels * (7.0 * d_state + gate)),
    }
}

fn grid(spec: &Spec) -> Grid {
    let shape = shape(spec);
    let channels = Blocks::Fixed(spec.channels.div_ceil(shape.channels()) as u32);
    let sequences = Blocks::Of { per: Per::Sequence, factor: 1, per_block: 1 };
    let y_bytes = 2 * STRETCH * shape.channels();
    let shared_bytes = (STAGES * Layout::of(spec).bytes + y_bytes) as u32;
    // starts, slots, state
    let work = Work { dependent_reads: 3, ..Work::default() };
    Grid { blocks: [channels, sequences, Blocks::Fixed(1)], threads: shape.threads, shared_bytes, work }
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
