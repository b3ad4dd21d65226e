//! Swiglu of each slot with its expert's gate and up.
//!
//! ```text
//! for every expert e and every slot s of slots[offsets[e] … offsets[e + 1]], with r = s / slots_per_row:
//!     out[s, i] = silu(Σⱼ x[r, j] · gate[e, i, j]) · Σⱼ x[r, j] · up[e, i, j]
//! ```
//!
//! The weight holds gate and up of each expert with interleaved panels, gate first; neither product is stored. The result
//! is bit-identical to [`crate::grouped_linear`] twice followed by swiglu.
//! Bound by the weights of the experts in use for few tokens, by multiply-adds for many.

use jamba_plan::format::TargetKind;
use jambac_graph::Op;

use crate::cases::{Case, case};
use crate::cpu::integer;
use crate::cpu::operand::{gate_and_up, matrix, read, write};
use crate::grouped_linear::{Experts, slots_and_offsets};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Per, cpu_body};
use crate::node::{Node, Reads, RowsOrder, Select, SelectError, Selected, Use};

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
    /// Slots that share a row of x: top_k if x has one row per token, 1 if it has one row per slot.
    pub slots_per_row: usize,
    /// Experts per token.
    pub top_k: usize,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let top_k = node.operand_cols(3)?;
        let x = node.operand(0);
        if node.target() == TargetKind::Sm90a && x.shape.len() != 2 {
            return Err(node.fail(format!("x is {x}, expected a row per token on sm_90a")));
        }
        let spec = Spec {
            n_experts: node.dim(node.operand(1), 0)?,
            n: node.result_cols(0)?,
            k: node.operand_cols(0)?,
            format: node.format(1, Use::Experts)?,
            slots_per_row: if x.shape.len() == 2 { top_k } else { 1 },
            top_k,
        };
        Ok(Selected::new(spec, node.tokens_or_outputs()?))
    }

    fn reads(_: &Op, _: usize, _: usize) -> Reads {
        Reads::As(Elem::Bf16)
    }

    const ROWS_ORDER: RowsOrder = RowsOrder::SortedBy(3);

    fn cases() -> Vec<Case> {
        let base = Spec { n_experts: 4, n: 40, k: 72, format: Elem::Bf16, slots_per_row: 2, top_k: 2 };
        let mut cases = vec![case(base.clone(), 13)];
        // A single token leaves experts without slots.
        cases.extend([0, 1, 2, 7, 64].map(|n_tokens| case(base.clone(), n_tokens)));
        cases.push(case(Spec { slots_per_row: 1, ..base.clone() }, 13));
        cases.push(case(Spec { slots_per_row: 3, top_k: 3, n_experts: 5, ..base.clone() }, 13));
        cases.extend([5, 100].map(|n| case(Spec { n, ..base.clone() }, 13)));
        cases.extend([1, 7].map(|k| case(Spec { k, ..base.clone() }, 13)));
        cases.push(case(Spec { k: 8195, n_experts: 2, n: 16, ..base.clone() }, 64));
        cases.extend([Elem::F32, Elem::F16].map(|format| case(Spec { format, ..base.clone() }, 13)));
        // Half of Jamba Mini's experts.
        let mini = Spec { n_experts: 8, n: 14336, k: 4096, ..base };
        cases.extend([1, 64].map(|n_tokens| case(mini.clone(), n_tokens)));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { n_experts, n, k, format, slots_per_row, top_k } = self;
        let mut operands = vec![read("x", k, 0).with_rows(Per::Row, top_k / slots_per_row)];
        operands.extend(matrix(format, gate_and_up(n_experts, 1..3, n, k)));
        operands.extend(slots_and_offsets(n_experts, top_k, 3));
        operands.push(write("out", n, 0).with_rows(Per::Row, top_k));
        let weights = Experts { n_experts, top_k, bytes: 2.0 * integer::weight_bytes(format, n, k) };
        let inputs = (top_k / slots_per_row * k) as f64;
        vec![Launch {
            op: "grouped_swiglu",
            symbol: format!("grouped_swiglu_{}_e{n_experts}_n{n}_k{k}_s{slots_per_row}", format.name()),
            operands,
            cost: Cost {
                bytes: weights.with_rows(((top_k * n) as f64 + inputs) * 4.0),
                operations: Amount::per_row((top_k * n * (4 * k + 5)) as f64),
            },
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}
