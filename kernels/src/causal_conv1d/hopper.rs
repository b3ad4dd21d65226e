//! Causal convolution on Hopper: blocks split channels and runs of tokens; a thread walks four channels along a run, their
//! taps and last inputs in registers.
//!
//!     y[t, c] = activation(Σₖ u[t − taps + 1 + k, c] · weight[c, k] + bias[c])      u, y bf16; sums in f32
//!
//! Inputs before the step come from the sequence's state, `[taps − 1][row_stride(f32, channels)]` f32 in its slot, oldest first;
//! the state is left holding the last taps − 1 inputs; slot_stride is in elements. Weights are dense, `[channel][tap]` f32.
//! Bound by memory: 2 bytes of u read and 2 of y written for each element, u once more for the taps − 1 tokens before a run.
//!
//! Runs are cut where no cut lies in a sequence's first taps − 1 tokens: only the thread that begins a sequence reads its
//! state, and it writes the next one.
//!
//! 1. taps and bias of the channels
//! 2. for each sequence in the run: the inputs before it, from the state (then also the next state) or from u
//! 3. along time: the taps in order, the oldest input first, then the bias and the activation; in groups, the next one's
//!    rows under way, and the rest by single tokens

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
pub(crate) use emit::emit;

#[cfg(feature = "emit")]
mod emit {
    use super::{CHANNELS, Spec, THREADS};
    use crate::cpu::builder::{Num, Type, Value};
    use crate::hopper::{Builder, COLUMNS, row_stride, rows};
    use crate::kernel::Elem;
    use jambac_graph::Activation;

    /// Tokens of a group, whose rows are under way while the group before it is computed.
    const GROUP: usize = 4;

    pub(crate) fn emit(b: &Builder, spec: &Spec) {
        assert!(spec.taps > 1, "a convolution of {} taps", spec.taps);
        let thread = b.block_y() * THREADS as usize + b.thread();
        let channel = thread * CHANNELS;
        let first = b.block() * spec.run as usize;
        let tokens = b.count("tokens");
        let works = channel.lt(spec.channels) & first.lt(tokens);
        b.if_(works, || {
            let walk = Walk::new(b, spec, channel);
            let first = walk.cut(first, tokens);
            let last = walk.cut((b.block() + 1) * spec.run as usize, tokens);
            b.while_([first], |[t]| t.lt(last), |[t]| [walk.sequence(t, last)]);
        });
    }

    /// Four channels of a thread.
    struct Walk<'a, 'm> {
        b: &'a Builder<'m>,
        spec: &'a Spec,
        channel: Value,
        /// By tap; a vector has the four channels.
        weight: Vec<Value>,
        bias: Option<Value>,
    }

    impl<'a, 'm> Walk<'a, 'm> {
        fn new(b: &'a Builder<'m>, spec: &'a Spec, channel: Value) -> Self {
            // 1. taps and bias: the channels' taps follow each other, then a vector for each tap
            let taps = spec.taps;
            let first = channel * taps;
            let n = spec.channels * taps;
            let load = |vector: usize| {
                let column = first + vector * COLUMNS;
                let load = || rows::load_dense(b, b.pointer("weight"), n, column);
                if spec.channels.is_multiple_of(CHANNELS) {
                    return load();
                }
                let inside = column.lt(n);
                let [taps] = b.if_else(inside, || [load()], || [b.splat(0.0, COLUMNS)]);
                taps
            };
            let dense: Vec<Value> = (0..taps).map(load).collect();
            let element = |index: usize| dense[index / COLUMNS].lane(index % COLUMNS);
            let tap = |k: usize| rows::vector(b, &std::array::from_fn::<_, CHANNELS, _>(|c| element(c * taps + k)));
            let weight = (0..taps).map(tap).collect();
            let bias = spec.bias.then(|| rows::load_dense(b, b.pointer("bias"), spec.channels, channel));
            Walk { b, spec, channel, weight, bias }
        }

        fn past(&self) -> usize {
            self.spec.taps - 1
        }

        fn table(&self, name: &str, index: Value) -> Value {
            let b = self.b;
            b.load(b.at(b.pointer(name), index * 4), Type::scalar(Num::I32))
        }

