//! The last step of decoding attention on Hopper: a block for each query head of each sequence.
//!
//!     out[s, h, :] = Σᵢ wᵢ · partial[s, h, i, :] / Σᵢ wᵢ · totalᵢ,   wᵢ = exp2(maximumᵢ − max over the splits)
//!
//! Splits are summed in their order. Bound by latency: a few hundred bytes of each split of 256 tokens or more.
//!
//! 1. the greatest maximum of the splits
//! 2. weighted sums over the splits, a thread for each column
//! 3. divide, round, store

use super::decode;
use crate::hopper::row_stride;
use crate::kernel::{Cost, Counts, Elem, Param};
use jamba_plan::format::{Blocks, Count, Launch};

/// Threads of a block, each with every so many columns.
const THREADS: u32 = 128;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// What left the partial sums.
    pub partials: decode::Spec,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        let decode::Spec { n_heads, n_kv_heads, d_head, .. } = self.partials;
        format!("attention_combine_h{n_heads}_g{n_kv_heads}_e{d_head}_sm90")
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let decode::Spec { n_heads, d_head, .. } = self.partials;
        vec![
            Param::read("partials", Elem::F32, &[self.partials.partial_stride()]),
            Param::read("past", Elem::I32, &[]),
            Param::write("out", Elem::Bf16, &[row_stride(Elem::Bf16, n_heads * d_head)]),
            Param::count("sequences"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let decode::Spec { n_heads, d_head, .. } = self.partials;
        let rows = (counts.sequences * n_heads) as f64;
        let partials = rows * self.partials.splits(counts.context).1 as f64;
        let partial_bytes = (4 * self.partials.partial_stride()) as f64;
        Cost { bytes: partials * partial_bytes + rows * 2.0 * d_head as f64, flops: partials * 2.0 * d_head as f64 }
    }

    pub(crate) fn launch(&self) -> Launch {
        let n_heads = self.partials.n_heads as u32;
        Launch::along_x(Blocks::Of { count: Count::Sequences, factor: n_heads, per_block: 1 }, THREADS, 0)
    }
}

#[cfg(feature = "emit")]
pub(crate) use emit::emit;

#[cfg(feature = "emit")]
mod emit {
    use super::{Spec, THREADS, decode};
    use crate::attention::hopper::entry;
    use crate::attention::hopper::split::Splits;
    use crate::cpu::builder::{Compare, Num, Type};
    use crate::hopper::{Builder, WARP, row_stride};
    use crate::kernel::Elem;

    pub(crate) fn emit(b: &Builder, spec: &Spec) {
        let &decode::Spec { n_heads, d_head, .. } = &spec.partials;
        let n_splits = spec.partials.max_splits();
        let (s, head) = (b.div(b.block(), b.i32(n_heads as i32)), b.rem(b.block(), b.i32(n_heads as i32)));
        b.if_(b.cmp(Compare::Lt, s, b.count("sequences")), || {
            let count = Splits::of(b, n_splits, b.add(entry(b, "past", s), b.i32(1))).count;
            let partials = b.row(b.pointer("partials"), b.block(), 4 * n_splits * spec.partials.partial_stride());
            let partial = |i| b.row(partials, i, 4 * spec.partials.partial_stride());
            let pair = Type::vector(Num::F32, 2);
            let totals = |i| b.load(b.at_byte(partial(i), 4 * spec.partials.partial_columns()), pair);

            // 1. the greatest
            let least = [b.f32(f32::NEG_INFINITY)];
            let [max] = b
                .for_range(b.lane(), count, WARP as usize, least, |i, [max]| [b.greater(max, b.extract(totals(i), 0))]);
            let max = b.warp_max(max);

            // 2. sums
            let out = b.row(b.pointer("out"), s, 2 * row_stride(Elem::Bf16, n_heads * d_head));
            let out = b.at(out, b.scaled(head, 2 * d_head));
            let column = |nth: usize| b.add(b.thread(), b.i32(nth as i32 * THREADS as i32));
            for nth in 0..d_head.div_ceil(THREADS as usize) {
                let column = column(nth);
                b.if_(b.cmp(Compare::Lt, column, b.i32(d_head as i32)), || {
                    let [sum, total] = b.for_range(b.i32(0), count, 1, [b.f32(0.0); 2], |i, [sum, total]| {
                        let totals = totals(i);
                        let weight = b.exp2(b.sub(b.extract(totals, 0), max));
                        let x = b.load(b.at(partial(i), b.scaled(column, 4)), Type::scalar(Num::F32));
                        [b.fma(x, weight, sum), b.fma(b.extract(totals, 1), weight, total)]
                    });
                    // 3. divide
                    let x = b.round_bf16(b.mul(sum, b.reciprocal(total)));
                    b.store(x, b.at(out, b.scaled(column, 2)));
                });
            }
        });
    }
}
