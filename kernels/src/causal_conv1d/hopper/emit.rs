//! The kernel body of the convolution.

use super::{CHANNELS, Runs, THREADS};
use crate::cpu::builder::{Num, Type, Value};
use crate::hopper::{Builder, COLUMNS, row_stride, rows};
use crate::kernel::Elem;
use jambac_graph::Activation;

/// Tokens per group; the rows of a group are in flight while the previous group is computed.
const GROUP: usize = 4;

pub(crate) fn emit(b: &Builder, spec: &Runs) {
    let channel = (b.block_y() * THREADS as usize + b.thread()) * CHANNELS;
    let first = b.block() * spec.run as usize;
    let tokens = b.count("tokens");
    let works = channel.lt(spec.channels) & first.lt(tokens);
    b.if_(works, || {
        let walk = Walk::new(b, spec, channel);
        let first = walk.cut(first, tokens);
        let last = walk.cut((b.block() + 1) * spec.run as usize, tokens);
        b.while_(first, |t| t.lt(last), |t| walk.sequence(t, last));
    });
}

/// A thread's four channels.
struct Walk<'a, 'm> {
    b: &'a Builder<'m>,
    spec: &'a Runs,
    channel: Value,
    /// One vector of the four channels per tap.
    weight: Vec<Value>,
    bias: Option<Value>,
}

impl<'a, 'm> Walk<'a, 'm> {
    fn new(b: &'a Builder<'m>, spec: &'a Runs, channel: Value) -> Self {
        // 1. taps and bias: the taps of a channel are contiguous in memory; transpose to one vector per tap
        let taps = spec.taps;
        let first = channel * taps;
        let n = spec.channels * taps;
        let load = |vector: usize| {
            let column = first + vector * COLUMNS;
            let load = || rows::load_dense(b, b.pointer("weight"), n, column);
            if spec.channels.is_multiple_of(CHANNELS) {
                return load();
            }
            b.if_else(column.lt(n), load, || b.splat(0.0, COLUMNS))
        };
        let dense: Vec<Value> = (0..taps).map(load).collect();
        let element = |index: usize| dense[index / COLUMNS].lane(index % COLUMNS);
        let tap = |k: usize| rows::vector(&std::array::from_fn::<_, CHANNELS, _>(|c| element(c * taps + k)));
        let weight = (0..taps).map(tap).collect();
        let bias = spec.bias.then(|| rows::load_dense(b, b.pointer("bias"), spec.channels, channel));
        Walk { b, spec, channel, weight, bias }
    }

    fn past(&self) -> usize {
        self.spec.taps - 1
    }

    /// Moves the end of a run from token t to after the first tokens of t's sequence, which read its state.
    fn cut(&self, t: Value, tokens: Value) -> Value {
        let b = self.b;
        let moved = || {
            let sequence = self.b.entry("sequence_of", t);
            let start = self.b.entry("starts", sequence);
            let end = self.b.entry("starts", sequence + 1);
            let behind = (start + self.past()).min(end);
            t.eq(start).select(t, t.max(behind))
        };
        b.if_else(t.lt(tokens), moved, || tokens)
    }

    /// Computes the outputs of t's sequence from t to before `last`; returns the token after them.
    fn sequence(&self, t: Value, last: Value) -> Value {
        let b = self.b;
        let sequence = self.b.entry("sequence_of", t);
        let (start, end) = (self.b.entry("starts", sequence), self.b.entry("starts", sequence + 1));
        // 2. previous inputs; one tap has none
        let from_state = || self.columns_before(sequence, start, end);
        let from_rows = || (1..=self.past()).rev().map(|back| self.input(t - back)).collect();
        let window = match self.past() {
            0 => Vec::new(),
            _ => b.if_else(t.eq(start), from_state, from_rows),
        };
        // 3. along time
        let end = end.min(last);
        self.along(t, end, window);
        end
    }

    /// Loads the inputs in a sequence's state, then stores the last inputs of its tokens from `start` to `end` there.
    fn columns_before(&self, sequence: Value, start: Value, end: Value) -> Vec<Value> {
        let b = self.b;
        let slot = self.b.entry("slots", sequence).to_i64() * b.scalar("slot_stride").to_i64();
        let state = b.at(b.at(b.pointer("state"), slot * 4), self.channel * 4);
        let row = 4 * self.spec.state_row();
        let vector = Type::vector(Num::F32, CHANNELS);
        let window: Vec<Value> = (0..self.past()).map(|k| b.load(b.at_byte(state, k * row), vector)).collect();
        // Input k of the next state is `past − k` before the end, which may be before the start.
        let next: Vec<Value> = (0..self.past())
            .map(|k| {
                let t = end - (self.past() - k);
                let is_new = t.ge(start);
                let length = end - start;
                let older = || b.load(b.at(state, (length + k) * row), vector);
                let input = b.if_else(is_new, || self.input(t), older);
                // Padding is zeroed so that state snapshots contain no stray numbers.
                rows::masked(b, self.spec.channels, self.channel, input)
            })
            .collect();
        for (k, &input) in next.iter().enumerate() {
            b.store(input, b.at_byte(state, k * row));
        }
        window
    }

    fn row(&self, name: &str, t: Value) -> Value {
        let b = self.b;
        b.row(b.pointer(name), t, 2 * row_stride(Elem::Bf16, self.spec.channels))
    }

    /// Loads the inputs of token t.
    fn input(&self, t: Value) -> Value {
        rows::load_bf16(self.b, self.row("u", t), self.channel)
    }

    /// Computes the outputs of the tokens from t to before `end`.
    fn along(&self, t: Value, end: Value, window: Vec<Value>) {
        let b = self.b;
        let n = end - t;
        let grouped = n - b.rem_unsigned(n, GROUP as u32);
        let (mut window, mut rest) = (window, t);
        if self.spec.run as usize >= 2 * GROUP {
            let last = end - 1;
            let group = |t: Value| -> Vec<Value> {
                let token = |i: usize| (t + i).min(last);
                (0..GROUP).map(|i| self.input(token(i))).collect()
            };
            rest = t + grouped;
            let init = [window.clone(), group(t)].concat();
            let carried = b.for_range(t, rest, GROUP, init, |t, mut window| {
                let now = window.split_off(self.past());
                let next = group(t + GROUP);
                for (i, &input) in now.iter().enumerate() {
                    window = self.step(t + i, window, input);
                }
                [window, next].concat()
            });
            window = carried[..self.past()].to_vec();
        }
        b.for_range(rest, end, 1, window, |t, window| self.step(t, window, self.input(t)));
    }

    /// Computes the output of token t and advances the window.
    fn step(&self, t: Value, mut inputs: Vec<Value>, input: Value) -> Vec<Value> {
        let b = self.b;
        inputs.push(input);
        let mut sum = inputs[0] * self.weight[0];
        for (&input, &weight) in inputs.iter().zip(&self.weight).skip(1) {
            sum = input.mul_add(weight, sum);
        }
        if let Some(bias) = self.bias {
            sum = sum + bias;
        }
        let activated = match self.spec.activation {
            Activation::None => sum,
            Activation::Silu => rows::map(sum, |x| b.silu(x)),
            Activation::Softplus => rows::map(sum, |x| b.softplus(x)),
        };
        rows::store(b, activated, Elem::Bf16, self.row("y", t), self.channel);
        inputs[1..].to_vec()
    }
}
