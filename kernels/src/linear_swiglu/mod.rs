//! Gate and up of a feed-forward, and their product: neither is stored.
//!
//!     out[r, i] = silu(Σⱼ x[r, j] · gate[i, j]) · Σⱼ x[r, j] · up[i, j]
//!
//! The panels of [`crate::linear`], a panel of gate before each panel of up, so that one thread has both sums in registers at the
//! same time. The sums are those of two linears, bit for bit.
//! Bound as two linears: by the weights for few rows, by multiply-adds for many.

use jamba_plan::format::TargetKind;
use jambac_graph::Op;

use crate::cpu::operand::{gate_and_up, matrix, read, write};
use crate::kernel::{
    Amount, Candidate, Config, Cost, Elem, Kernel, Launch, Operand, Per, StepSize, Unsupported, cpu_body,
};
use crate::linear;
use crate::node::{Node, Reads, Select, SelectError, Selected, Use};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

/// Gate and up of a feed-forward, and their product.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Outputs: rows of gate, and of up.
    pub n: usize,
    /// Inputs.
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
}

impl Kernel for Spec {
    fn supports(&self, target: TargetKind) -> Result<(), Unsupported> {
        match target {
            TargetKind::Cpu => Ok(()),
            TargetKind::Sm90a => hopper::supports(self),
        }
    }

    fn configs(&self, target: TargetKind, step: &StepSize) -> Vec<Candidate> {
        match target {
            TargetKind::Cpu => vec![Candidate::accepted(Config::Only)],
            TargetKind::Sm90a => hopper::configs(self, step),
        }
    }

    fn lower(&self, target: TargetKind, config: Config) -> Vec<Launch> {
        match target {
            TargetKind::Cpu => vec![self.on_cpu()],
            TargetKind::Sm90a => hopper::lower(self, config),
        }
    }
}

impl Spec {
    fn on_cpu(&self) -> Launch {
        let &Spec { n, k, format } = self;
        let mut operands = vec![read("x", k, 0)];
        operands.extend(matrix(format, gate_and_up(1, 1..3, n, k)));
        operands.extend([write("out", n, 0), Operand::scalar("rows", Per::Row)]);
        let Cost { bytes, operations } = linear::cost(format, 2, n, k);
        // Five operations for each swiglu.
        let operations = Amount::per_row(operations.rows + (5 * n) as f64);
        Launch {
            op: "linear_swiglu",
            symbol: format!("linear_swiglu_{}_n{n}_k{k}", format.name()),
            operands,
            cost: Cost { bytes, operations },
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }
    }
}
