//! Routing: softmax of the router's logits, the k largest, and slots sorted by expert.
//!
//! ```text
//! p = softmax(logits[t, :]);  weights[t, j] = the j-th largest p[e], ties to the lowest e;  experts[t, j] = that e
//! slots[offsets[e] … offsets[e + 1]] = the slots t · top_k + j with experts[t, j] = e, ascending
//! ```
//!
//! Bit-identical to [`crate::softmax`], [`crate::top_k`] and [`crate::moe_permute`] in sequence. Weights are not
//! renormalised. `experts` is a private workspace of the kernel.
//! Bound by latency: tokens · n_experts numbers.

use jambac_graph::Op;

use crate::cases::{Case, case, routers};
use crate::cpu::operand::{read, write};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, Extent, Launch, Lowering, Operand, Param, Per, Source, cpu_body};
use crate::moe_permute::offsets;
use crate::node::{Node, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub(crate) mod hopper;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Number of experts.
    pub n_experts: usize,
    /// Experts per token.
    pub top_k: usize,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let &Op::MoeRoute { k } = node.op() else { return Err(node.other_op()) };
        Ok(Selected::new(Spec { n_experts: node.operand_cols(0)?, top_k: k }, node.rows()?))
    }

    fn cases() -> Vec<Case> {
        let base = Spec { n_experts: 16, top_k: 2 };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2].map(|n_tokens| case(base.clone(), n_tokens)));
        cases.extend([4, 17].map(|n_experts| case(Spec { n_experts, ..base.clone() }, 13)));
        cases.extend([1, 3, 16].map(|top_k| case(Spec { top_k, ..base.clone() }, 13)));
        cases.extend(routers().map(|(n_experts, top_k, n)| case(Spec { n_experts, top_k }, n)));
        cases.push(case(base, 512));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { n_experts, top_k } = self;
        let (experts, chosen) = (n_experts as f64, top_k as f64);
        vec![Launch {
            op: "moe_route",
            symbol: format!("moe_route_e{n_experts}_k{top_k}"),
            operands: vec![
                read("logits", n_experts, 0),
                write("weights", top_k, 0),
                Operand::output(Param::write("slots", Elem::I32, &[]), 1).with_rows(Per::Row, top_k),
                offsets(n_experts, 2),
                workspace(top_k),
                Operand::scalar("rows", Per::Row),
            ],
            cost: Cost {
                bytes: Amount { constant: experts * 4.0, rows: (experts + 3.0 * chosen) * 4.0, ..Amount::default() },
                operations: Amount::per_row(experts * (12.0 + chosen)),
            },
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}

/// The workspace for the experts of each token; no other kernel reads it.
fn workspace(top_k: usize) -> Operand {
    let param = Param::write("experts", Elem::I32, &[top_k]);
    Operand::new(param, Source::Scratch("experts"), Extent::per(Per::Row, 1))
}
