//! Selects the rows that need logits.
//!
//! ```text
//! out[i, :] = x[rows[i], :]
//! ```
//!
//! Bound by memory.

use jamba_plan::format::{Count, Table};
use jambac_graph::Op;

use crate::cases::{Case, case};
use crate::cpu::operand::{read, write};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Per, Rows, Source, cpu_body};
use crate::node::{Node, Reads, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

/// A copy of the rows that need logits.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
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

    fn cases() -> Vec<Case> {
        let base = Spec { cols: 72, elem: Elem::F32 };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
        cases.extend([5, 96].map(|cols| case(Spec { cols, ..base.clone() }, 13)));
        let shapes = [(1, Elem::Bf16), (75, Elem::F32), (4096, Elem::Bf16), (4096, Elem::F32)];
        cases.extend(shapes.map(|(cols, elem)| case(Spec { cols, elem }, 4)));
        cases.into_iter().map(|case| Case { rows: Rows::OUTPUTS, ..case }).collect()
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let cols = self.cols;
        vec![Launch {
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
        }]
    }
}

/// The selected rows: the graph input `rows`, which is operand 1 of the node.
fn rows() -> Operand {
    Operand { source: Source::Input(1, Table::Rows), ..Operand::table(Table::Rows) }
}
