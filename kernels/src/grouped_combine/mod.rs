//! Weighted sum of each token's experts, fused with their products.
//!
//! ```text
//! out[t, i] = Σ weights[t, j] · (Σₗ x[t · top_k + j, l] · weight[e, i, l])         e the expert of slot t · top_k + j
//! ```
//!
//! The outer sum runs in ascending order of experts, independent of the order of the token's choices, starting at 0, by f32
//! multiply-adds: it is the same for a single token and in any batch. The products are never stored.
//! Bound by the weights of the experts in use for few tokens, by multiply-adds for many.

use jambac_graph::Op;

use crate::cases::{Case, case};
use crate::cpu::integer;
use crate::cpu::operand::{matrix, panels, read, write};
use crate::grouped_linear::{Experts, slots_and_offsets};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Per, Weight, cpu_body};
use crate::node::{Node, Reads, Select, SelectError, Selected, Use};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Number of experts.
    pub n_experts: usize,
    /// Number of outputs.
    pub n: usize,
    /// Number of inputs.
    pub k: usize,
    /// Stored type of the weights.
    pub format: Elem,
    /// Experts per token.
    pub top_k: usize,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let spec = Spec {
            n_experts: node.dim(node.operand(1), 0)?,
            n: node.result_cols(0)?,
            k: node.operand_cols(0)?,
            format: node.format(1, Use::Experts)?,
            top_k: node.operand_cols(2)?,
        };
        Ok(Selected::new(spec, node.rows()?))
    }

    fn reads(_: &Op, operand: usize, _: usize) -> Reads {
        Reads::As(if operand == 0 { Elem::Bf16 } else { Elem::F32 })
    }

    fn cases() -> Vec<Case> {
        let base = Spec { n_experts: 4, n: 40, k: 72, format: Elem::Bf16, top_k: 2 };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2, 7, 64].map(|n_tokens| case(base.clone(), n_tokens)));
        cases.push(case(Spec { top_k: 1, ..base.clone() }, 13));
        cases.push(case(Spec { top_k: 3, n_experts: 5, ..base.clone() }, 13));
        cases.extend([5, 100].map(|n| case(Spec { n, ..base.clone() }, 13)));
        cases.extend([1, 7].map(|k| case(Spec { k, ..base.clone() }, 13)));
        cases.push(case(Spec { k: 8195, n_experts: 2, n: 16, ..base.clone() }, 64));
        cases.extend([Elem::F32, Elem::F16].map(|format| case(Spec { format, ..base.clone() }, 13)));
        // Half of Jamba Mini's experts.
        let mini = Spec { n_experts: 8, n: 4096, k: 14336, ..base };
        cases.extend([1, 64].map(|n_tokens| case(mini.clone(), n_tokens)));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { n_experts, n, k, format, top_k } = self;
        let mut operands = vec![read("x", k, 0).with_rows(Per::Row, top_k)];
        operands.extend(matrix(format, Weight::of(1, n, panels(n_experts, &[n], k))));
        operands.push(read("weights", top_k, 2));
        operands.extend(slots_and_offsets(n_experts, top_k, 3));
        operands.extend([write("out", n, 0), Operand::scalar("rows", Per::Row)]);
        let weights = Experts { n_experts, top_k, bytes: integer::weight_bytes(format, n, k) };
        vec![Launch {
            op: "grouped_combine",
            symbol: format!("grouped_combine_{}_e{n_experts}_n{n}_k{k}_t{top_k}", format.name()),
            operands,
            cost: Cost {
                bytes: weights.with_rows((top_k * k + n) as f64 * 4.0),
                operations: Amount::per_row((top_k * n * (2 * k + 2)) as f64),
            },
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}
