//! Column slices on Hopper: one block per row.
//!
//! ```text
//! out[r, i] = x[r, start + i]                   f32 or bf16 each, rounded to bf16 if the result is bf16
//! ```
//!
//! Bound by memory: the slice is read and written once.
//!
//! 1. load: vectors if the first column is aligned, else single elements
//! 2. store

use super::Spec;
use crate::hopper::operand::{read, write};
#[cfg(feature = "emit")]
use crate::hopper::row_stride;
use crate::hopper::row_threads;
use crate::kernel::{Amount, Blocks, Config, Cost, Grid, Hopper, Launch, Lowering, Operand, Per, hopper_body};

impl Lowering<Hopper> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { cols, start, len, x, out } = self;
        vec![Launch {
            op: "slice",
            symbol: format!("slice_{}_{}_d{cols}_s{start}_n{len}_sm90", x.name(), out.name()),
            operands: vec![read("x", x, cols, 0), write("out", out, len, 0), Operand::count("rows", Per::Row)],
            cost: Cost { bytes: Amount::per_row((len * (x.bytes() + out.bytes())) as f64), ..Cost::default() },
            grid: Some(Grid::along_x(Blocks::of_rows(1), row_threads(len), 0)),
            body: hopper_body!(self, emit),
        }]
    }
}

#[cfg(feature = "emit")]
use crate::cpu::builder::{Num, Type};
#[cfg(feature = "emit")]
use crate::hopper::{Builder, COLUMNS, rows};
#[cfg(feature = "emit")]
use crate::kernel::Elem;

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let row = b.block();
    b.if_(row.lt(b.count("rows")), || {
        let from = b.row(b.pointer("x"), row, spec.x.bytes() * row_stride(spec.x, spec.cols));
        let to = b.row(b.pointer("out"), row, spec.out.bytes() * row_stride(spec.out, spec.len));
        rows::for_each_vector(b, spec.len, |_, column| {
            // 1. load
            let first = column + spec.start;
            let element = |lane: usize| {
                // Nothing is read beyond the last column; padding is unspecified.
                let at = (first + lane).min(spec.cols - 1);
                let num = if spec.x == Elem::F32 { Num::F32 } else { Num::Bf16 };
                b.load(b.at(from, at * spec.x.bytes()), Type::scalar(num)).to_f32()
            };
            let x = match spec.start.is_multiple_of(COLUMNS) {
                true => rows::load(b, spec.x, from, first),
                false => rows::vector(&(0..COLUMNS).map(element).collect::<Vec<_>>()),
            };
            // 2. store
            rows::store(b, x, spec.out, to, column);
        });
    });
}
