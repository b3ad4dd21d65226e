//! A slice of the columns of each row, as separate rows.
//!
//! ```text
//! out[r, i] = x[r, start + i]
//! ```
//!
//! Bound by memory: the slice is read and written once.

use jambac_graph::Op;

use crate::cases::{Case, case};
use crate::cpu::operand::{read, write};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Per, cpu_body};
use crate::node::{Node, Reads, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
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

    fn cases() -> Vec<Case> {
        let base = Spec { cols: 72, start: 8, len: 40, x: Elem::F32, out: Elem::F32 };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
        cases.extend([0, 7, 32].map(|start| case(Spec { start, ..base.clone() }, 13)));
        cases.extend([5, 64].map(|len| case(Spec { len, ..base.clone() }, 13)));
        // With and without partial vectors, up to the last column or not, inside a 16-column row without padding; in both types.
        let shapes = [(40, 8, 16), (41, 24, 17), (17, 7, 5), (512, 256, 256), (32, 0, 32), (32, 29, 3), (9, 8, 1)];
        for (x, out) in [Elem::F32, Elem::Bf16].into_iter().flat_map(|x| [Elem::F32, Elem::Bf16].map(|out| (x, out))) {
            cases.extend(shapes.map(|(cols, start, len)| case(Spec { cols, start, len, x, out }, 3)));
        }
        cases
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
