//! Softmax over a row on Hopper: a block for each row, the row in registers.
//!
//!     out[r, i] = exp(x[r, i] − max x[r, :]) / Σⱼ exp(x[r, j] − max x[r, :])          f32
//!
//! Bound by memory: each element read and written once.
//!
//! 1. load the row, and its largest
//! 2. exponentials, and their sum
//! 3. scale and store

use crate::hopper::{WARP, row_stride, row_threads};
use crate::kernel::{Cost, Counts, Elem, Param, Rows};
use jamba_plan::format::Launch;

/// Columns that a row may have: sixteen registers of each of 1024 threads.
pub const MAX_COLS: usize = 16384;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns; [`MAX_COLS`] at most.
    pub cols: usize,
    /// What the rows are.
    pub rows: Rows,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("softmax_d{}_sm90", self.cols)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = &[row_stride(Elem::F32, self.cols)];
        vec![Param::read("x", Elem::F32, row), Param::write("out", Elem::F32, row), Param::count("rows")]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let elements = (self.rows.count(counts) * self.cols) as f64;
        Cost { bytes: elements * 8.0, flops: elements * 6.0 }
    }

    pub(crate) fn launch(&self) -> Launch {
        let threads = row_threads(self.cols);
        Launch::along_x(self.rows.blocks(1), threads, 8 * threads / WARP)
    }
}

#[cfg(feature = "emit")]
use crate::hopper::{Builder, COLUMNS, rows};
#[cfg(feature = "emit")]
use std::f32::consts::LOG2_E;

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (cols, row) = (spec.cols, b.block());
    assert!(cols <= MAX_COLS, "rows of {cols} columns");
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
            rows::store(b, rows::vector(b, &scaled), Elem::F32, row_of("out"), column);
        });
    });
}
