//! The Mamba-1 recurrence on a CPU: each thread takes a range of channel vectors and walks a group of them along a run of
//! tokens, their decay rates and states in the first-level cache, before it takes the next group.
//!
//! 1. for each run, of one sequence or of many: the norms of dt, B and C, where fused
//! 2. for each group: the projection of Δ, where fused
//! 3. for each token, vector and two states at a time: decay them, add to them, add h · C to the output
//! 4. the D skip and the gate, where fused
//!
//! A run goes on from one sequence to the next: one token of each of many sequences share a projection's weights as many tokens
//! of one sequence do.
//! Bound by arithmetic: ten multiplying operations, two a cycle, for eight states: 5 G states/s of a core, of which one token
//! gets as much as many do.

use super::Spec;
use super::selection::Selected;
use crate::cpu::builder::{Buffer, Builder, Value};
use crate::cpu::math;
use crate::kernel::{LANES, padded};

/// Floats of state that a group may have: 8 KiB, and 8 KiB of decay rates, in 32 KiB of first-level cache.
const GROUP_STATES: usize = 2048;

/// Channel vectors of a group at most; as many panels as a projection of one token takes abreast.
const GROUP_VECTORS: usize = 4;

/// Tokens of a run: their rows lie in as many pages of memory, which the next group finds in the TLB.
const RUN: usize = 32;

/// Tokens that the fetch from memory is ahead of the arithmetic: a row is further away than hardware prefetchers look, and
/// a vector's states are more work than the processor looks ahead.
pub(super) const AHEAD: usize = 2;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let group = (GROUP_STATES / (spec.d_state * LANES)).clamp(1, GROUP_VECTORS);
    let selected = Selected::new(b, spec, RUN, group);
    let (first_vector, last_vector) = b.thread_range(padded(spec.channels) / LANES);
    b.for_each(0, b.scalar("tokens"), RUN, |first_token| {
        let n_tokens = b.index(RUN).min(b.scalar("tokens") - first_token);
        // 1. norms
        selected.norm(b, first_token, n_tokens);
        b.for_each(first_vector, last_vector, group, |first| {
            let last = (first + group).min(last_vector);
            // 2. projection
            selected.project(b, first_token, n_tokens, (first, last));
            b.for_each(0, n_tokens, 1, |i| {
                let token = Token::new(b, spec, &selected, first_token, i);
                b.for_each(first, last, 1, |vector| token.walk(b, vector, vector - first));
            });
        });
    });
}

/// One token of a run.
struct Token<'a> {
    spec: &'a Spec,
    selected: &'a Selected<'a>,
    /// Where the states of its sequence begin.
    slot: Value,
    /// Its number in the run.
    i: Value,
    /// Its row in the step.
    t: Value,
    /// Its rows of B and C.
    input: (Buffer, Value),
    output: (Buffer, Value),
}

impl<'a> Token<'a> {
    fn new(b: &Builder, spec: &'a Spec, selected: &'a Selected<'a>, first_token: Value, i: Value) -> Token<'a> {
        let t = first_token + i;
        let sequence = b.load(b.buffer("sequence_of"), &[t]).to_index();
        let slot = b.load(b.buffer("slots"), &[sequence]).to_index() * b.scalar("slot_stride");
        let [input, output] = [selected.b, selected.c].map(|rows| rows.row(first_token, i));
        Token { spec, selected, slot, i, t, input, output }
    }

    /// Takes the token in with one channel vector, which is number `in_group` of its group.
    fn walk(&self, b: &Builder, vector: Value, in_group: Value) {
        let column = vector * LANES;
        let row = |name| b.load_vector(b.buffer(name), &[self.t, column], LANES);
        let rows = ["u", "y"].into_iter().chain(self.spec.gated.then_some("z"));
        rows.for_each(|name| b.prefetch(b.buffer(name), &[self.t + AHEAD, column]));
        let dt = self.selected.dt(b, (self.t, column), (self.i, in_group));
        let u = row("u");
        let panel = vector * (self.spec.d_state * LANES);
        // 3. states
        let mut sum = self.states(b, panel, dt, dt * u);
        // 4. skip and gate
        if self.spec.gated {
            let d = b.load_vector(b.buffer("d"), &[column], LANES);
            sum = d.mul_add(u, sum) * math::silu(row("z"));
        }
        b.store(sum, b.buffer("y"), &[self.t, column]);
    }

    /// Updates the states of a panel and gives Σₙ h · C, from state 0 on.
    fn states(&self, b: &Builder, panel: Value, dt: Value, dt_u: Value) -> Value {
        // Two at a time: more unrolled, the exponentials' constants no longer fit 16 registers.
        let n_pairs = self.spec.d_state / 2;
        let [dts, dts_u] = [dt, dt_u].map(|x| twice(x, x));
        let sum = b.splat(0.0, LANES);
        let [sum] = b.for_range(0, 2 * n_pairs, 2, [sum], |n, [sum]| {
            let [n0, n1] = [n, n + 1];
            let both = |row| twice(self.of_state(b, row, n0), self.of_state(b, row, n1));
            let h = self.update(b, (panel, n), dts, dts_u * both(self.input));
            let sum = h.slice(0, LANES).mul_add(self.of_state(b, self.output, n0), sum);
            [h.slice(LANES, LANES).mul_add(self.of_state(b, self.output, n1), sum)]
        });
        if self.spec.d_state == 2 * n_pairs {
            return sum;
        }
        let n = b.index(2 * n_pairs);
        let h = self.update(b, (panel, n), dt, dt_u * self.of_state(b, self.input, n));
        h.mul_add(self.of_state(b, self.output, n), sum)
    }

    /// Element n of a row, in all lanes.
    fn of_state(&self, b: &Builder, (rows, row): (Buffer, Value), n: Value) -> Value {
        b.load(rows, &[row, n]).broadcast(LANES)
    }

    /// Decays the states of a panel from number n on, as many as `dt` has lanes for, and adds `taken` to them.
    fn update(&self, b: &Builder, (panel, n): (Value, Value), dt: Value, taken: Value) -> Value {
        let at = panel + n * LANES;
        let place = [self.slot + at];
        let rate = b.load_vector(b.buffer("a"), &[at], dt.lanes());
        let h = b.load_vector(b.buffer("state"), &place, dt.lanes());
        // Δ is not negative and the rate not positive.
        let decay = math::exp2_nonpositive(dt * rate);
        let h = decay.mul_add(h, taken);
        b.store(h, b.buffer("state"), &place);
        h
    }
}

/// One vector after the other.
fn twice(x: Value, y: Value) -> Value {
    x.shuffle(y, &(0..2 * LANES).collect::<Vec<_>>())
}
