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
use crate::hopper::operand::write;
use crate::kernel::{Access, Amount, Blocks, Cost, Elem, Grid, Launch, Operand, Per, hopper_body};
use jamba_plan::format::Table;

/// Threads of a block, each with every so many columns.
const THREADS: u32 = 128;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// What left the partial sums.
    pub partials: decode::Spec,
}

pub(super) fn launch(spec: &Spec) -> Launch {
    let decode::Spec { n_heads, n_kv_heads, d_head, .. } = spec.partials;
    let per_token = spec.partials.partial_bytes();
    Launch {
        op: "attention",
        symbol: format!("attention_combine_h{n_heads}_g{n_kv_heads}_e{d_head}_sm90"),
        operands: vec![
            spec.partials.partials(Access::Read),
            Operand::table(Table::Past),
            write("out", Elem::Bf16, n_heads * d_head, 0),
            Operand::count("sequences", Per::Sequence),
        ],
        cost: Cost {
            bytes: Amount {
                sequences: (n_heads * d_head * Elem::Bf16.bytes()) as f64,
                sequence_context: per_token,
                ..Amount::default()
            },
            operations: Amount { sequence_context: per_token / 2.0, ..Amount::default() },
        },
        grid: Some(Grid::along_x(Blocks::Of { per: Per::Sequence, factor: n_heads as u32, per_block: 1 }, THREADS, 0)),
        body: hopper_body!(spec, emit),
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
