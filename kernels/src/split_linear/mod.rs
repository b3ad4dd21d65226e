//! Several matrix products with one input and separate results: the two halves of in_proj; queries, keys and values.
//!
//! ```text
//! outₚ[r, i] = Σⱼ x[r, j] · weightₚ[i, j]      for every part p
//! ```
//!
//! Weights have the panels of [`crate::linear`], part after part, each part padded to whole panels: no panel holds outputs
//! of two parts. The panels of all parts are distributed together, and every sum is bit-identical to that of a linear of
//! its part alone.
//! Bound like one linear with all outputs: by the weights for few rows, by multiply-adds for many.

use jambac_graph::{Op, op::MAX_PARTS};

use crate::cases::{Case, case};
use crate::cpu::operand::{matrix, panels, read, write};
use crate::kernel::{Config, Cpu, Elem, Launch, Lowering, Operand, Per, Weight, cpu_body};
use crate::linear;
use crate::node::{Node, Reads, Select, SelectError, Selected, Use};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

/// The slots of the parts' results.
pub const OUTS: [&str; MAX_PARTS] = ["out0", "out1", "out2", "out3"];

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Outputs of each part; 1 … [`MAX_PARTS`] parts.
    pub sizes: Vec<usize>,
    /// The node's weight operands are 1 … `weights`; no part spans two of them.
    pub weights: usize,
    /// Number of inputs.
    pub k: usize,
    /// Stored type of the weights.
    pub format: Elem,
    /// Type of the results: f32, or bf16 on Hopper.
    pub out: Elem,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let Op::SplitLinear { sizes } = node.op() else { return Err(node.other_op()) };
        let spec = Spec {
            sizes: sizes.clone(),
            weights: node.operands.len() - 1,
            k: node.operand_cols(0)?,
            format: node.format(1, Use::Linear)?,
            out: node.stored_result(0)?,
        };
        Ok(Selected::new(spec, node.rows()?))
    }

    fn reads(_: &Op, _: usize, _: usize) -> Reads {
        Reads::As(Elem::Bf16)
    }

    fn cases() -> Vec<Case> {
        let base = Spec { sizes: vec![72, 24, 24], weights: 3, k: 72, format: Elem::Bf16, out: Elem::F32 };
        let with = |sizes: &[usize]| Spec { sizes: sizes.to_vec(), weights: sizes.len(), ..base.clone() };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2, 3, 4, 5, 6, 7, 12, 64].map(|n_rows| case(base.clone(), n_rows)));
        // One to four results; parts of less than a panel, of whole panels, of a panel and a remainder.
        let several: [&[usize]; 6] = [&[40], &[48, 48], &[1, 5, 5], &[173, 16], &[17, 1, 33, 16], &[5, 72]];
        cases.extend(several.map(|sizes| case(with(sizes), 13)));
        cases.extend(several.map(|sizes| case(with(sizes), 1)));
        // Rows distributed over threads instead of panels.
        cases.push(case(with(&[5, 16]), 64));
        cases.extend([1, 7, 100].map(|k| case(Spec { k, ..base.clone() }, 13)));
        cases.push(case(Spec { k: 8195, ..with(&[5, 16]) }, 61));
        cases.extend([Elem::F32, Elem::F16].map(|format| case(Spec { format, ..base.clone() }, 13)));
        // in_proj and attention of Jamba Mini.
        let mini = |sizes: &[usize]| Spec { k: 4096, ..with(sizes) };
        cases.extend([1, 512].map(|n_rows| case(mini(&[8192, 8192]), n_rows)));
        cases.extend([1, 512].map(|n_rows| case(mini(&[4096, 1024, 1024]), n_rows)));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let Spec { sizes, weights, k, format, .. } = self;
        let mut weight = Weight::of(1, 0, panels(1, sizes, *k));
        (weight.operands, weight.sizes) = (1..1 + weights, sizes.clone());
        let mut operands = vec![read("x", *k, 0)];
        operands.extend(matrix(*format, weight));
        operands.extend(OUTS.iter().zip(sizes).enumerate().map(|(part, (name, &n))| write(name, n, part)));
        operands.push(Operand::scalar("rows", Per::Row));
        vec![Launch {
            op: "split_linear",
            symbol: self.name(),
            operands,
            cost: linear::cost(*format, 1, sizes.iter().sum(), *k),
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}

impl Spec {
    /// The target-independent part of the symbol.
    fn name(&self) -> String {
        let sizes: Vec<String> = self.sizes.iter().map(usize::to_string).collect();
        format!("split_linear_{}_n{}_k{}", self.format.name(), sizes.join("_"), self.k)
    }
}
