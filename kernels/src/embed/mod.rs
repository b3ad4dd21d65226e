//! Embedding lookup.
//!
//! ```text
//! out[t, :] = table[ids[t], :]          int8: scales[ids[t]] · table[ids[t], :]
//! ```
//!
//! Bound by memory: reads tokens · d_model elements of the table, writes as many f32. A tied table has the panel layout of
//! the output projection (16 rows interleaved) and is read from there; only such a table may be int8.

use jamba_plan::format::Layout;

use crate::cases::{Case, case};
use crate::cpu::operand::{matrix, panels, write};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, LANES, Launch, Lowering, Operand, Per, Weight, cpu_body};
use crate::node::{Node, Select, SelectError, Selected, Use};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Rows of the table.
    pub vocab: usize,
    pub d_model: usize,
    /// Stored type of the table.
    pub format: Elem,
    /// Rows interleaved in the table's CPU layout: 1 (row-major), or [`LANES`] for a tied table, also of int8.
    pub lanes: usize,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let tied = node.is_tied(1)?;
        let format = node.format(1, if tied { Use::Linear } else { Use::Embedding })?;
        let vocab = node.dim(node.operand(1), 0)?;
        let spec = Spec { vocab, d_model: node.result_cols(0)?, format, lanes: if tied { LANES } else { 1 } };
        Ok(Selected::new(spec, node.tokens(0)?))
    }

    fn cases() -> Vec<Case> {
        let base = Spec { vocab: 50, d_model: 72, format: Elem::Bf16, lanes: 1 };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2].map(|n_tokens| case(base.clone(), n_tokens)));
        cases.extend([5, 96].map(|d_model| case(Spec { d_model, ..base.clone() }, 13)));
        cases.extend([Elem::F32, Elem::F16].map(|format| case(Spec { format, ..base.clone() }, 13)));
        cases.push(case(Spec { lanes: LANES, ..base.clone() }, 13));
        cases.extend([Elem::F32, Elem::F16].map(|format| case(Spec { format, lanes: LANES, ..base.clone() }, 13)));
        cases.extend([1, 512].map(|n_tokens| case(Spec { d_model: 2560, lanes: LANES, ..base.clone() }, n_tokens)));
        let int8 = Spec { format: Elem::I8, lanes: LANES, ..base.clone() };
        cases.extend([5, 72, 96].map(|d_model| case(Spec { d_model, ..int8.clone() }, 13)));
        cases.push(case(Spec { d_model: 2560, ..int8 }, 1));
        cases.extend([1, 9, 128, 4096].map(|d_model| case(Spec { d_model, ..base.clone() }, 5)));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { vocab, d_model, format, lanes } = self;
        let layout = match lanes {
            1 => Layout::in_panels(1, vocab as u64, d_model as u64, 1),
            _ => panels(1, &[vocab], d_model),
        };
        let mut operands = vec![Operand::ids(0)];
        operands.extend(matrix(format, Weight::of(1, vocab, layout)));
        operands.extend([write("out", d_model, 0), Operand::scalar("tokens", Per::Token)]);
        let bytes = Amount::per_row((d_model * (format.bits() / 8 + 4)) as f64);
        vec![Launch {
            op: "embed",
            symbol: format!("embed_{}_d{d_model}_l{lanes}", format.name()),
            operands,
            cost: Cost { bytes, ..Cost::default() },
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}
