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

use crate::hopper::facts::WARP;
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
use super::emit::{Scan, lanes};
#[cfg(feature = "emit")]
use super::{Layout, stage::Inputs};
#[cfg(feature = "emit")]
use crate::cpu::builder::{Num, Type, Value};
#[cfg(feature = "emit")]
use crate::hopper::Builder;
#[cfg(feature = "emit")]
use crate::split_rms_norm;

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, normed: &Normed) {
    let (spec, shape) = (&normed.spec, shape(&normed.spec));
    let sequence = b.block_y();
    b.if_(sequence.lt(b.count("sequences")), || {
        let channel = b.block() * shape.channels();
        let inputs = Inputs { b, spec, layout: Layout::of(spec), channel, tokens: [sequence, sequence + 1] };
        let slot = b.entry("slots", sequence).to_i64() * b.scalar("slot_stride").to_i64();
        let scan = Scan::new(&inputs, slot);
        let global = channel + scan.channel;
        let f32_of_channel = |name| or_zero(b, scan.exists, || b.load(b.at(b.pointer(name), global * 4), F32));
        let activation = |name| {
            let row = b.row(b.pointer(name), sequence, 2 * row_stride(Elem::Bf16, spec.channels));
            or_zero(b, scan.exists, || b.load(b.at(row, global * 2), Type::scalar(Num::Bf16)).to_f32())
        };
        // 1. load
        let rates = scan.load(b.pointer("a"));
        let h = scan.load(scan.state);
        let weights = normed.weights(&scan, global);
        let bias = f32_of_channel("dt_bias");
        let u = activation("u");
        let gate = spec.gated.then(|| (f32_of_channel("d"), activation("z")));
        // 2. norm
        normed.norm(b, sequence);
        b.sync();
        // 3. Δ
        let [dt_at, b_at, c_at, _] = normed.places();
        let sum = b.group_sum(normed.project(&scan, dt_at, &weights), shape.lanes as u32);
        let dt = b.softplus(sum + bias);
        let dt_u = dt * u;
        let of_lane = |at: usize| {
            let own = b.at(b.shared_at(at), scan.lane * (4 * shape.states));
            (0..shape.states).map(|state| b.load(b.at_byte(own, 4 * state), F32)).collect::<Vec<Value>>()
        };
        let (input, output) = (of_lane(b_at), of_lane(c_at));
        let mut next = Vec::new();
        let mut y: Option<Value> = None;
        for (state, &h) in h.iter().enumerate() {
            let decay = b.exp2(dt * rates[state]);
            let h = decay.mul_add(h, dt_u * input[state]);
            y = Some(y.map_or_else(|| h * output[state], |y| h.mul_add(output[state], y)));
            next.push(h);
        }
        scan.store_state(&next);
        let y = b.group_sum(y.expect("a state at least"), shape.lanes as u32);
        let y = match gate {
            Some((d, z)) => d.mul_add(u, y) * b.silu(z),
            None => y,
        };
        b.if_(scan.exists & scan.lane.eq(0), || {
            let row = b.row(b.pointer("y"), sequence, 2 * row_stride(Elem::Bf16, spec.channels));
            b.store(b.round_bf16(y), b.at(row, global * 2));
        });
    });
}

#[cfg(feature = "emit")]
const F32: Type = Type::scalar(Num::F32);

#[cfg(feature = "emit")]
fn or_zero(b: &Builder, exists: Value, load: impl FnOnce() -> Value) -> Value {
    let [x] = b.if_else(exists, || [load()], || [b.f32(0.0)]);
    x
}

#[cfg(feature = "emit")]
impl Normed {
    /// The pieces of the channel's row of the projection that this lane multiplies; zeros beyond the last input.
    fn weights(&self, scan: &Scan, channel: Value) -> Vec<[Value; 4]> {
        let (b, lanes) = (scan.b, shape(&self.spec).lanes);
        let format = Elem::Bf16;
        let row = b.row(b.pointer("dt_weight"), channel, row_stride(format, self.dt_rank) * format.bytes());
        let n_pieces = self.dt_rank.div_ceil(PIECE);
        let load = |round: usize| {
            let piece = scan.lane + round * lanes;
            b.load_or_zero(b.at(row, piece * (PIECE * format.bytes())), scan.exists & piece.lt(n_pieces))
        };
        (0..n_pieces.div_ceil(lanes)).map(load).collect()
    }

    /// This lane's part of the projection of the normed row at `dt_at` in shared memory.
    fn project(&self, scan: &Scan, dt_at: usize, weights: &[[Value; 4]]) -> Value {
        let (b, n_lanes) = (scan.b, shape(&self.spec).lanes);
        let n_pieces = self.dt_rank.div_ceil(PIECE);
        weights.iter().enumerate().fold(b.f32(0.0), |sum, (round, words)| {
            // Weights beyond the last piece are zero.
            let piece = (scan.lane + round * n_lanes).min(n_pieces - 1);
            let dt = b.at(b.shared_at(dt_at), piece * (4 * PIECE));
            let dt = [0, 16].map(|byte| lanes(b, b.at_byte(dt, byte), 4)).concat();
            let weights = words.iter().flat_map(|&pair| b.unpack_bf16(pair));
            weights.zip(dt).fold(sum, |sum, (weight, dt)| weight.mul_add(dt, sum))
        })
    }

    /// Norms the parts of the sequence's row into shared memory, with zeros behind them.
    fn norm(&self, b: &Builder, sequence: Value) {
        let places = self.places();
        let x = b.row(b.pointer("x"), sequence, 4 * row_stride(Elem::F32, self.parts().iter().sum()));
        let mut start = 0;
        for (part, (cols, weight)) in self.parts().into_iter().zip(["dt_norm", "b_norm", "c_norm"]).enumerate() {
            b.if_(b.warp().eq(part), || {
                let row = b.at_byte(x, 4 * start);
                let columns = split_rms_norm::hopper::norm(b, row, b.pointer(weight), cols, self.eps);
                let capacity = (places[part + 1] - places[part]) / 4;
                for number in 0..capacity.div_ceil(WARP as usize) {
                    let column = b.lane() + number * WARP as usize;
                    // dt is rounded as where it is stored.
                    let y = match columns.get(number) {
                        Some(&y) if part == 0 => b.unpack_bf16(b.pack_bf16(y, y))[0],
                        Some(&y) => y,
                        None => b.f32(0.0),
                    };
                    b.if_(column.lt(capacity), || b.store(y, b.at(b.shared_at(places[part]), column * 4)));
                }
            });
            start += cols;
        }
    }
}
