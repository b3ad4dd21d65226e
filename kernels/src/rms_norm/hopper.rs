//! RMS norm on Hopper: one block per row, with the row in registers.
//!
//! ```text
//! s = a + b                       (fused form only; s is written too, f32)
//! out[r, i] = s[r, i] · weight[i] / sqrt(mean(s[r, :]²) + eps)          sums in f32, out f32 or rounded to bf16
//! ```
//!
//! Bound by memory: each f32 read once; the sum and the result written once.
//!
//! 1. load the weight, before the number of rows is known; load the row, 16 bytes per thread and vector; if fused, add the
//!    residual and store the sum
//! 2. the sum of squares: over the lanes of a vector, vectors, lanes of a warp, warps, in this order
//! 3. scale, multiply by the weight, round, store

use super::Spec;
use crate::hopper::facts::WARP;
use crate::hopper::operand::{read, vector, write};
use crate::hopper::{check_row, row_threads};
use crate::kernel::{
    Amount, Blocks, Config, Cost, Elem, Grid, Hopper, Launch, Lowering, Operand, Per, Unsupported, hopper_body,
};

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        check_row(self.cols)
    }

    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { cols, eps, residual, out } = self;
        let summed = usize::from(residual);
        let mut operands = vec![read("a", Elem::F32, cols, 0)];
        operands.extend(residual.then(|| read("b", Elem::F32, cols, 1)));
        operands.push(vector("weight", cols, 1 + summed));
        operands.extend(residual.then(|| write("sum", Elem::F32, cols, 0)));
        operands.extend([write("out", out, cols, summed), Operand::count("rows", Per::Row)]);
        let bytes = if residual { 12.0 } else { 4.0 } + out.bytes() as f64;
        let of_out = if out == Elem::F32 { "_f32" } else { "" };
        let threads = row_threads(cols);
        vec![Launch {
            op: "rms_norm",
            symbol: format!("{}{of_out}_d{cols}_e{:x}_sm90", self.name(), (eps as f32).to_bits()),
            operands,
            cost: Cost {
                bytes: Amount::per_row(cols as f64 * bytes),
                operations: Amount::per_row(cols as f64 * self.operations()),
            },
            grid: Some(Grid::along_x(Blocks::of_rows(1), threads, 4 * threads / WARP)),
            body: hopper_body!(self, emit),
        }]
    }
}

#[cfg(feature = "emit")]
use crate::hopper::{Builder, MAX_ROW_COLUMNS, row_stride, rows};

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let cols = spec.cols;
    assert!(cols <= MAX_ROW_COLUMNS, "rows of {cols} columns");
    let row = b.block();
    let f32_row = |name| b.row(b.pointer(name), row, 4 * row_stride(Elem::F32, cols));
    // 1. load
    let ahead = rows::load_dense_ahead(b, b.pointer("weight"), cols);
    b.if_(row.lt(b.count("rows")), || {
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
            let weight = match &ahead {
                Some(ahead) => ahead[number],
                None => rows::load_dense(b, b.pointer("weight"), cols, column),
            };
            rows::store(b, x[number] * scale * weight, spec.out, out, column);
        });
    });
}
