//! The kernel body of the scan of one token.

use super::{Normed, PIECE};
use crate::cpu::builder::{Num, Type, Value};
use crate::hopper::facts::WARP;
use crate::hopper::{Builder, row_stride};
use crate::kernel::Elem;
use crate::selective_scan::hopper::emit::{F32, Scan, lanes};
use crate::selective_scan::hopper::stage::Inputs;
use crate::selective_scan::hopper::{Layout, shape};
use crate::split_rms_norm;

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
        let mut h = h;
        let y = scan.advance(&mut h, &rates, [dt, dt_u], [&input, &output]);
        scan.store_state(&h);
        let y = b.group_sum(y, shape.lanes as u32);
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

fn or_zero(b: &Builder, exists: Value, load: impl FnOnce() -> Value) -> Value {
    let [x] = b.if_else(exists, || [load()], || [b.f32(0.0)]);
    x
}

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
