//! Sorts slots by expert: a stable counting sort on the first thread.
//!
//! ```text
//! slots[offsets[e] … offsets[e + 1]] = the slots t · top_k + j with experts[t, j] = e, ascending
//! ```
//!
//! Bound by latency: tokens · top_k integers.

use jambac_graph::Op;

use crate::cases::{Case, case, routers};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Param, Per, cpu_body};
use crate::node::{Node, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

/// A stable sort of slots by expert.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Number of experts.
    pub n_experts: usize,
    /// Experts per token.
    pub top_k: usize,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let &Op::MoePermute { n_experts } = node.op() else { return Err(node.other_op()) };
        // The first result has one row of slots per token.
        Ok(Selected::new(Spec { n_experts, top_k: node.operand_cols(0)? }, node.rows()?))
    }

    fn cases() -> Vec<Case> {
        let base = Spec { n_experts: 16, top_k: 2 };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2].map(|n_tokens| case(base.clone(), n_tokens)));
        cases.extend([1, 4, 17].map(|n_experts| case(Spec { n_experts, ..base.clone() }, 13)));
        cases.extend([1, 3].map(|top_k| case(Spec { top_k, ..base.clone() }, 13)));
        cases.extend(routers().map(|(n_experts, top_k, n)| case(Spec { n_experts, top_k }, n)));
        cases.push(case(base, 512));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { n_experts, top_k } = self;
        vec![Launch {
            op: "moe_permute",
            symbol: format!("moe_permute_e{n_experts}_k{top_k}"),
            operands: vec![
                Operand::input(Param::read("experts", Elem::I32, &[top_k]), 0),
                Operand::output(Param::write("slots", Elem::I32, &[]), 0).with_rows(Per::Row, top_k),
                offsets(n_experts, 1),
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
        let bytes =
            Amount { constant: self.n_experts as f64 * 4.0, rows: self.top_k as f64 * 3.0 * 4.0, ..Amount::default() };
        Cost { bytes, ..Cost::default() }
    }
}

/// The experts' offsets in the sorted slots, as a result of a node.
pub(crate) fn offsets(n_experts: usize, result: usize) -> Operand {
    Operand::output(Param::write("offsets", Elem::I32, &[]), result).with_fixed_rows(n_experts + 1)
}
