//! The kernel body of the scan.

use super::stage::Inputs;
use super::{Layout, STAGES, STRETCH, Shape, Spec, shape};
use crate::cpu::builder::{Num, Type, Value};
use crate::hopper::{Builder, row_stride};
use crate::kernel::Elem;

pub(super) const F32: Type = Type::scalar(Num::F32);

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let shape = shape(spec);
    let sequence = b.block_y();
    b.if_(sequence.lt(b.count("sequences")), || {
        let tokens = [b.entry("starts", sequence), b.entry("starts", sequence + 1)];
        let n_tokens = tokens[1] - tokens[0];
        b.if_(n_tokens.gt(0), || {
            let channel = b.block() * shape.channels();
            let inputs = Inputs { b, spec, layout: Layout::of(spec), channel, tokens };
            let slot = b.entry("slots", sequence).to_i64() * b.scalar("slot_stride").to_i64();
            let scan = Scan::new(&inputs, slot);
            scan.run(n_tokens);
        });
    });
}

/// One thread: the states of one lane of a channel.
pub(super) struct Scan<'a, 'm> {
    pub(super) b: &'a Builder<'m>,
    spec: &'a Spec,
    shape: Shape,
    inputs: &'a Inputs<'a, 'm>,
    /// Index of the channel in the block, and of the lane in the channel.
    pub(super) channel: Value,
    pub(super) lane: Value,
    /// Whether the channel exists.
    pub(super) exists: Value,
    /// Byte offset of its rates and states.
    at: Value,
    /// The states of the sequence.
    pub(super) state: Value,
}

impl<'a, 'm> Scan<'a, 'm> {
    pub(super) fn new(inputs: &'a Inputs<'a, 'm>, slot: Value) -> Self {
        let (b, spec, shape) = (inputs.b, inputs.spec, shape(inputs.spec));
        let channel = b.thread() >> shape.lanes.ilog2();
        let lane = b.thread() & (shape.lanes - 1);
        let global = inputs.channel + channel;
        let first = global * spec.d_state + lane * shape.states;
        Scan {
            b,
            spec,
            shape,
            inputs,
            channel,
            lane,
            exists: global.lt(spec.channels),
            at: first * 4,
            state: b.at(b.pointer("state"), slot * 4),
        }
    }

    fn run(&self, n_tokens: Value) {
        let (b, spec) = (self.b, self.spec);
        let n_stretches = b.div_unsigned(n_tokens + (STRETCH - 1), STRETCH as u32);
        for stretch in 0..STAGES {
            self.inputs.fetch(b.i32(stretch as i32));
        }
        // 1. rates and states
        let rates = self.load(b.pointer("a"));
        let h = self.load(self.state);
        let skip = spec.gated.then(|| {
            let at = (self.inputs.channel + self.channel) * 4;
            b.if_else(self.exists, || b.load(b.at(b.pointer("d"), at), F32), || b.f32(0.0))
        });
        // 2. stretches
        let h = b.for_range(0, n_stretches, 1, h, |stretch, h| {
            b.cp_async_wait(STAGES as u32 - 1);
            b.sync();
            let stage = self.inputs.stage(stretch);
            let left = n_tokens - stretch * STRETCH;
            let n = left.min(STRETCH);
            let h = b.for_range(0, n, self.shape.lanes, h, |t, h| self.group(stage, t, &rates, h, skip));
            b.sync();
            // 3. the stretch after the next, and y
            self.inputs.fetch(stretch + STAGES);
            self.store_y(self.inputs.tokens[0] + stretch * STRETCH, n);
            h
        });
        // 4. states
        self.store_state(&h);
    }

    /// Groups of states that are accessed together: the first state, and their number.
    fn accesses(&self) -> Vec<(usize, usize)> {
        let whole = self.shape.is_whole(self.spec.d_state);
        let width = if whole && self.shape.states.is_multiple_of(4) { 4 } else { 1 + usize::from(whole) };
        let width = if self.shape.states.is_multiple_of(width) { width } else { 1 };
        (0..self.shape.states).step_by(width).map(|first| (first, width)).collect()
    }

    /// Whether a state of this lane exists.
    fn has(&self, state: usize) -> Value {
        if self.shape.is_whole(self.spec.d_state) {
            return self.exists;
        }
        let number = self.lane * self.shape.states + state;
        self.exists & number.lt(self.spec.d_state)
    }

    /// Loads the lane's elements of an array `[channel][state]`; zero beyond the last.
    pub(super) fn load(&self, array: Value) -> Vec<Value> {
        let b = self.b;
        let own = b.at(array, self.at);
        let access = |(first, width): (usize, usize)| {
            let load = || lanes(b, b.at_byte(own, 4 * first), width);
            b.if_else(self.has(first), load, || vec![b.f32(0.0); width])
        };
        self.accesses().into_iter().flat_map(access).collect()
    }

    pub(super) fn store_state(&self, h: &[Value]) {
        let b = self.b;
        let own = b.at(self.state, self.at);
        for (first, width) in self.accesses() {
            b.if_(self.has(first), || {
                let to = b.at_byte(own, 4 * first);
                match width {
                    1 => b.store(h[first], to),
                    _ => b.store(crate::hopper::rows::vector(&h[first..first + width]), to),
                }
            });
        }
    }

