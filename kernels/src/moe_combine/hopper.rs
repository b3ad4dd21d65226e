//! Weighted sum of each token's experts on Hopper: one block per token.
//!
//! ```text
//! out[t, i] = Σⱼ weights[t, j] · y[p, i]       p = sorted position of slot t · top_k + j, j from 0 to top_k − 1
//! ```
//!
//! y is in the order of [`crate::moe_gather::hopper`]; `slots` are the output of [`crate::moe_route::hopper`].
//! Bound by memory: reads top_k rows of f32 and writes one per token.
//!
//! 1. load the addresses of the token's products, and their weights
//! 2. sum: the first product, then the others in order

use super::Spec;
use crate::hopper::operand::{read, write};
#[cfg(feature = "emit")]
use crate::hopper::row_stride;
use crate::hopper::row_threads;
use crate::kernel::{
    Blocks, Config, Elem, Extent, Grid, Hopper, Launch, Lowering, Operand, Param, Per, Source, hopper_body,
};

impl Lowering<Hopper> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        vec![launch(self, Source::Operand(0), Source::Operand(1), Source::SlotsOf(0))]
    }
}

/// Sums the rows of `y`, which are sorted by expert, with each token's weights; `slots` is the sort order.
pub(crate) fn launch(spec: &Spec, y: Source, weights: Source, slots: Source) -> Launch {
    let &Spec { cols, top_k } = spec;
    let per_slot = Extent::per(Per::Row, top_k);
    Launch {
        op: "moe_combine",
        symbol: format!("moe_combine_d{cols}_k{top_k}_sm90"),
        operands: vec![
            Operand { source: y, extent: per_slot, ..read("y", Elem::F32, cols, 0) },
            Operand { source: weights, ..read("weights", Elem::F32, top_k, 0) },
            Operand::new(Param::read("slots", Elem::I32, &[2]), slots, per_slot),
            write("out", Elem::F32, cols, 0),
            Operand::count("rows", Per::Row),
        ],
        cost: spec.cost(),
        grid: Some(Grid::along_x(Blocks::of_rows(1), row_threads(cols), 0).reading_after(2)),
        body: hopper_body!(spec, emit),
    }
}

#[cfg(feature = "emit")]
use crate::cpu::builder::{Num, Type};
#[cfg(feature = "emit")]
use crate::hopper::{Builder, COLUMNS, rows};

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (cols, top_k, token) = (spec.cols, spec.top_k, b.block());
    let stride = 4 * row_stride(Elem::F32, cols);
    b.if_(token.lt(b.count("rows")), || {
        // 1. addresses
        let weights = b.row(b.pointer("weights"), token, 4 * row_stride(Elem::F32, top_k));
        let slots = b.row(b.pointer("slots"), token, 8 * top_k);
        let terms: Vec<_> = (0..top_k)
            .map(|j| {
                let weight = b.load(b.at_byte(weights, 4 * j), Type::scalar(Num::F32));
                let place = b.load(b.at_byte(slots, 8 * j + 4), Type::scalar(Num::I32));
                (weight.broadcast(COLUMNS), b.row(b.pointer("y"), place, stride))
            })
            .collect();
        // 2. sum
        let out = b.row(b.pointer("out"), token, stride);
        rows::for_each_vector(b, cols, |_, column| {
            let mut products = terms.iter().map(|&(weight, row)| (weight, rows::load_f32(b, row, column)));
            let (weight, y) = products.next().expect("an expert at least");
            let sum = products.fold(weight * y, |sum, (weight, y)| weight.mul_add(y, sum));
            rows::store(b, sum, Elem::F32, out, column);
        });
    });
}
