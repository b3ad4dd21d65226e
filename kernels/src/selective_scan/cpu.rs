//! The Mamba-1 recurrence on a CPU: each thread takes a range of channel vectors and walks a group of them along a run of
//! tokens, their decay rates and states in the first-level cache, before it takes the next group.
//!
//! 1. for each run, of one sequence or of many: the norms of dt, B and C, where fused
//! 2. for each group: the projection of Δ, where fused
//! 3. for each token, vector and two states at a time: decay them, add to them, add h · C to the output
//! 4. the D skip and the gate, where fused
//!
//! A run crosses sequence boundaries: one token of each of many sequences share a projection's weights like many tokens of one
//! sequence.
//! Bound by arithmetic: ten multiplying operations, two a cycle, for eight states: 5 G states/s of a core, for one token
//! as for many.

use super::Spec;
use super::selection::Selected;
use crate::cpu::builder::{Builder, Range, Value};
use crate::cpu::math;
use crate::cpu::rows::Row;
use crate::kernel::{LANES, padded};

/// Most states of a group: 8 KiB, and 8 KiB of decay rates, in 32 KiB of first-level cache.
const GROUP_STATES: usize = 2048;

/// Most channel vectors of a group: the panels that a projection of one token sums side by side.
const GROUP_VECTORS: usize = 4;

/// Tokens of a run: their rows are on as many pages of memory, which the next group finds in the TLB.
const RUN: usize = 32;

/// Distance of prefetches, in tokens: the next row is further away than hardware prefetchers look, and a vector's states are
/// more work than the processor looks ahead.
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

/// One token of a run.
pub(super) struct Token<'a, 'm> {
    b: &'a Builder<'m>,
    spec: &'a Spec,
    selected: &'a Selected<'a>,
    /// The first of its sequence's states.
    slot: Value,
    /// Its number in the run.
    pub(super) i: Value,
    /// Its row in the step.
    pub(super) t: Value,
    /// Its row of B.
    input: Row,
    /// Its row of C.
    output: Row,
}

/// Sixteen channels.
pub(super) struct ChannelVector {
    /// Its number in the group.
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

    /// The token's step of channel vector `vector`, number `in_group` of its group.
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

    /// Updates the states of a panel and gives Σₙ h · C, from state 0 on.
    fn states(&self, panel: Value, dt: Value, dt_u: Value) -> Value {
        let &Token { b, input, output, .. } = self;
        // Two at a time: more unrolled, the exponentials' constants no longer fit 16 registers.
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

    /// Decays the states of a panel from number n on, as many as `dt` has lanes for, and adds `taken` to them.
    fn update(&self, panel: Value, n: Value, dt: Value, taken: Value) -> Value {
        let (b, at) = (self.b, panel + n * LANES);
        let place = self.slot + at;
        let rate = b.load_vector(b.buffer("a"), at, dt.lanes());
        let h = b.load_vector(b.buffer("state"), place, dt.lanes());
        // Δ is not negative and the rate not positive.
        let decay = math::exp2_nonpositive(dt * rate);
        let h = decay.mul_add(h, taken);
        b.store(h, b.buffer("state"), place);
        h
    }
}
