//! The k largest elements of each row, largest first; ties are broken by lowest index. Not renormalised.
//!
//! Bound by latency: rows are short (the experts of a router).

use jambac_graph::Op;

use crate::cases::{Case, case, routers};
use crate::cpu::operand::{read, write};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Param, Per, cpu_body};
use crate::node::{Node, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    pub cols: usize,
    /// Number of elements taken.
    pub k: usize,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let &Op::TopK { k } = node.op() else { return Err(node.other_op()) };
        Ok(Selected::new(Spec { cols: node.operand_cols(0)?, k }, node.rows()?))
    }

    fn cases() -> Vec<Case> {
        let base = Spec { cols: 16, k: 2 };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
        cases.extend([4, 5, 17].map(|cols| case(Spec { cols, ..base.clone() }, 13)));
        cases.extend([1, 3, 16].map(|k| case(Spec { k, ..base.clone() }, 13)));
        cases.extend(routers().map(|(cols, k, n_tokens)| case(Spec { cols, k }, n_tokens)));
        cases.push(case(base, 512));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { cols, k } = self;
        vec![Launch {
            op: "top_k",
            symbol: format!("top_{k}_d{cols}"),
            operands: vec![
                read("p", cols, 0),
                write("weights", k, 0),
                Operand::output(Param::write("experts", Elem::I32, &[k]), 1),
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
        let (cols, k) = (self.cols as f64, self.k as f64);
        Cost { bytes: Amount::per_row((cols + 2.0 * k) * 4.0), operations: Amount::per_row(cols * k) }
    }
}
