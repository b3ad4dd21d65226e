//! A slice of the columns of each row, as separate rows.
//!
//! ```text
//! out[r, i] = x[r, start + i]
//! ```
//!
//! Bound by memory: the slice is read and written once.

use jambac_graph::Op;

use crate::cpu::operand::{read, write};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Per, cpu_body};
use crate::node::{Node, Reads, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns of x.
    pub cols: usize,
    /// First column of the slice.
    pub start: usize,
    /// Columns of the slice.
    pub len: usize,
    /// Type of x: f32, or bf16 on Hopper.
    pub x: Elem,
    /// Type of the result: f32, or bf16 on Hopper.
    pub out: Elem,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let &Op::Slice { start, len } = node.op() else { return Err(node.other_op()) };
        let (x, out) = (node.stored_operand(0)?, node.stored_result(0)?);
        Ok(Selected::new(Spec { cols: node.operand_cols(0)?, start, len, x, out }, node.rows()?))
    }

    fn reads(_: &Op, _: usize, _: usize) -> Reads {
        Reads::Any
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { cols, start, len, .. } = self;
        vec![Launch {
            op: "slice",
            symbol: format!("slice_d{cols}_s{start}_n{len}"),
            operands: vec![read("x", cols, 0), write("out", len, 0), Operand::scalar("rows", Per::Row)],
            cost: Cost { bytes: Amount::per_row(len as f64 * 8.0), ..Cost::default() },
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}
