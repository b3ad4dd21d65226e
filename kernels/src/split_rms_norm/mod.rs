//! Separate RMS norms (arXiv 1910.07467) of the parts of a row.
//!
//! ```text
//! out_p[r, i] = x[r, start_p + i] · weight_p[i] / sqrt(mean(part²) + eps)       part = x[r, start_p … start_p + cols_p]
//! ```
//!
//! Bound by memory: each row read once and written once.

use jambac_graph::{Op, op::MAX_PARTS};

use crate::cases::{Case, case};
use crate::cpu::operand::{read, vector, write};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Per, Unsupported, cpu_body};
use crate::node::{Node, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub(crate) mod hopper;

/// Slot names per part: weight and result.
const SLOTS: [(&str, &str); MAX_PARTS] =
    [("weight_0", "out_0"), ("weight_1", "out_1"), ("weight_2", "out_2"), ("weight_3", "out_3")];

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Columns of each part and the element type of its result, in order; at most [`MAX_PARTS`].
    pub parts: Vec<(usize, Elem)>,
    /// Added to the means of squares.
    pub eps: f64,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let &Op::SplitRmsNorm { eps } = node.op() else { return Err(node.other_op()) };
        let part = |part: usize| Ok((node.result_cols(part)?, node.stored_result(part)?));
        let parts = (0..node.operands.len() - 1).map(part).collect::<Result<_, SelectError>>()?;
        Ok(Selected::new(Spec { parts, eps }, node.rows()?))
    }

    fn cases() -> Vec<Case> {
        let in_f32 = |parts: &[usize]| parts.iter().map(|&cols| (cols, Elem::F32)).collect();
        let base = Spec { parts: in_f32(&[7, 5, 5]), eps: 1e-6 };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
        let parts: [&[usize]; 4] = [&[1, 1, 1], &[160, 16, 16], &[16, 33], &[3, 20, 1, 8]];
        cases.extend(parts.map(|parts| case(Spec { parts: in_f32(parts), ..base.clone() }, 13)));
        cases.push(case(Spec { eps: 1e-2, ..base.clone() }, 13));
        // Δ, B and C of Jamba Mini and 3B, mixed result types, one part.
        let (f32, bf16) = (Elem::F32, Elem::Bf16);
        let parts: [&[(usize, Elem)]; 4] = [
            &[(256, bf16), (16, f32), (16, f32)],
            &[(160, bf16), (16, f32), (16, f32)],
            &[(7, bf16), (33, f32), (1, bf16)],
            &[(512, f32)],
        ];
        cases.extend(parts.map(|parts| case(Spec { parts: parts.to_vec(), ..base.clone() }, 6)));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        self.check_parts()
    }

    fn lower(&self, _: Config) -> Vec<Launch> {
        let parts = || self.slots().iter().zip(&self.parts).enumerate();
        let mut operands = vec![read("x", self.cols(), 0)];
        operands.extend(parts().map(|(part, (&(weight, _), &(cols, _)))| vector(weight, cols, 1 + part)));
        operands.extend(parts().map(|(part, (&(_, out), &(cols, _)))| write(out, cols, part)));
        operands.push(Operand::scalar("rows", Per::Row));
        let names: Vec<String> = self.parts.iter().map(|(cols, _)| cols.to_string()).collect();
        let cols = self.cols() as f64;
        vec![Launch {
            op: "split_rms_norm",
            symbol: format!("split_rms_norm_d{}_e{:x}", names.join("_"), (self.eps as f32).to_bits()),
            operands,
            cost: Cost { bytes: Amount::per_row(cols * 8.0), operations: Amount::per_row(cols * 4.0) },
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}

impl Spec {
    fn check_parts(&self) -> Result<(), Unsupported> {
        match self.parts.len() {
            ..=MAX_PARTS => Ok(()),
            n => Err(Unsupported(format!("found {n} parts, expected at most {MAX_PARTS}"))),
        }
    }

    /// The slots of the parts in order: weight and result.
    pub fn slots(&self) -> &'static [(&'static str, &'static str)] {
        &SLOTS[..self.parts.len()]
    }

    fn cols(&self) -> usize {
        self.parts.iter().map(|&(cols, _)| cols).sum()
    }
}
