//! Softmax over a row.
//!
//! ```text
//! out[r, i] = exp(x[r, i] − max x[r, :]) / Σⱼ exp(x[r, j] − max x[r, :])
//! ```
//!
//! Bound by memory.

use crate::cases::{Case, case};
use crate::cpu::operand::{read, write};
use crate::kernel::{Amount, Config, Cost, Cpu, Launch, Lowering, Operand, Per, cpu_body};
use crate::node::{Node, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    pub cols: usize,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        Ok(Selected::new(Spec { cols: node.result_cols(0)? }, node.rows()?))
    }

    fn cases() -> Vec<Case> {
        let base = Spec { cols: 16 };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
        cases.extend([1, 4, 17, 72, 173].map(|cols| case(Spec { cols }, 13)));
        cases.extend([1, 3, 16, 64, 300, 5000].map(|cols| case(Spec { cols }, 3)));
        cases.push(case(base, 512));
        cases
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
