//! The k largest of each row on Hopper: a thread for each row.
//!
//!     weights[t, j] = the j-th largest p[t, :], ties to the lowest e;  experts[t, j] = that e
//!
//! Bound by latency: rows are short (the experts of a router).
//!
//! 1. the row, in registers
//! 2. the largest that is not taken, k times

use crate::hopper::row_stride;
use crate::kernel::{Cost, Counts, Elem, Param, Rows};
use crate::moe_route::hopper::MAX_EXPERTS;
use jamba_plan::format::Launch;

/// Columns at most: a thread holds a row in registers.
pub const MAX_COLS: usize = MAX_EXPERTS;

/// Threads of a block.
const THREADS: u32 = 128;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns; [`MAX_COLS`] at most.
    pub cols: usize,
    /// How many are taken.
    pub k: usize,
    /// What the rows are.
    pub rows: Rows,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("top_{}_d{}_sm90", self.k, self.cols)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        vec![
            Param::read("p", Elem::F32, &[row_stride(Elem::F32, self.cols)]),
            Param::write("weights", Elem::F32, &[row_stride(Elem::F32, self.k)]),
            Param::write("experts", Elem::I32, &[self.k]),
            Param::count("rows"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let (rows, cols, k) = (self.rows.count(counts) as f64, self.cols as f64, self.k as f64);
        Cost { bytes: rows * (cols + 2.0 * k) * 4.0, flops: rows * cols * k }
    }

    pub(crate) fn launch(&self) -> Launch {
        Launch::along_x(self.rows.blocks(THREADS), THREADS, 0)
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
    assert!(cols <= MAX_COLS && k <= cols, "{k} of {cols} columns");
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
