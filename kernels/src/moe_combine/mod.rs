//! Weighted sum of each token's experts.
//!
//! ```text
//! out[t, i] = Σⱼ weights[t, j] · y[t · top_k + j, i]         j from 0 to top_k − 1
//! ```
//!
//! Bound by memory.

use jamba_plan::format::TargetKind;

use crate::cases::{Case, case};
use crate::cpu::operand::{read, write};
use crate::kernel::{Amount, Config, Cost, Cpu, Launch, Lowering, Operand, Per, cpu_body};
use crate::node::{Node, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub(crate) mod hopper;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    pub cols: usize,
    /// Experts per token.
    pub top_k: usize,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        if node.target() == TargetKind::Sm90a && node.slots_of(node.operands[0]).is_none() {
            return Err(node.fail_operand(0, "rows of slots that a grouped product made"));
        }
        Ok(Selected::new(Spec { cols: node.result_cols(0)?, top_k: node.operand_cols(1)? }, node.rows()?))
    }

    fn cases() -> Vec<Case> {
        let base = Spec { cols: 72, top_k: 2 };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2].map(|n_tokens| case(base.clone(), n_tokens)));
        cases.extend([5, 96].map(|cols| case(Spec { cols, ..base.clone() }, 13)));
        cases.extend([1, 3].map(|top_k| case(Spec { top_k, ..base.clone() }, 13)));
        cases.extend([1, 5, 512].map(|n_tokens| case(Spec { cols: 4096, ..base.clone() }, n_tokens)));
        let shapes = [(9, 2, 1), (130, 3, 20), (64, 1, 7)];
        cases.extend(shapes.map(|(cols, top_k, n)| case(Spec { cols, top_k }, n)));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { cols, top_k } = self;
        vec![Launch {
            op: "moe_combine",
            symbol: format!("moe_combine_d{cols}_k{top_k}"),
            operands: vec![
                read("y", cols, 0).with_rows(Per::Row, top_k),
                read("weights", top_k, 1),
                write("out", cols, 0),
                Operand::scalar("rows", Per::Row),
            ],
            cost: self.cost(),
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}

impl Spec {
    fn cost(&self) -> Cost {
        let (cols, top_k) = (self.cols as f64, self.top_k as f64);
        Cost { bytes: Amount::per_row(cols * 4.0 * (top_k + 1.0)), operations: Amount::per_row(cols * 2.0 * top_k) }
    }
}
