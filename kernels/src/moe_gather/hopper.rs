//! Rows of slots on Hopper: a block for each slot in sorted order.
//!
//!     out[p, :] = x[slots[p] / top_k, :]           bf16
//!
//! `slots` are those of [`crate::moe_route::hopper`].
//! Bound by memory: each row of x read once from memory and from the cache after that, top_k rows written.
//!
//! 1. the slot's token
//! 2. its bytes, 16 a thread

use crate::hopper::{copy_threads, row_stride};
use crate::kernel::{Cost, Counts, Elem, Param, Rows};
use jamba_plan::format::Launch;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns.
    pub cols: usize,
    /// Experts per token.
    pub top_k: usize,
    /// What the tokens are.
    pub rows: Rows,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("moe_gather_d{}_k{}_sm90", self.cols, self.top_k)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = &[row_stride(Elem::Bf16, self.cols)];
        vec![
            Param::read("x", Elem::Bf16, row),
            Param::read("slots", Elem::I32, &[2]),
            Param::write("out", Elem::Bf16, row),
            Param::count("slot_rows"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        Cost { bytes: (self.rows.count(counts) * self.cols * (1 + self.top_k)) as f64 * 2.0, flops: 0.0 }
    }

    pub(crate) fn launch(&self) -> Launch {
        let blocks = self.rows.blocks_of(self.top_k as u32, 1);
        Launch::along_x(blocks, copy_threads(2 * self.cols), 0)
    }
}

#[cfg(feature = "emit")]
use crate::cpu::builder::{Num, Type};
#[cfg(feature = "emit")]
use crate::hopper::{Builder, rows};

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let place = b.block();
    let stride = 2 * row_stride(Elem::Bf16, spec.cols);
    b.if_(place.lt(b.count("slot_rows")), || {
        // 1. token
        let slot = b.load(b.at(b.pointer("slots"), place * 8), Type::scalar(Num::I32));
        let token = b.div_unsigned(slot, spec.top_k as u32);
        // 2. copy
        let (from, to) = (b.row(b.pointer("x"), token, stride), b.row(b.pointer("out"), place, stride));
        rows::copy(b, from, to, 2 * spec.cols);
    });
}
