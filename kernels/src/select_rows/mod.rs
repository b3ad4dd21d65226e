//! Selects the rows that need logits.
//!
//!     out[i, :] = x[rows[i], :]
//!
//! Bound by memory.

use jamba_plan::format::{Count, Table, TargetKind};
use jambac_graph::Op;

use crate::cpu::operand::{read, write};
use crate::kernel::{Amount, Config, Cost, Elem, Kernel, Launch, Operand, Per, Source, Unsupported, cpu_body};
use crate::node::{Node, Reads, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

/// A copy of the rows that need logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub cols: usize,
    /// Element type: f32, or bf16 on Hopper.
    pub elem: Elem,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let rows = node.rows()?;
        if rows.count != Count::Outputs {
            return Err(node.fail(format!("result is {}, expected f32[outputs, …]", node.result(0))));
        }
        Ok(Selected::new(Spec { cols: node.result_cols(0)?, elem: node.stored_operand(0)? }, rows))
    }

    fn reads(_: &Op, operand: usize, _: usize) -> Reads {
        if operand == 0 { Reads::LikeResult } else { Reads::As(Elem::F32) }
    }
}

impl Kernel for Spec {
    fn supports(&self, _: TargetKind) -> Result<(), Unsupported> {
        Ok(())
    }

    fn lower(&self, target: TargetKind, _: Config) -> Vec<Launch> {
        match target {
            TargetKind::Cpu => vec![self.on_cpu()],
            TargetKind::Sm90a => vec![hopper::launch(self)],
        }
    }
}

/// The selected rows: the graph input `rows`, which is operand 1 of the node.
fn rows() -> Operand {
    Operand { source: Source::Input(1, Table::Rows), ..Operand::table(Table::Rows) }
}

impl Spec {
    fn on_cpu(&self) -> Launch {
        let cols = self.cols;
        Launch {
            op: "select_rows",
            symbol: format!("select_rows_d{cols}"),
            operands: vec![
                read("x", cols, 0).with_rows(Per::Token, 1),
                rows(),
                write("out", cols, 0),
                Operand::scalar("outputs", Per::Output),
            ],
            cost: Cost { bytes: Amount::per_row(cols as f64 * 8.0), ..Cost::default() },
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }
    }
}
