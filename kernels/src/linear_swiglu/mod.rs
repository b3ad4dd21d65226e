//! Gate and up of a feed-forward, fused with their product; gate and up are not stored.
//!
//! ```text
//! out[r, i] = silu(Σⱼ x[r, j] · gate[i, j]) · Σⱼ x[r, j] · up[i, j]
//! ```
//!
//! Weights have the panels of [`crate::linear`], with each panel of gate before its panel of up, so that one thread has
//! both sums in registers at the same time. The sums are bit-identical to those of two linears.
//! Bound like two linears: by the weights for few rows, by multiply-adds for many.

use jambac_graph::Op;

use crate::cases::{Case, case};
use crate::cpu::operand::{gate_and_up, matrix, read, write};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Per, cpu_body};
use crate::linear;
use crate::node::{Node, Reads, Select, SelectError, Selected, Use};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Number of outputs: rows of gate, and of up.
    pub n: usize,
    /// Number of inputs.
    pub k: usize,
    /// Stored type of both weights.
    pub format: Elem,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let format = node.format(1, Use::Linear)?;
        Ok(Selected::new(Spec { n: node.result_cols(0)?, k: node.operand_cols(0)?, format }, node.rows()?))
    }

    fn reads(_: &Op, _: usize, _: usize) -> Reads {
        Reads::As(Elem::Bf16)
    }

    fn cases() -> Vec<Case> {
        let base = Spec { n: 96, k: 72, format: Elem::Bf16 };
        let with = |n, k| Spec { n, k, ..base.clone() };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2, 3, 4, 5, 6, 7, 12, 64].map(|n_rows| case(base.clone(), n_rows)));
        cases.extend([1, 16, 72, 173].map(|n| case(with(n, base.k), 13)));
        cases.extend([1, 16, 72, 173].map(|n| case(with(n, base.k), 1)));
        // Rows distributed over threads instead of panels.
        cases.push(case(with(5, base.k), 64));
        cases.extend([1, 7, 100].map(|k| case(with(base.n, k), 13)));
        cases.push(case(with(16, 8195), 61));
        cases.extend([Elem::F32, Elem::F16].map(|format| case(Spec { format, ..base.clone() }, 13)));
        // Jamba 3B, Jamba Mini.
        cases.extend([1, 4, 48, 512].map(|n_rows| case(with(8192, 2560), n_rows)));
        cases.extend([1, 512].map(|n_rows| case(with(14336, 4096), n_rows)));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { n, k, format } = self;
        let mut operands = vec![read("x", k, 0)];
        operands.extend(matrix(format, gate_and_up(1, 1..3, n, k)));
        operands.extend([write("out", n, 0), Operand::scalar("rows", Per::Row)]);
        let Cost { bytes, operations } = linear::cost(format, 2, n, k);
        // Five operations per swiglu.
        let operations = Amount::per_row(operations.rows + (5 * n) as f64);
        vec![Launch {
            op: "linear_swiglu",
            symbol: format!("linear_swiglu_{}_n{n}_k{k}", format.name()),
            operands,
            cost: Cost { bytes, operations },
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}
