//! The Mamba-1 recurrence on a CPU: each thread takes a range of channel vectors and walks them along a run of tokens, one
//! state of one vector after another, before it takes the next run.
//!
//! 1. for each sequence and run: the norms of dt, B and C, where fused
//! 2. for each group of vectors: the projection of Δ, where fused
//! 3. for each token of the run: what its row says of the group, Δ, Δ · u and the gate, into the thread's own rows
//! 4. for each vector and each of its states in order, along the run: decay it, add to it, add h · C to the tokens' sums
//! 5. for each token: the D skip and the gate, where fused, and the group's part of its row of y
//!
//! Rows of tokens lie so far apart that few of them fit one cache together: steps 3 and 5 touch each once, some lines at a time.
//! Along the run a state and its decay rate stay in registers, and the decays of successive tokens do not depend on one
//! another: they overlap, where states side by side would wait for the registers that their exponentials share.
//! Bound by arithmetic: ten multiplying operations, two a cycle, for eight states.

use super::Spec;
use super::selection::Selected;
use crate::builder::{Buffer, Builder, Num, Value};
use crate::kernel::{LANES, padded};
use crate::math;

/// Tokens of a run: what steps 3 to 5 hand on for a group stays in the second-level cache, for a vector in the first.
const RUN: usize = 32;

/// Channel vectors of a group: as many panels as a projection of one token takes abreast.
const GROUP: usize = 4;

/// Tokens that the fetch from memory is ahead of step 3: a row is further away than hardware prefetchers look.
const AHEAD: usize = 4;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (starts, slots) = (b.buffer("starts"), b.buffer("slots"));
    let selected = Selected::new(b, spec, RUN, GROUP);
    let scratch = Scratch::new(b);
    let (first_vector, last_vector) = b.thread_range(b.index(padded(spec.channels) / LANES));
    b.for_each(b.index(0), b.scalar("sequences"), 1, |s| {
        let slot = b.mul(b.to_index(b.load(slots, &[s])), b.scalar("slot_stride"));
        let end = b.to_index(b.load(starts, &[b.add(s, b.index(1))]));
        b.for_each(b.to_index(b.load(starts, &[s])), end, RUN, |first_token| {
            let n_tokens = b.min(b.index(RUN), b.sub(end, first_token));
            // 1. norms
            selected.norm(b, first_token, n_tokens);
            b.for_each(first_vector, last_vector, GROUP, |first| {
                let vectors = (first, b.min(b.add(first, b.index(GROUP)), last_vector));
                // 2. projection
                selected.project(b, first_token, n_tokens, vectors);
                let walk = Walk { spec, selected: &selected, scratch, slot, first_token, n_tokens, vectors };
                walk.gather(b);
                walk.states(b);
                walk.finish(b);
            });
        });
    });
}

/// A thread's own rows: a vector per channel vector of the group and token of the run.
#[derive(Clone, Copy)]
struct Scratch {
    /// Δ.
    dt: Buffer,
    /// Δ · u.
    dt_u: Buffer,
    u: Buffer,
    /// silu(z).
    gate: Buffer,
    /// Σ h · C so far.
    y: Buffer,
}

impl Scratch {
    fn new(b: &Builder) -> Scratch {
        let [dt, dt_u, u, gate, y] = [(); 5].map(|()| b.stack(Num::F32, &[GROUP, RUN, LANES]));
        Scratch { dt, dt_u, u, gate, y }
    }
}

/// A group of channel vectors along a run.
struct Walk<'a> {
    spec: &'a Spec,
    selected: &'a Selected<'a>,
    scratch: Scratch,
    /// Where the states of the tokens' sequence begin.
    slot: Value,
    /// Of the run.
    first_token: Value,
    /// In the run.
    n_tokens: Value,
    /// First and end of the group.
    vectors: (Value, Value),
}

impl Walk<'_> {
    /// Runs `body(at, t, column)` for each token and vector: its place in the scratch, its row and column in the step.
    fn for_each_place(&self, b: &Builder, body: impl FnOnce([Value; 3], Value, Value)) {
        let (first, end) = self.vectors;
        b.for_each(b.index(0), self.n_tokens, 1, |i| {
            b.for_each(first, end, 1, |vector| {
                let at = [b.sub(vector, first), i, b.index(0)];
                body(at, b.add(self.first_token, i), b.mul(vector, b.index(LANES)));
            });
        });
    }

    /// 3. What the tokens' rows say.
    fn gather(&self, b: &Builder) {
        let Scratch { dt: dt_rows, dt_u, u: u_rows, gate, y } = self.scratch;
        self.for_each_place(b, |at, t, column| {
            let ahead = [b.add(t, b.index(AHEAD)), column];
            b.prefetch(b.buffer("u"), &ahead);
            let dt = self.selected.dt(b, t, at, column);
            let u = b.load_vector(b.buffer("u"), &[t, column], LANES);
            b.store(dt, dt_rows, &at);
            b.store(b.mul(dt, u), dt_u, &at);
            b.store(b.splat(0.0, LANES), y, &at);
            if self.spec.gated {
                b.prefetch(b.buffer("z"), &ahead);
                b.store(u, u_rows, &at);
                b.store(math::silu(b, b.load_vector(b.buffer("z"), &[t, column], LANES)), gate, &at);
            }
        });
    }

    /// 4. The states, and Σₙ h · C from state 0 on.
    fn states(&self, b: &Builder) {
        let (first, end) = self.vectors;
        let d_state = b.index(self.spec.d_state);
        b.for_each(b.mul(first, d_state), b.mul(end, d_state), 1, |panel| {
            let (vector, n) = (b.sub(b.div(panel, d_state), first), b.rem(panel, d_state));
            let rate_at = b.mul(panel, b.index(LANES));
            let rate = b.load_vector(b.buffer("a"), &[rate_at], LANES);
            let state_at = [b.add(self.slot, rate_at)];
            let h = b.load_vector(b.buffer("state"), &state_at, LANES);
            let [h] = b.for_range(b.index(0), self.n_tokens, 1, [h], |i, [h]| {
                let at = [vector, i, b.index(0)];
                let Scratch { dt, dt_u, y, .. } = self.scratch;
                let [dt, dt_u, sum] = [dt, dt_u, y].map(|rows| b.load_vector(rows, &at, LANES));
                let [input, output] = [self.selected.b, self.selected.c].map(|rows| {
                    let (rows, row) = rows.row(b, self.first_token, i);
                    b.broadcast(b.load(rows, &[row, n]), LANES)
                });
                // Δ is not negative and the rate not positive.
                let decay = math::exp2_nonpositive(b, b.mul(dt, rate));
                let h = b.fma(decay, h, b.mul(dt_u, input));
                b.store(b.fma(h, output, sum), y, &at);
                [h]
            });
            b.store(h, b.buffer("state"), &state_at);
        });
    }

    /// 5. Skip and gate.
    fn finish(&self, b: &Builder) {
        let Scratch { u, gate, y, .. } = self.scratch;
        self.for_each_place(b, |at, t, column| {
            let mut sum = b.load_vector(y, &at, LANES);
            if self.spec.gated {
                let [u, gate] = [u, gate].map(|rows| b.load_vector(rows, &at, LANES));
                let d = b.load_vector(b.buffer("d"), &[column], LANES);
                sum = b.mul(b.fma(d, u, sum), gate);
            }
            b.store(sum, b.buffer("y"), &[t, column]);
        });
    }
}
