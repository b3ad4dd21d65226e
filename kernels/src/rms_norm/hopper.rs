//! RMS norm on Hopper: a block for each row, the row in registers.
//!
//!     s = a + b                       (fused form only; s is written too, f32)
//!     out[r, i] = s[r, i] · weight[i] / sqrt(mean(s[r, :]²) + eps)          sums in f32, out f32 or rounded to bf16
//!
//! Bound by memory: each f32 read once, the sum and the result written once.
//!
//! 1. load the row, 16 bytes a thread and vector; add the residual where fused, and store the sum
//! 2. the sum of squares: lanes of a vector, vectors, warp, warps, in this order
//! 3. scale, multiply by the weight, round, store

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
    /// Added to the mean of squares.
    pub eps: f64,
    /// True of `add_rms_norm`: two inputs are summed, and the sum is a result.
    pub residual: bool,
    /// Type of the result: f32 or bf16.
    pub out: Elem,
    /// What the rows are.
    pub rows: Rows,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        let name = if self.residual { "add_rms_norm" } else { "rms_norm" };
        let out = if self.out == Elem::F32 { "_f32" } else { "" };
        format!("{name}{out}_d{}_e{:x}_sm90", self.cols, (self.eps as f32).to_bits())
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = &[row_stride(Elem::F32, self.cols)];
        let mut params = vec![Param::read("a", Elem::F32, row)];
        if self.residual {
            params.push(Param::read("b", Elem::F32, row));
        }
        params.push(Param::read("weight", Elem::F32, &[]));
        if self.residual {
            params.push(Param::write("sum", Elem::F32, row));
        }
        params.push(Param::write("out", self.out, &[row_stride(self.out, self.cols)]));
        params.push(Param::count("rows"));
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let bytes = if self.residual { 12.0 } else { 4.0 } + self.out.bytes() as f64;
        let elements = (self.rows.count(counts) * self.cols) as f64;
        Cost { bytes: elements * bytes, flops: elements * if self.residual { 5.0 } else { 4.0 } }
    }

    pub(crate) fn launch(&self) -> Launch {
        let threads = row_threads(self.cols);
        Launch::along_x(self.rows.blocks(1), threads, 4 * threads / WARP)
    }
}

#[cfg(feature = "emit")]
use crate::hopper::{Builder, rows};

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let cols = spec.cols;
    assert!(cols <= MAX_COLS, "rows of {cols} columns");
    let row = b.block();
    let f32_row = |name| b.row(b.pointer(name), row, 4 * row_stride(Elem::F32, cols));
    b.if_(row.lt(b.count("rows")), || {
        // 1. load
        let x = rows::map_vectors(b, cols, |column| {
            let x = rows::load_f32(b, f32_row("a"), column);
            if !spec.residual {
                return rows::masked(b, cols, column, x);
            }
            let sum = x + rows::load_f32(b, f32_row("b"), column);
            rows::store(b, sum, Elem::F32, f32_row("sum"), column);
            rows::masked(b, cols, column, sum)
        });
        // 2. squares
        let scale = rows::inverse_rms(b, cols, spec.eps, &x, b.shared());
        // 3. scale
        let out = b.row(b.pointer("out"), row, spec.out.bytes() * row_stride(spec.out, cols));
        rows::for_each_vector(b, cols, |number, column| {
            let weight = rows::load_dense(b, b.pointer("weight"), cols, column);
            rows::store(b, x[number] * scale * weight, spec.out, out, column);
        });
    });
}
