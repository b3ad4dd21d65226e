//! The kernel body; steps as in [`super`].

use super::{Spec, THREADS, decode};
use crate::attention::hopper::split::Splits;
use crate::cpu::builder::{Num, Type};
use crate::hopper::{Builder, WARP, row_stride};
use crate::kernel::Elem;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let &decode::Spec { n_heads, d_head, .. } = &spec.partials;
    let n_splits = spec.partials.max_splits();
    let (s, head) = (b.block() / n_heads, b.block() % n_heads);
    b.if_(s.lt(b.count("sequences")), || {
        let count = Splits::of(n_splits, b.entry("past", s) + 1).count;
        let partials = b.row(b.pointer("partials"), b.block(), 4 * n_splits * spec.partials.partial_stride());
        let partial = |i| b.row(partials, i, 4 * spec.partials.partial_stride());
        let pair = Type::vector(Num::F32, 2);
        let totals = |i| b.load(b.at_byte(partial(i), 4 * spec.partials.partial_columns()), pair);

        // 1. the maximum
        let least = [b.f32(f32::NEG_INFINITY)];
        let [max] = b.for_range(b.lane(), count, WARP as usize, least, |i, [max]| [b.greater(max, totals(i).lane(0))]);
        let max = b.warp_max(max);

        // 2. sums
        let out = b.row(b.pointer("out"), s, 2 * row_stride(Elem::Bf16, n_heads * d_head));
        let out = b.at(out, head * (2 * d_head));
        let column = |nth: usize| b.thread() + nth as i32 * THREADS as i32;
        for nth in 0..d_head.div_ceil(THREADS as usize) {
            let column = column(nth);
            b.if_(column.lt(d_head), || {
                let [sum, total] = b.for_range(b.i32(0), count, 1, [b.f32(0.0); 2], |i, [sum, total]| {
                    let totals = totals(i);
                    let weight = b.exp2(totals.lane(0) - max);
                    let x = b.load(b.at(partial(i), column * 4), Type::scalar(Num::F32));
                    [x.mul_add(weight, sum), totals.lane(1).mul_add(weight, total)]
                });
                // 3. divide
                let x = b.round_bf16(sum * b.reciprocal(total));
                b.store(x, b.at(out, column * 2));
            });
        }
    });
}
