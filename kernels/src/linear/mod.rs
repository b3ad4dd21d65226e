//! Matrix product with packed weights. One row and many rows use the same kernel, the same weights and the same sums.
//!
//! ```text
//! out[r, i] = activation(Σⱼ x[r, j] · weight[i, j] + bias[i])
//! ```
//!
//! Weights are laid out in panels of 16 outputs (`[ceil(n / 16)][k][16]`): vector lanes are outputs, each sum over j runs
//! from 0 to k − 1 in f32, followed by bias and activation. Integer weights: [`crate::cpu::integer`].
//! Bound by memory (the weights once) for few rows, by multiply-adds (2 · rows · n · k) for many.

use jambac_graph::{Activation, Op};

use crate::cases::{Case, case};
use crate::cpu::integer;
use crate::cpu::operand::{matrix, panels, read, vector, write};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Per, Weight, cpu_body, epilogue};
use crate::node::{Node, Reads, Select, SelectError, Selected, Use};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Number of outputs.
    pub n: usize,
    /// Number of inputs.
    pub k: usize,
    /// Stored type of the weights.
    pub format: Elem,
    /// Type of the results: f32, or bf16 on Hopper.
    pub out: Elem,
    /// Whether an f32 bias is added.
    pub bias: bool,
    /// Applied to the sum.
    pub activation: Activation,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let &Op::Linear { activation } = node.op() else { return Err(node.other_op()) };
        let spec = Spec {
            n: node.result_cols(0)?,
            k: node.operand_cols(0)?,
            format: node.format(1, Use::Linear)?,
            out: node.stored_result(0)?,
            bias: node.operands.len() > 2,
            activation,
        };
        Ok(Selected::new(spec, node.rows()?))
    }

    fn reads(_: &Op, _: usize, _: usize) -> Reads {
        Reads::As(Elem::Bf16)
    }

    fn cases() -> Vec<Case> {
        let base = Spec { n: 96, k: 72, format: Elem::Bf16, out: Elem::F32, bias: false, activation: Activation::None };
        let with = |n, k| Spec { n, k, ..base.clone() };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2, 3, 4, 5, 6, 7, 12, 64].map(|n_rows| case(base.clone(), n_rows)));
        // Partial panels, partial groups of panels, fewer panels than threads.
        cases.extend([1, 16, 72, 173].map(|n| case(with(n, base.k), 13)));
        cases.extend([1, 16, 72, 173].map(|n| case(with(n, base.k), 1)));
        // Rows distributed over threads instead of panels.
        cases.push(case(with(5, base.k), 64));
        cases.extend([1, 7, 100].map(|k| case(with(base.n, k), 13)));
        // Several blocks of rows, the last one partial.
        cases.push(case(with(16, 8195), 61));
        cases.extend([Elem::F32, Elem::F16].map(|format| case(Spec { format, ..base.clone() }, 13)));
        cases.push(case(Spec { bias: true, ..base.clone() }, 13));
        cases.extend([1, 13].map(|n_rows| case(Spec { activation: Activation::Silu, ..base.clone() }, n_rows)));
        let softplus = Spec { bias: true, activation: Activation::Softplus, ..base.clone() };
        cases.extend([1, 13].map(|n_rows| case(softplus.clone(), n_rows)));
        cases.push(case(Spec { n: 16, k: 8195, ..softplus.clone() }, 61));
        // dt_proj of Jamba Mini.
        cases.extend([1, 512].map(|n_rows| case(Spec { n: 8192, k: 256, ..softplus.clone() }, n_rows)));
        // Gate of Jamba 3B, in_proj of Jamba Mini, router of Jamba Mini.
        cases.extend([1, 4, 48, 512].map(|n_rows| case(with(8192, 2560), n_rows)));
        cases.extend([1, 48, 512].map(|n_rows| case(with(16384, 4096), n_rows)));
        cases.extend([1, 512].map(|n_rows| case(with(16, 4096), n_rows)));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { n, k, format, bias, activation, .. } = self;
        let mut operands = vec![read("x", k, 0)];
        operands.extend(matrix(format, Weight::of(1, n, panels(1, &[n], k))));
        operands.extend(bias.then(|| vector("bias", n, 2)));
        operands.extend([write("out", n, 0), Operand::scalar("rows", Per::Row)]);
        vec![Launch {
            op: "linear",
            symbol: format!("linear_{}_n{n}_k{k}{}", format.name(), epilogue(bias, activation)),
            operands,
            cost: cost(format, 1, n, k),
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}

/// Cost of `matrices` products with `n` outputs in total and f32 rows: reads the weights and the rows of x once, writes the
/// results once.
pub(crate) fn cost(format: Elem, matrices: usize, n: usize, k: usize) -> Cost {
    let weight = integer::weight_bytes(format, matrices * n, k);
    let products = (matrices * n * k) as f64;
    Cost {
        bytes: Amount { constant: weight, rows: (n + k) as f64 * 4.0, ..Amount::default() },
        operations: Amount::per_row(2.0 * products),
    }
}
