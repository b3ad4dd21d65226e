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
            // 1. squares, 2. scale
            let part = b.at_byte(x, 4 * start);
            let out = b.row(b.pointer(out), row, elem.bytes() * row_stride(elem, cols));
            for (number, y) in norm(b, part, b.pointer(weight), cols, spec.eps).into_iter().enumerate() {
                inside(b, cols, number, || {
                    let to = b.at(out, column(b, number) * elem.bytes());
                    b.store(if elem == Elem::Bf16 { b.round_bf16(y) } else { y }, to);
                    y
                });
            }
            start += cols;
        }
    });
}

/// The column that this lane has of each 32.
#[cfg(feature = "emit")]
fn column(b: &Builder, number: usize) -> Value {
    b.lane() + number * WARP as usize
}

/// The result of `then` if this lane's column of a number is one of the columns, else 0.
#[cfg(feature = "emit")]
fn inside(b: &Builder, cols: usize, number: usize, then: impl FnOnce() -> Value) -> Value {
    let is_column = column(b, number).lt(cols);
    if (number + 1) * WARP as usize <= cols { then() } else { b.if_else(is_column, then, || b.f32(0.0)) }
}

/// This lane's columns of the norm of a row by a warp; zeros beyond the last.
#[cfg(feature = "emit")]
pub(crate) fn norm(b: &Builder, row: Value, weight: Value, cols: usize, eps: f64) -> Vec<Value> {
    let columns = 0..cols.div_ceil(WARP as usize);
    // Not after the reduction, which would wait for it.
    let weights: Vec<Value> = columns
        .clone()
        .map(|number| {
            let column = column(b, number);
            b.load_word_or_zero(b.at(weight, column * 4), column.lt(cols)).bitcast(Num::F32)
        })
        .collect();
    let f32_at = |number: usize| b.load(b.at(row, column(b, number) * 4), Type::scalar(Num::F32));
    let x: Vec<Value> = columns.map(|number| inside(b, cols, number, || f32_at(number))).collect();
    let squares = x.iter().fold(b.f32(0.0), |squares, &x| x.mul_add(x, squares));
    let mean = b.warp_sum(squares) * (1.0 / cols as f32);
    let scale = b.rsqrt(mean + eps as f32);
    x.iter().zip(weights).map(|(&x, weight)| x * scale * weight).collect()
}
