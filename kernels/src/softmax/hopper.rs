//! Softmax over a row on Hopper: one block per row, with the row in registers.
//!
//! ```text
//! out[r, i] = exp(x[r, i] − max x[r, :]) / Σⱼ exp(x[r, j] − max x[r, :])          f32
//! ```
//!
//! Bound by memory: each element is read and written once.
//!
//! 1. load the row, and find its maximum
//! 2. exponentials and their sum
//! 3. scale and store

use super::Spec;
use crate::hopper::facts::WARP;
use crate::hopper::operand::{read, write};
#[cfg(feature = "emit")]
use crate::hopper::row_stride;
use crate::hopper::{check_row, row_threads};
use crate::kernel::{
    Amount, Blocks, Config, Cost, Elem, Grid, Hopper, Launch, Lowering, Operand, Per, Unsupported, hopper_body,
};

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        check_row(self.cols)
    }

    fn lower(&self, _: Config) -> Vec<Launch> {
        let (cols, threads) = (self.cols, row_threads(self.cols));
        vec![Launch {
            op: "softmax",
            symbol: format!("softmax_d{cols}_sm90"),
            operands: vec![
                read("x", Elem::F32, cols, 0),
                write("out", Elem::F32, cols, 0),
                Operand::count("rows", Per::Row),
            ],
            cost: Cost { bytes: Amount::per_row(cols as f64 * 8.0), operations: Amount::per_row(cols as f64 * 6.0) },
            grid: Some(Grid::along_x(Blocks::of_rows(1), threads, 8 * threads / WARP)),
            body: hopper_body!(self, emit),
        }]
    }
}

#[cfg(feature = "emit")]
use crate::hopper::{Builder, COLUMNS, MAX_ROW_COLUMNS, rows};
#[cfg(feature = "emit")]
use std::f32::consts::LOG2_E;

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (cols, row) = (spec.cols, b.block());
    assert!(cols <= MAX_ROW_COLUMNS, "rows of {cols} columns");
    b.if_(row.lt(b.count("rows")), || {
        let row_of = |name| b.row(b.pointer(name), row, 4 * row_stride(Elem::F32, cols));
        let (lowest, scratch) = (f32::NEG_INFINITY, b.shared());
        // 1. load
        let x: Vec<_> = rows::map_vectors(b, cols, |column| rows::load_f32(b, row_of("x"), column));
        let first = b.thread() * COLUMNS;
        let tile = COLUMNS * b.threads_per_block() as usize;
        let inside = |number: usize, lane: usize| (first + (number * tile + lane)).lt(cols);
        let lanes: Vec<_> = (x.iter().enumerate())
            .flat_map(|(number, &x)| (0..COLUMNS).map(move |lane| (number, lane, x)))
            .map(|(number, lane, x)| inside(number, lane).select(x.lane(lane), lowest))
            .collect();
        let most = lanes.iter().fold(b.f32(lowest), |most, &x| b.greater(most, x));
        let most = b.block_reduce(most, scratch, |x, y| b.greater(x, y));
        // 2. exponentials
        let powers: Vec<_> = lanes.iter().map(|&x| b.exp2((x - most) * LOG2_E)).collect();
        let sum = powers.iter().fold(b.f32(0.0), |sum, &power| sum + power);
        let scale = b.reciprocal(b.block_reduce(sum, scratch, |x, y| x + y));
        // 3. scale
        rows::for_each_vector(b, cols, |number, column| {
            let scaled: Vec<_> = powers[COLUMNS * number..][..COLUMNS].iter().map(|&power| power * scale).collect();
            rows::store(b, rows::vector(&scaled), Elem::F32, row_of("out"), column);
        });
    });
}
