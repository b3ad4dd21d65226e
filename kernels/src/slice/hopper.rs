//! Columns of a row on Hopper: a block for each row.
//!
//!     out[r, i] = x[r, start + i]                   f32 or bf16 each, rounded to bf16 where the result is
//!
//! Bound by memory: the columns read and written once.
//!
//! 1. load: vectors where the first column is aligned, else single elements
//! 2. store

use crate::hopper::{row_stride, row_threads};
use crate::kernel::{Cost, Counts, Elem, Param, Rows};
use jamba_plan::format::Launch;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns of x.
    pub cols: usize,
    /// First column taken.
    pub start: usize,
    /// Columns taken.
    pub len: usize,
    /// Type of x: f32 or bf16.
    pub x: Elem,
    /// Type of the result: f32 or bf16.
    pub out: Elem,
    /// What the rows are.
    pub rows: Rows,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        let &Spec { cols, start, len, x, out, .. } = self;
        format!("slice_{}_{}_d{cols}_s{start}_n{len}_sm90", x.name(), out.name())
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        vec![
            Param::read("x", self.x, &[row_stride(self.x, self.cols)]),
            Param::write("out", self.out, &[row_stride(self.out, self.len)]),
            Param::count("rows"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let elements = self.rows.count(counts) * self.len;
        Cost { bytes: (elements * (self.x.bytes() + self.out.bytes())) as f64, flops: 0.0 }
    }

    pub(crate) fn launch(&self) -> Launch {
        Launch::along_x(self.rows.blocks(1), row_threads(self.len), 0)
    }
}

#[cfg(feature = "emit")]
use crate::cpu::builder::{Num, Type};
#[cfg(feature = "emit")]
use crate::hopper::{Builder, COLUMNS, rows};

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
                // Nothing is read beyond the last column; padding gets anything.
                let at = (first + lane).min(spec.cols - 1);
                let num = if spec.x == Elem::F32 { Num::F32 } else { Num::Bf16 };
                b.load(b.at(from, at * spec.x.bytes()), Type::scalar(num)).to_f32()
            };
            let x = match spec.start.is_multiple_of(COLUMNS) {
                true => rows::load(b, spec.x, from, first),
                false => rows::vector(b, &(0..COLUMNS).map(element).collect::<Vec<_>>()),
            };
            // 2. store
            rows::store(b, x, spec.out, to, column);
        });
    });
}
