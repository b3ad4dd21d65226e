//! The Mamba-1 recurrence on CPUs. Each thread has a range of channel vectors; it processes a group of them along a run of
//! tokens, with their decay rates and states in L1, before the next group.
//!
//! 1. for each run, of one or many sequences: the norms of dt, B and C, if fused
//! 2. for each group: the projection of Δ, if fused
//! 3. for each token, vector and two states at a time: decay, add the input, add h · C to the output
//! 4. the D skip and the gate, if fused
//!
//! A run crosses sequence boundaries: one token from each of many sequences shares a projection's weights in the same way
//! as many tokens of one sequence.
//! Bound by arithmetic: ten multiply operations, two per cycle, for eight states: 5 G states/s per core, for one token as
//! for many.

use super::Spec;
use super::selection::Selected;
use crate::cpu::builder::{Builder, Range, Value};
use crate::cpu::math;
use crate::cpu::rows::Row;
use crate::kernel::{LANES, padded};

/// Maximum states per group: 8 KiB, and 8 KiB of decay rates, in 32 KiB of L1.
const GROUP_STATES: usize = 2048;

/// Maximum channel vectors per group: the panels that a projection of one token sums side by side.
const GROUP_VECTORS: usize = 4;

/// Tokens per run: their rows are on as many memory pages, which stay in the TLB for the next group.
const RUN: usize = 32;

/// Prefetch distance in tokens: the next row is beyond the range of hardware prefetchers, and a vector's states are more
/// work than the out-of-order window covers.
pub(super) const AHEAD: usize = 2;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let group = (GROUP_STATES / (spec.d_state * LANES)).clamp(1, GROUP_VECTORS);
    let selected = Selected::new(b, spec, RUN, group);
    let own = b.thread_range(padded(spec.channels) / LANES);
    b.for_each(0, b.scalar("tokens"), RUN, |first_token| {
        let n_tokens = b.index(RUN).min(b.scalar("tokens") - first_token);
        // 1. norms
        selected.norm(b, first_token, n_tokens);
        b.for_each(own.start, own.end, group, |first| {
            let vectors = Range { start: first, end: (first + group).min(own.end) };
            // 2. projection
            selected.project(b, first_token, n_tokens, vectors);
            b.for_each(0, n_tokens, 1, |i| {
                let token = Token::new(b, spec, &selected, first_token, i);
                b.for_each_in(vectors, |vector| token.walk(vector, vector - first));
            });
        });
    });
}

pub(super) struct Token<'a, 'm> {
    b: &'a Builder<'m>,
    spec: &'a Spec,
    selected: &'a Selected<'a>,
    /// The first of its sequence's states.
    slot: Value,
    /// Its index in the run.
    pub(super) i: Value,
    /// Its row in the step.
    pub(super) t: Value,
    /// Its row of B.
    input: Row,
    /// Its row of C.
    output: Row,
}

pub(super) struct ChannelVector {
    /// Its index in the group.
    pub(super) in_group: Value,
    /// Its first channel.
    pub(super) column: Value,
}

impl<'a, 'm> Token<'a, 'm> {
    fn new(b: &'a Builder<'m>, spec: &'a Spec, selected: &'a Selected<'a>, first_token: Value, i: Value) -> Self {
        let t = first_token + i;
        let sequence = b.load(b.buffer("sequence_of"), t).to_index();
        let slot = b.load(b.buffer("slots"), sequence).to_index() * b.scalar("slot_stride");
        let [input, output] = [selected.b, selected.c].map(|rows| rows.row(first_token, i));
        Token { b, spec, selected, slot, i, t, input, output }
    }

    /// Processes one token for channel vector `vector`, number `in_group` of its group.
    fn walk(&self, vector: Value, in_group: Value) {
        let (b, column) = (self.b, vector * LANES);
        let row = |name| b.load_vector(b.buffer(name), (self.t, column), LANES);
        let rows = ["u", "y"].into_iter().chain(self.spec.gated.then_some("z"));
        rows.for_each(|name| b.prefetch(b.buffer(name), (self.t + AHEAD, column)));
        let dt = self.selected.dt(b, self, &ChannelVector { in_group, column });
        let u = row("u");
        let panel = vector * (self.spec.d_state * LANES);
        // 3. states
        let mut sum = self.states(panel, dt, dt * u);
        // 4. skip and gate
        if self.spec.gated {
            let d = b.load_vector(b.buffer("d"), column, LANES);
            sum = d.mul_add(u, sum) * math::silu(row("z"));
        }
        b.store(sum, b.buffer("y"), (self.t, column));
    }

    /// Updates the states of a panel and returns Σₙ h · C, from state 0 on.
    fn states(&self, panel: Value, dt: Value, dt_u: Value) -> Value {
        let &Token { b, input, output, .. } = self;
        // Two at a time: with more unrolling, the constants of the exponentials no longer fit in 16 registers.
        let n_pairs = self.spec.d_state / 2;
        let [dts, dts_u] = [dt, dt_u].map(|x| Value::concat(&[x, x]));
        let of_state = |row: Row, n: Value| row.element(b, n).broadcast(LANES);
        let sum = b.for_range(0, 2 * n_pairs, 2, b.splat(0.0, LANES), |n, sum| {
            let [n0, n1] = [n, n + 1];
            let inputs = Value::concat(&[of_state(input, n0), of_state(input, n1)]);
            let h = self.update(panel, n, dts, dts_u * inputs);
            let sum = h.slice(0, LANES).mul_add(of_state(output, n0), sum);
            h.slice(LANES, LANES).mul_add(of_state(output, n1), sum)
        });
        if self.spec.d_state == 2 * n_pairs {
            return sum;
        }
        let n = b.index(2 * n_pairs);
        let h = self.update(panel, n, dt, dt_u * of_state(input, n));
        h.mul_add(of_state(output, n), sum)
    }

    /// Updates `dt.lanes()` states of a panel, starting at state n: h = exp(Δ · a) · h + `taken`. Returns h.
    fn update(&self, panel: Value, n: Value, dt: Value, taken: Value) -> Value {
        let (b, at) = (self.b, panel + n * LANES);
        let place = self.slot + at;
        let rate = b.load_vector(b.buffer("a"), at, dt.lanes());
        let h = b.load_vector(b.buffer("state"), place, dt.lanes());
        // Δ is non-negative and the rate non-positive.
        let decay = math::exp2_nonpositive(dt * rate);
        let h = decay.mul_add(h, taken);
        b.store(h, b.buffer("state"), place);
        h
    }
}