        /// Where a run that would end before token t ends: behind the first tokens of t's sequence, which read its state.
        fn cut(&self, t: Value, tokens: Value) -> Value {
            let b = self.b;
            let inside = t.lt(tokens);
            let moved = || {
                let sequence = self.table("sequence_of", t);
                let start = self.table("starts", sequence);
                let end = self.table("starts", sequence + 1);
                let behind = (start + self.past()).min(end);
                let is_start = t.eq(start);
                [is_start.select(t, t.max(behind))]
            };
            let [cut] = b.if_else(inside, moved, || [tokens]);
            cut
        }

        /// Takes what `t`'s sequence has from t to before `last`, and gives the token behind it.
        fn sequence(&self, t: Value, last: Value) -> Value {
            let b = self.b;
            let sequence = self.table("sequence_of", t);
            let (start, end) = (self.table("starts", sequence), self.table("starts", sequence + 1));
            // 2. inputs before
            let is_start = t.eq(start);
            let columns_before = || self.columns_before(sequence, start, end);
            let from_rows = || (1..=self.past()).rev().map(|back| self.input(t - back)).collect();
            let window = b.if_else_vec(is_start, columns_before, from_rows);
            // 3. along time
            let end = end.min(last);
            self.along(t, end, window);
            end
        }

        /// The last inputs of a sequence's state, whose next ones are written: those of its tokens from `start` to `end`.
        fn columns_before(&self, sequence: Value, start: Value, end: Value) -> Vec<Value> {
            let b = self.b;
            let slot = self.table("slots", sequence).to_i64();
            let slot = slot * b.scalar("slot_stride").to_i64();
            let state = b.at(b.pointer("state"), slot * 4);
            let state = b.at(state, self.channel * 4);
            let row = 4 * self.spec.state_row();
            let vector = Type::vector(Num::F32, CHANNELS);
            let window: Vec<Value> = (0..self.past()).map(|k| b.load(b.at_byte(state, k * row), vector)).collect();
            // Input k of the next state is `past − k` before the end, which may be before the start.
            let next: Vec<Value> = (0..self.past())
                .map(|k| {
                    let t = end - (self.past() - k);
                    let is_new = t.ge(start);
                    let length = end - start;
                    let older = || {
                        let at = (length + k) * row;
                        [b.load(b.at(state, at), vector)]
                    };
                    let [input] = b.if_else(is_new, || [self.input(t)], older);
                    // Snapshots of a state hold no stray numbers.
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

        /// The inputs of token t.
        fn input(&self, t: Value) -> Value {
            rows::load_bf16(self.b, self.row("u", t), self.channel)
        }

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
                let carried = b.for_range_vec(t, rest, GROUP, &init, |t, carried| {
                    let (mut window, now) = (carried[..self.past()].to_vec(), carried[self.past()..].to_vec());
                    let next = group(t + GROUP);
                    for (i, &input) in now.iter().enumerate() {
                        window = self.step(t + i, window, input);
                    }
                    [window, next].concat()
                });
                window = carried[..self.past()].to_vec();
            }
            b.for_range_vec(rest, end, 1, &window, |t, window| self.step(t, window.to_vec(), self.input(t)));
        }

        /// The output of token t; the window moves on.
        fn step(&self, t: Value, window: Vec<Value>, input: Value) -> Vec<Value> {
            let b = self.b;
            let inputs = [window, vec![input]].concat();
            let mut sum = inputs[0] * self.weight[0];
            for (&input, &weight) in inputs.iter().zip(&self.weight).skip(1) {
                sum = input.mul_add(weight, sum);
            }
            if let Some(bias) = self.bias {
                sum = sum + bias;
            }
            let activated = match self.spec.activation {
                Activation::None => sum,
                Activation::Silu => rows::map(b, sum, |x| b.silu(x)),
                Activation::Softplus => rows::map(b, sum, |x| b.softplus(x)),
            };
            rows::store(b, activated, Elem::Bf16, self.row("y", t), self.channel);
            inputs[1..].to_vec()
        }
    }
}
