//! The Mamba-1 recurrence on a CPU: each thread takes a range of channel vectors and walks a group of them along a run of
//! tokens, their decay rates and states in the first-level cache, before it takes the next group.
//!
//! 1. for each sequence, run, group, token and vector: dt and dt · u
//! 2. for each state in order: decay it, add to it, sum up the output
//! 3. the D skip and the gate, where fused
//!
//! Bound by arithmetic: ten multiplying operations, two a cycle, for eight states. On a Zen 3 core with a busy machine
//! around it 2.0 to 2.6 G states/s (d_state 16, prompts of 512 and 32 tokens) of some 5.

use super::Spec;
use crate::builder::{Builder, Value};
use crate::kernel::{LANES, padded};
use crate::math;

/// Floats of state that a group may have: 8 KiB, and 8 KiB of decay rates, in 32 KiB of first-level cache.
const GROUP_STATES: usize = 2048;

/// Channel vectors of a group at most.
const GROUP_VECTORS: usize = 4;

/// Tokens of a run: their rows lie in as many pages of memory, which the next group finds in the TLB.
const RUN: usize = 32;

/// Tokens that the fetch from memory is ahead of the arithmetic: a row is further away than hardware prefetchers look, and
/// a vector's states are more work than the processor looks ahead.
const AHEAD: usize = 2;

/// States whose operations stand side by side in the loop's body, for the processor to overlap.
const UNROLL: usize = 8;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (starts, slots) = (b.buffer("starts"), b.buffer("slots"));
    let group = (GROUP_STATES / (spec.d_state * LANES)).clamp(1, GROUP_VECTORS);
    let (first_vector, last_vector) = b.thread_range(b.index(padded(spec.channels) / LANES));
    // 1. sequence, run, group, token, vector
    b.for_each(b.index(0), b.scalar("sequences"), 1, |s| {
        let slot = b.mul(b.to_index(b.load(slots, &[s])), b.scalar("slot_stride"));
        let end = b.to_index(b.load(starts, &[b.add(s, b.index(1))]));
        b.for_each(b.to_index(b.load(starts, &[s])), end, RUN, |first_token| {
            let last_token = b.min(b.add(first_token, b.index(RUN)), end);
            b.for_each(first_vector, last_vector, group, |first| {
                let last = b.min(b.add(first, b.index(group)), last_vector);
                b.for_each(first_token, last_token, 1, |t| {
                    b.for_each(first, last, 1, |vector| token(b, spec, slot, t, vector));
                });
            });
        });
    });
}

/// One token of one channel vector, whose sequence's states begin at `slot`.
fn token(b: &Builder, spec: &Spec, slot: Value, t: Value, vector: Value) {
    let column = b.mul(vector, b.index(LANES));
    let rows = ["dt", "u", "y"].into_iter().chain(spec.gated.then_some("z"));
    rows.for_each(|name| b.prefetch(b.buffer(name), &[b.add(t, b.index(AHEAD)), column]));
    let dt = b.load_vector(b.buffer("dt"), &[t, column], LANES);
    let u = b.load_vector(b.buffer("u"), &[t, column], LANES);
    let panel = b.mul(vector, b.index(spec.d_state * LANES));
    let step = Step { t, dt, dt_u: b.mul(dt, u), rates: panel, states: b.add(slot, panel) };
    // 2. states
    let mut out = states(b, spec, &step);
    // 3. skip and gate
    if spec.gated {
        let d = b.load_vector(b.buffer("d"), &[column], LANES);
        let z = b.load_vector(b.buffer("z"), &[t, column], LANES);
        out = b.mul(b.fma(d, u, out), math::silu(b, z));
    }
    b.store(out, b.buffer("y"), &[t, column]);
}

/// What the states of one channel vector take in with one token.
struct Step {
    t: Value,
    dt: Value,
    dt_u: Value,
    /// Where the vector's decay rates begin.
    rates: Value,
    /// Where its states begin.
    states: Value,
}

/// Updates the states and gives Σₙ h · c, from state 0 on.
fn states(b: &Builder, spec: &Spec, step: &Step) -> Value {
    let whole = spec.d_state - spec.d_state % UNROLL;
    let update = |first: Value, count: usize, sum: Value| {
        (0..count).fold(sum, |sum, k| state(b, step, b.add(first, b.index(k)), sum))
    };
    let sum = b.splat(0.0, LANES);
    let [sum] = b.for_range(b.index(0), b.index(whole), UNROLL, [sum], |n, [sum]| [update(n, UNROLL, sum)]);
    update(b.index(whole), spec.d_state - whole, sum)
}

/// Updates state n and adds h · c to the sum.
fn state(b: &Builder, step: &Step, n: Value, sum: Value) -> Value {
    let offset = b.mul(n, b.index(LANES));
    let rate = b.load_vector(b.buffer("a"), &[b.add(step.rates, offset)], LANES);
    let place = [b.add(step.states, offset)];
    let h = b.load_vector(b.buffer("state"), &place, LANES);
    let broadcast = |name| b.broadcast(b.load(b.buffer(name), &[step.t, n]), LANES);
    // dt is not negative and the rate not positive.
    let decay = math::exp2_nonpositive(b, b.mul(step.dt, rate));
    let h = b.fma(decay, h, b.mul(step.dt_u, broadcast("b")));
    b.store(h, b.buffer("state"), &place);
    b.fma(h, broadcast("c"), sum)
}
