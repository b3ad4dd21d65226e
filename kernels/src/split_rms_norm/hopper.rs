//! RMS norms of the parts of a row on Hopper: one warp per row.
//!
//! ```text
//! out_p[r, i] = x[r, start_p + i] · weight_p[i] / sqrt(mean(part²) + eps)       part = x[r, start_p … start_p + cols_p]
//! ```
//!
//! x is f32, sums are in f32, each result is f32 or rounded to bf16.
//! Bound by memory: each row is read and written once. Parts start at arbitrary columns, so accesses are single elements,
//! coalesced over the lanes of a warp.
//!
//! For each part:
//! 1. load; sums of squares per lane, then over the warp
//! 2. scale, multiply by the weight, round, store

use super::Spec;
use crate::hopper::facts::WARP;
use crate::hopper::operand::{read, vector, write};
#[cfg(feature = "emit")]
use crate::hopper::row_stride;
use crate::kernel::{
    Amount, Blocks, Config, Cost, Elem, Grid, Hopper, Launch, Lowering, Operand, Per, Unsupported, hopper_body,
};

/// Rows (warps) per block.
const ROWS: u32 = 4;

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        self.check_parts()
    }

    fn lower(&self, _: Config) -> Vec<Launch> {
        let parts = || self.slots().iter().zip(&self.parts).enumerate();
        let mut operands = vec![read("x", Elem::F32, self.cols(), 0)];
        operands.extend(parts().map(|(part, (&(weight, _), &(cols, _)))| vector(weight, cols, 1 + part)));
        operands.extend(parts().map(|(part, (&(_, out), &(cols, elem)))| write(out, elem, cols, part)));
        operands.push(Operand::count("rows", Per::Row));
        let names: String = self.parts.iter().map(|(cols, elem)| format!("_{}{cols}", elem.name())).collect();
        let bytes: usize = self.parts.iter().map(|(cols, elem)| cols * (4 + elem.bytes())).sum();
        vec![Launch {
            op: "split_rms_norm",
            symbol: format!("split_rms_norm{names}_e{:x}_sm90", (self.eps as f32).to_bits()),
            operands,
            cost: Cost { bytes: Amount::per_row(bytes as f64), operations: Amount::per_row(self.cols() as f64 * 4.0) },
            grid: Some(Grid::along_x(Blocks::of_rows(ROWS), ROWS * WARP, 0)),
            body: hopper_body!(self, emit),
        }]
    }
}

#[cfg(feature = "emit")]
use crate::cpu::builder::{Num, Type, Value};
#[cfg(feature = "emit")]
use crate::hopper::Builder;

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let row = b.block() * ROWS as usize + b.warp();
    b.if_(row.lt(b.count("rows")), || {
        let x = b.row(b.pointer("x"), row, 4 * row_stride(Elem::F32, spec.cols()));
        let mut start = 0;
        for (&(weight, out), &(cols, elem)) in spec.slots().iter().zip(&spec.parts) {
            let columns = cols.div_ceil(WARP as usize);
            let column = |number: usize| b.lane() + number * WARP as usize;
            let inside = |number: usize, then: &dyn Fn() -> Value| {
                let is_column = column(number).lt(cols);
                if (number + 1) * WARP as usize <= cols { then() } else { b.if_else(is_column, then, || b.f32(0.0)) }
            };
            let f32_at = |from: Value, number: usize| b.load(b.at(from, column(number) * 4), Type::scalar(Num::F32));
            // 1. squares
            let part = b.at_byte(x, 4 * start);
            // Not after the reduction, which would wait for it.
            let weights: Vec<Value> = (0..columns)
                .map(|number| {
                    let column = column(number);
                    b.load_word_or_zero(b.at(b.pointer(weight), column * 4), column.lt(cols)).bitcast(Num::F32)
                })
                .collect();
            let x: Vec<Value> = (0..columns).map(|number| inside(number, &|| f32_at(part, number))).collect();
            let squares = x.iter().fold(b.f32(0.0), |squares, &x| x.mul_add(x, squares));
            let mean = b.warp_sum(squares) * (1.0 / cols as f32);
            let scale = b.rsqrt(mean + spec.eps as f32);
            // 2. scale
            let out = b.row(b.pointer(out), row, elem.bytes() * row_stride(elem, cols));
            for (number, &x) in x.iter().enumerate() {
                inside(number, &|| {
                    let y = x * scale * weights[number];
                    let to = b.at(out, column(number) * elem.bytes());
                    b.store(if elem == Elem::Bf16 { b.round_bf16(y) } else { y }, to);
                    y
                });
            }
            start += cols;
        }
    });
}
