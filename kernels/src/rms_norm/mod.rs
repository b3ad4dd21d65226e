//! RMS norm (arXiv 1910.07467), optionally fused with the preceding residual sum.
//!
//! ```text
//! s = a + b                       (fused form only; s is written too)
//! y[r, i] = s[r, i] · weight[i] / sqrt(mean(s[r, :]²) + eps)
//! ```
//!
//! Bound by memory: each row read once and written once.

use jambac_graph::Op;

use crate::cases::{Case, case};
use crate::cpu::operand::{read, vector, write};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Per, cpu_body};
use crate::node::{Node, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

/// RMS norm over the columns of a row.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    pub cols: usize,
    /// Added to the mean of squares.
    pub eps: f64,
    /// Whether the kernel is `add_rms_norm`: two inputs are summed, and the sum is the first result.
    pub residual: bool,
    /// Type of the normalized result: f32, or bf16 on Hopper.
    pub out: Elem,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let (eps, residual) = match *node.op() {
            Op::RmsNorm { eps } => (eps, false),
            Op::AddRmsNorm { eps } => (eps, true),
            _ => return Err(node.other_op()),
        };
        let out = node.stored_result(usize::from(residual))?;
        Ok(Selected::new(Spec { cols: node.result_cols(0)?, eps, residual, out }, node.rows()?))
    }

    fn cases() -> Vec<Case> {
        let base = Spec { cols: 72, eps: 1e-6, residual: false, out: Elem::F32 };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
        cases.extend([1, 5, 16, 96, 173].map(|cols| case(Spec { cols, ..base.clone() }, 13)));
        cases.push(case(Spec { eps: 1e-2, ..base.clone() }, 13));
        cases.push(case(Spec { residual: true, ..base.clone() }, 13));
        cases.push(case(Spec { residual: true, cols: 96, ..base.clone() }, 13));
        cases.extend([1, 512].map(|n_rows| case(Spec { residual: true, cols: 2560, ..base.clone() }, n_rows)));
        // One warp to many of a block on Hopper, in both result types.
        for cols in [1, 7, 64, 130, 2560, 4096, 9001] {
            let in_f32 = Spec { cols, eps: 1e-5, ..base.clone() };
            let in_bf16 = Spec { out: Elem::Bf16, ..in_f32.clone() };
            let residual = Spec { residual: true, ..in_bf16.clone() };
            cases.extend([in_f32, in_bf16, residual].map(|spec| case(spec, 3)));
        }
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { cols, eps, residual, .. } = self;
        let summed = usize::from(residual);
        let mut operands = vec![read("a", cols, 0)];
        operands.extend(residual.then(|| read("b", cols, 1)));
        operands.push(vector("weight", cols, 1 + summed));
        operands.extend(residual.then(|| write("sum", cols, 0)));
        operands.extend([write("out", cols, summed), Operand::scalar("rows", Per::Row)]);
        let streams = if residual { 4.0 } else { 2.0 };
        vec![Launch {
            op: "rms_norm",
            symbol: format!("{}_d{cols}_e{:x}", self.name(), (eps as f32).to_bits()),
            operands,
            cost: Cost {
                bytes: Amount::per_row(cols as f64 * 4.0 * streams),
                operations: Amount::per_row(cols as f64 * self.operations()),
            },
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}

impl Spec {
    fn name(&self) -> &'static str {
        if self.residual { "add_rms_norm" } else { "rms_norm" }
    }

    /// Operations per column.
    fn operations(&self) -> f64 {
        if self.residual { 5.0 } else { 4.0 }
    }
}
