//! Gathers the rows of slots on Hopper: one block per slot, in sorted order.
//!
//! ```text
//! out[p, :] = x[slots[p] / top_k, :]           bf16
//! ```
//!
//! `slots` are the output of [`crate::moe_route::hopper`].
//! Bound by memory: reads each row of x once from memory and then from the cache, writes top_k rows for it.
//!
//! 1. find the slot's token
//! 2. copy its row, 16 bytes per thread

use super::{GATHERED, Spec};
use crate::hopper::operand::read;
use crate::hopper::{copy_threads, row_stride};
use crate::kernel::{Amount, Blocks, Cost, Elem, Extent, Grid, Launch, Operand, Param, Per, Source, hopper_body};

impl Spec {
    /// The launch for rows of x in operand 0 of a node; its operand `slots` defines the sort order.
    pub fn launch(&self, slots: usize) -> Launch {
        let &Spec { cols, top_k } = self;
        let per_slot = Extent::per(Per::Row, top_k);
        let out = Param::write("out", Elem::Bf16, &[row_stride(Elem::Bf16, cols)]);
        let count = Operand::count("slot_rows", Per::Row);
        Launch {
            op: "moe_gather",
            symbol: format!("moe_gather_d{cols}_k{top_k}_sm90"),
            operands: vec![
                read("x", Elem::Bf16, cols, 0),
                Operand::new(Param::read("slots", Elem::I32, &[2]), Source::Operand(slots), per_slot),
                Operand::new(out, GATHERED, per_slot),
                Operand { source: Source::Count(Per::Row, top_k as u32), ..count },
            ],
            cost: Cost { bytes: Amount::per_row((cols * (1 + top_k)) as f64 * 2.0), ..Cost::default() },
            grid: Some(
                Grid::along_x(
                    Blocks::Of { per: Per::Row, factor: top_k as u32, per_block: 1 },
                    copy_threads(2 * cols),
                    0,
                )
                .reading_after(2),
            ),
            body: hopper_body!(self, emit),
        }
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
