//! A stable counting sort on CPUs, on the first thread; the other threads return.
//!
//! 1. count the slots of each expert, stored one position later
//! 2. prefix sums: the start of each expert
//! 3. place each slot at the next free position of its expert

use super::Spec;
use crate::cpu::builder::{Builder, Num, Value};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    b.if_(b.thread().eq(0), || sort(b, spec, b.scalar("rows")));
}

/// Fills the buffers `slots` and `offsets` from the first `rows` rows of the buffer `experts`.
pub(crate) fn sort(b: &Builder, spec: &Spec, rows: Value) {
    let (experts, slots, offsets) = (b.buffer("experts"), b.buffer("slots"), b.buffer("offsets"));
    let free = b.stack(Num::I32, &[spec.n_experts]);
    let increment = |buffer, at: Value| {
        let before = b.load(buffer, at);
        b.store(before + 1, buffer, at);
        before
    };
    let for_each_slot = |body: &dyn Fn(Value, Value)| {
        b.for_each(0, rows, 1, |t| {
            b.for_each(0, spec.top_k, 1, |j| {
                let slot = t * spec.top_k + j;
                body(slot, b.load(experts, (t, j)).to_index());
            });
        });
    };
    // 1. count
    b.for_each(0, spec.n_experts + 1, 1, |e| b.store(0, offsets, e));
    for_each_slot(&|_, expert| {
        increment(offsets, expert + 1);
    });
    // 2. prefix sums
    b.for_range(0, spec.n_experts, 1, b.i32(0), |e, begin| {
        b.store(begin, free, e);
        let end = begin + b.load(offsets, e + 1);
        b.store(end, offsets, e + 1);
        end
    });
    // 3. place
    for_each_slot(&|slot, expert| {
        let place = increment(free, expert);
        b.store(slot.to_i32(), slots, place.to_index());
    });
}
