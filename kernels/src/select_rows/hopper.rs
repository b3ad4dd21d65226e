//! Row selection on Hopper: one block per selected row.
//!
//! ```text
//! out[i, :] = x[rows[i], :]
//! ```
//!
//! Bound by latency: few rows.
//!
//! 1. load the row number
//! 2. copy the row, 16 bytes per thread

use super::{Spec, rows};
use crate::hopper::copy_threads;
use crate::hopper::operand::{read, write};
#[cfg(feature = "emit")]
use crate::hopper::row_stride;
use crate::kernel::{Amount, Blocks, Config, Cost, Grid, Hopper, Launch, Lowering, Operand, Per, hopper_body};

impl Lowering<Hopper> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { cols, elem } = self;
        let bytes = cols * elem.bytes();
        vec![Launch {
            op: "select_rows",
            symbol: format!("select_rows_{}_d{cols}_sm90", elem.name()),
            operands: vec![
                read("x", elem, cols, 0).with_rows(Per::Token, 1),
                rows(),
                write("out", elem, cols, 0),
                Operand::count("outputs", Per::Output),
            ],
            cost: Cost { bytes: Amount::per_row(2.0 * bytes as f64), ..Cost::default() },
            grid: Some(Grid::along_x(Blocks::of_rows(1), copy_threads(bytes), 0).reading_after(2)),
            body: hopper_body!(self, emit),
        }]
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
