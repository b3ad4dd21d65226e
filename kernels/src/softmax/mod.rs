//! Softmax over a row.
//!
//! ```text
//! out[r, i] = exp(x[r, i] − max x[r, :]) / Σⱼ exp(x[r, j] − max x[r, :])
//! ```
//!
//! Bound by memory.

use crate::cpu::operand::{read, write};
use crate::kernel::{Amount, Config, Cost, Cpu, Launch, Lowering, Operand, Per, cpu_body};
use crate::node::{Node, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub cols: usize,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        Ok(Selected::new(Spec { cols: node.result_cols(0)? }, node.rows()?))
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let cols = self.cols;
        vec![Launch {
            op: "softmax",
            symbol: format!("softmax_d{cols}"),
            operands: vec![read("x", cols, 0), write("out", cols, 0), Operand::scalar("rows", Per::Row)],
            cost: Cost { bytes: Amount::per_row(cols as f64 * 8.0), operations: Amount::per_row(cols as f64 * 12.0) },
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}
