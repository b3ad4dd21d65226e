//! The k largest of each row on Hopper: one thread per row.
//!
//! ```text
//! weights[t, j] = the j-th largest p[t, :], ties to the lowest e;  experts[t, j] = that e
//! ```
//!
//! Bound by latency: rows are short (the experts of a router).
//!
//! 1. load the row into registers
//! 2. choose the largest remaining element, k times

use super::Spec;
use crate::hopper::operand::{read, write};
#[cfg(feature = "emit")]
use crate::hopper::row_stride;
use crate::kernel::{
    Blocks, Config, Elem, Grid, Hopper, Launch, Lowering, Operand, Param, Per, Unsupported, hopper_body,
};
use crate::moe_route::hopper::MAX_EXPERTS;

/// Threads per block.
const THREADS: u32 = 128;

impl Lowering<Hopper> for Spec {
    /// A row must fit in a thread's registers.
    fn supports(&self) -> Result<(), Unsupported> {
        match self.cols {
            ..=MAX_EXPERTS if self.k <= self.cols => Ok(()),
            ..=MAX_EXPERTS => {
                Err(Unsupported(format!("found {} of {} columns, expected at most all", self.k, self.cols)))
            }
            cols => Err(Unsupported(format!("found rows of {cols} columns, expected at most {MAX_EXPERTS} on sm_90a"))),
        }
    }

    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { cols, k } = self;
        vec![Launch {
            op: "top_k",
            symbol: format!("top_{k}_d{cols}_sm90"),
            operands: vec![
                read("p", Elem::F32, cols, 0),
                write("weights", Elem::F32, k, 0),
                Operand::output(Param::write("experts", Elem::I32, &[k]), 1),
                Operand::count("rows", Per::Row),
            ],
            cost: self.cost(),
            grid: Some(Grid::along_x(Blocks::of_rows(THREADS), THREADS, 0)),
            body: hopper_body!(self, emit),
        }]
    }
}

#[cfg(feature = "emit")]
use crate::hopper::{
    Builder,
    select::{Largest, short_row},
};

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let &Spec { cols, k, .. } = spec;
    assert!(cols <= MAX_EXPERTS && k <= cols, "{k} of {cols} columns");
    let token = b.block() * THREADS as usize + b.thread();
    b.if_(token.lt(b.count("rows")), || {
        // 1. load
        let mut largest = Largest::of(b, short_row(b, b.pointer("p"), token, cols));
        // 2. choose
        let weights = b.row(b.pointer("weights"), token, 4 * row_stride(Elem::F32, k));
        let experts = b.row(b.pointer("experts"), token, 4 * k);
        for j in 0..k {
            let (value, expert) = largest.take();
            b.store(value, b.at_byte(weights, 4 * j));
            b.store(expert, b.at_byte(experts, 4 * j));
        }
    });
}
