//! Rows by number on Hopper: a block for each selected row.
//!
//!     out[i, :] = x[rows[i], :]
//!
//! Bound by latency: few rows.
//!
//! 1. the number of the row
//! 2. its bytes, 16 a thread

use crate::hopper::{copy_threads, row_stride};
use crate::kernel::{Cost, Counts, Elem, Param, Rows};
use jamba_plan::format::Launch;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns.
    pub cols: usize,
    /// Element type: f32 or bf16.
    pub elem: Elem,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("select_rows_{}_d{}_sm90", self.elem.name(), self.cols)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = &[row_stride(self.elem, self.cols)];
        vec![
            Param::read("x", self.elem, row),
            Param::read("rows", Elem::I32, &[]),
            Param::write("out", self.elem, row),
            Param::count("outputs"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        Cost { bytes: (counts.outputs * self.cols * self.elem.bytes()) as f64 * 2.0, flops: 0.0 }
    }

    pub(crate) fn launch(&self) -> Launch {
        Launch::along_x(Rows::Outputs.blocks(1), copy_threads(self.cols * self.elem.bytes()), 0)
    }
}

#[cfg(feature = "emit")]
use crate::cpu::builder::{Num, Type};
#[cfg(feature = "emit")]
use crate::hopper::{Builder, rows};

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let row = b.block();
    let stride = spec.elem.bytes() * row_stride(spec.elem, spec.cols);
    b.if_(row.lt(b.count("outputs")), || {
        // 1. number
        let wanted = b.load(b.at(b.pointer("rows"), row * 4), Type::scalar(Num::I32));
        // 2. copy
        let (from, to) = (b.row(b.pointer("x"), wanted, stride), b.row(b.pointer("out"), row, stride));
        rows::copy(b, from, to, spec.cols * spec.elem.bytes());
    });
}