    /// Processes as many tokens as the channel has lanes, from token t of the stretch on.
    fn group(&self, stage: Value, t: Value, rates: &[Value], mut h: Vec<Value>, skip: Option<Value>) -> Vec<Value> {
        let (b, layout, n) = (self.b, self.inputs.layout, self.shape.lanes);
        let own = self.shape.channels();
        let channel_at = |at: usize, elem: Elem| {
            let row = b.at(b.at_byte(stage, at), t * (elem.bytes() * own));
            b.at(row, self.channel * elem.bytes())
        };
        let state_at = |at: usize| {
            let row = b.at(b.at_byte(stage, at), t * layout.state_row);
            b.at(row, self.lane * (4 * self.shape.states))
        };
        let (dt_at, u_at) = (channel_at(layout.dt, Elem::F32), channel_at(layout.u, Elem::Bf16));
        let (b_at, c_at) = (state_at(layout.b), state_at(layout.c));
        let mut sums = Vec::new();
        for i in 0..n {
            let dt = b.load(b.at_byte(dt_at, 4 * own * i), F32);
            let dt_u = dt * self.bf16(b.at_byte(u_at, 2 * own * i));
            let input = self.state_row(b.at_byte(b_at, layout.state_row * i));
            let output = self.state_row(b.at_byte(c_at, layout.state_row * i));
            sums.push(self.advance(&mut h, rates, [dt, dt_u], [&input, &output]));
        }
        // Lane l of the channel keeps token t + l.
        let y = self.exchange(sums);
        let row = |at: usize| b.at(channel_at(at, Elem::Bf16), self.lane * (2 * own));
        let y = match skip {
            None => y,
            Some(d) => d.mul_add(self.bf16(row(layout.u)), y) * b.silu(self.bf16(row(layout.z))),
        };
        let token = t + self.lane;
        let to = token * (2 * own) + self.channel * 2;
        b.store(b.round_bf16(y), b.at(self.y(), to));
        h
    }

    /// Advances the lane's states by a token, of which Δ, Δ · u, B and C are given. Returns the states' part of y.
    pub(super) fn advance(
        &self,
        h: &mut [Value],
        rates: &[Value],
        [dt, dt_u]: [Value; 2],
        [input, output]: [&[Value]; 2],
    ) -> Value {
        let mut sum: Option<Value> = None;
        for (state, h) in h.iter_mut().enumerate() {
            let decay = self.b.exp2(dt * rates[state]);
            *h = decay.mul_add(*h, dt_u * input[state]);
            sum = Some(sum.map_or_else(|| *h * output[state], |sum| h.mul_add(output[state], sum)));
        }
        sum.expect("a state at least")
    }

    /// Loads the lane's elements of a row of B or C; zero beyond the last state.
    fn state_row(&self, row: Value) -> Vec<Value> {
        let b = self.b;
        if self.shape.is_whole(self.spec.d_state) {
            return self.accesses().iter().flat_map(|&(first, n)| lanes(b, b.at_byte(row, 4 * first), n)).collect();
        }
        let of = |state: usize| b.if_else(self.has(state), || b.load(b.at_byte(row, 4 * state), F32), || b.f32(0.0));
        (0..self.shape.states).map(of).collect()
    }

    fn bf16(&self, from: Value) -> Value {
        let b = self.b;
        b.load(from, Type::scalar(Num::Bf16)).to_f32()
    }

    /// Sums of one number per token over the lanes of a channel; lane l gets the sum of token l. Halves are exchanged, then
    /// halves of these, so that every sum has the same order.
    fn exchange(&self, mut sums: Vec<Value>) -> Value {
        let b = self.b;
        while sums.len() > 1 {
            let half = sums.len() / 2;
            let is_upper = (self.lane & half).ne(0);
            sums = (0..half)
                .map(|i| {
                    let sent = is_upper.select(sums[i], sums[i + half]);
                    let kept = is_upper.select(sums[i + half], sums[i]);
                    kept + b.shuffle_xor(sent, half as u32)
                })
                .collect();
        }
        sums[0]
    }

    /// y of a stretch in shared memory, `[token][channel]` bf16.
    fn y(&self) -> Value {
        self.b.shared_at(STAGES * self.inputs.layout.bytes)
    }

    /// Stores y of the stretch's `n` tokens; the stretch starts at the step's token `first`.
    fn store_y(&self, first: Value, n: Value) {
        const PIECE: usize = 16;
        let (b, row_bytes) = (self.b, 2 * self.shape.channels());
        let per_row = row_bytes / PIECE;
        let stride = 2 * row_stride(Elem::Bf16, self.spec.channels);
        for piece in (0..STRETCH * per_row).step_by(self.shape.threads as usize) {
            let piece = b.thread() + piece;
            let (row, part) = (b.div_unsigned(piece, per_row as u32), b.rem_unsigned(piece, per_row as u32));
            let at = part * PIECE + self.inputs.channel * 2;
            let is_row = row.lt(n) & at.lt(stride);
            b.if_(is_row, || {
                let x = b.load(b.at(self.y(), piece * PIECE), Type::vector(Num::I32, 4));
                b.store(x, b.at(b.row(b.pointer("y"), first + row, stride), at));
            });
        }
    }
}

/// Loads `width` consecutive f32.
pub(super) fn lanes(b: &Builder, from: Value, width: usize) -> Vec<Value> {
    match width {
        1 => vec![b.load(from, F32)],
        _ => {
            let x = b.load(from, Type::vector(Num::F32, width));
            (0..width).map(|lane| x.lane(lane)).collect()
        }
    }
}
