//! Matrix product of each slot with its expert's weight.
//!
//! ```text
//! for every expert e and every slot s of slots[offsets[e] … offsets[e + 1]]:
//!     out[s, i] = Σⱼ x[s / slots_per_row, j] · weight[e, i, j]
//! ```
//!
//! A slot is token · top_k + choice. Weights have the panels of [`crate::linear`], one stack per expert; an expert's
//! weights are read once per step, and only if it has slots.
//! Bound by the weights of the experts in use for few tokens, by multiply-adds for many.

use jamba_plan::format::TargetKind;
use jambac_graph::Op;

use crate::cases::{Case, case};
use crate::cpu::integer;
use crate::cpu::operand::{matrix, panels, read, write};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Param, Per, Weight, cpu_body};
use crate::node::{Node, Reads, RowsOrder, Select, SelectError, Selected, Use};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
#[cfg(feature = "emit")]
pub(crate) mod experts;
pub(crate) mod hopper;

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
    /// Type of the results: f32, or bf16 on Hopper.
    pub out: Elem,
    /// Slots that share a row of x: top_k if x has one row per token, 1 if it has one row per slot.
    pub slots_per_row: usize,
    /// Experts per token.
    pub top_k: usize,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let top_k = node.operand_cols(2)?;
        let slots_per_row = if node.operand(0).shape.len() == 2 { top_k } else { 1 };
        if node.target() == TargetKind::Sm90a && slots_per_row == 1 {
            node.same_slots(Some(2))?;
        }
        let spec = Spec {
            n_experts: node.dim(node.operand(1), 0)?,
            n: node.result_cols(0)?,
            k: node.operand_cols(0)?,
            format: node.format(1, Use::Experts)?,
            out: node.stored_result(0)?,
            slots_per_row,
            top_k,
        };
        Ok(Selected::new(spec, node.tokens_or_outputs()?))
    }

    fn reads(_: &Op, _: usize, _: usize) -> Reads {
        Reads::As(Elem::Bf16)
    }

    const ROWS_ORDER: RowsOrder = RowsOrder::SortedBy(2);

    fn cases() -> Vec<Case> {
        let base = Spec { n_experts: 4, n: 40, k: 72, format: Elem::Bf16, out: Elem::F32, slots_per_row: 2, top_k: 2 };
        let mut cases = vec![case(base.clone(), 13)];
        // A single token leaves experts without slots.
        cases.extend([0, 1, 2, 7, 64].map(|n_tokens| case(base.clone(), n_tokens)));
        cases.push(case(Spec { slots_per_row: 1, ..base.clone() }, 13));
        cases.push(case(Spec { slots_per_row: 1, top_k: 1, ..base.clone() }, 13));
        cases.push(case(Spec { slots_per_row: 3, top_k: 3, n_experts: 5, ..base.clone() }, 13));
        cases.extend([5, 100].map(|n| case(Spec { n, ..base.clone() }, 13)));
        cases.push(case(Spec { k: 8195, n_experts: 2, n: 16, ..base.clone() }, 64));
        cases.extend([Elem::F32, Elem::F16].map(|format| case(Spec { format, ..base.clone() }, 13)));
        // Gate of half of Jamba Mini's experts.
        let mini = Spec { n_experts: 8, n: 14336, k: 4096, ..base };
        cases.extend([1, 64].map(|n_tokens| case(mini.clone(), n_tokens)));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { n_experts, n, k, format, slots_per_row, top_k, .. } = self;
        let mut operands = vec![read("x", k, 0).with_rows(Per::Row, top_k / slots_per_row)];
        operands.extend(matrix(format, Weight::of(1, n, panels(n_experts, &[n], k))));
        operands.extend(slots_and_offsets(n_experts, top_k, 2));
        operands.push(write("out", n, 0).with_rows(Per::Row, top_k));
        let weight = Experts { n_experts, top_k, bytes: integer::weight_bytes(format, n, k) };
        let inputs = (top_k / slots_per_row * k) as f64;
        vec![Launch {
            op: "grouped_linear",
            symbol: format!("grouped_linear_{}_e{n_experts}_n{n}_k{k}_s{slots_per_row}", format.name()),
            operands,
            cost: Cost {
                bytes: weight.with_rows(((top_k * n) as f64 + inputs) * 4.0),
                operations: Amount::per_row((2 * top_k * n * k) as f64),
            },
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}

/// The sorted slots and the experts' offsets: operands `slots` and `slots + 1` of a node.
pub(crate) fn slots_and_offsets(n_experts: usize, top_k: usize, slots: usize) -> [Operand; 2] {
    [
        Operand::input(Param::read("slots", Elem::I32, &[]), slots).with_rows(Per::Row, top_k),
        offsets(n_experts, slots + 1),
    ]
}

/// The experts' offsets in the sorted slots, as an operand of a node.
pub(crate) fn offsets(n_experts: usize, operand: usize) -> Operand {
    Operand::input(Param::read("offsets", Elem::I32, &[]), operand).with_fixed_rows(n_experts + 1)
}

/// The expert weights that a step reads.
pub(crate) struct Experts {
    pub(crate) n_experts: usize,
    pub(crate) top_k: usize,
    /// Bytes per expert.
    pub(crate) bytes: f64,
}

impl Experts {
    /// Bytes of the weights of the experts in use, plus `rows` bytes per row. One row uses `top_k` experts; many rows use
    /// all.
    pub(crate) fn with_rows(&self, rows: f64) -> Amount {
        let (first_row, most) = (self.top_k as f64 * self.bytes, self.n_experts as f64 * self.bytes);
        Amount { rows, first_row, most, ..Amount::default() }
    }
}
