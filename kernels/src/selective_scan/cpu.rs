//! The Mamba-1 recurrence on a CPU: each thread takes a range of channel vectors, a few at a time, and walks them along
//! time; their decay rates and states stay in the first-level cache.
//!
//! 1. for each group of channel vectors, sequence, token and vector of the group: dt, dt · u
//! 2. for each state: decay, add, and sum up the output
//! 3. the D skip and the gate, where fused

use super::Spec;
use crate::builder::{Builder, Value};
use crate::kernel::{LANES, padded};
use crate::math;

/// Floats of state that one group may have: 8 KiB, and 8 KiB of decay rates, in 32 KiB of first-level cache.
const GROUP_STATES: usize = 2048;

/// Channel vectors of a group at most: what a row gives in four cache lines comes in one go.
const GROUP_VECTORS: usize = 4;

/// States whose operations stand side by side in the loop's body, for the processor to overlap.
const UNROLL: usize = 8;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (dt, u, y) = (b.buffer("dt"), b.buffer("u"), b.buffer("y"));
    let (starts, slots) = (b.buffer("starts"), b.buffer("slots"));
    let group = (GROUP_STATES / (spec.d_state * LANES)).clamp(1, GROUP_VECTORS);
    let (start, end) = b.thread_range(b.index(padded(spec.channels) / LANES));
    // 1. group, sequence, token, vector
    b.for_each(start, end, group, |first_vector| {
        let last_vector = b.min(b.add(first_vector, b.index(group)), end);
        b.for_each(b.index(0), b.scalar("sequences"), 1, |s| {
            let slot = b.mul(b.to_index(b.load(slots, &[s])), b.scalar("slot_stride"));
            let first = b.to_index(b.load(starts, &[s]));
            let last = b.to_index(b.load(starts, &[b.add(s, b.index(1))]));
            b.for_each(first, last, 1, |t| {
                b.for_each(first_vector, last_vector, 1, |vector| {
                    let column = b.mul(vector, b.index(LANES));
                    let dt = b.load_vector(dt, &[t, column], LANES);
                    let u = b.load_vector(u, &[t, column], LANES);
                    let panel = b.mul(vector, b.index(spec.d_state * LANES));
                    let step = Step { t, dt, dt_u: b.mul(dt, u), rates: panel, states: b.add(slot, panel) };
                    // 2. states
                    let sum = states(b, spec, &step);
                    // 3. skip and gate
                    let out = match spec.gated {
                        true => {
                            let d = b.load_vector(b.buffer("d"), &[column], LANES);
                            let z = b.load_vector(b.buffer("z"), &[t, column], LANES);
                            b.mul(b.fma(d, u, sum), math::silu(b, z))
                        }
                        false => sum,
                    };
                    b.store(out, y, &[t, column]);
                });
            });
        });
    });
}

/// One token of one channel vector.
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
    let mut sum = b.splat(0.0, LANES);
    if whole == UNROLL || whole == 2 * UNROLL {
        for n in 0..whole {
            sum = state(b, step, b.index(n), sum);
        }
    } else {
        [sum] = b.for_range(b.index(0), b.index(whole), UNROLL, [sum], |n, [sum]| {
            [(0..UNROLL).fold(sum, |sum, k| state(b, step, b.add(n, b.index(k)), sum))]
        });
    }
    (whole..spec.d_state).fold(sum, |sum, n| state(b, step, b.index(n), sum))
}

/// Updates state n and adds h · c to the sum.
fn state(b: &Builder, step: &Step, n: Value, sum: Value) -> Value {
    let offset = b.mul(n, b.index(LANES));
    let rate = b.load_vector(b.buffer("a"), &[b.add(step.rates, offset)], LANES);
    let place = [b.add(step.states, offset)];
    let h = b.load_vector(b.buffer("state"), &place, LANES);
    let broadcast = |name| b.broadcast(b.load(b.buffer(name), &[step.t, n]), LANES);
    let decay = math::exp2_nonpositive(b, b.mul(step.dt, rate));
    let h = b.fma(decay, h, b.mul(step.dt_u, broadcast("b")));
    b.store(h, b.buffer("state"), &place);
    b.fma(h, broadcast("c"), sum)
}
