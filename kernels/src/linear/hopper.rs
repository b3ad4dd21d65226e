//! Matrix product on Hopper: [`crate::hopper::matmul`] with one matrix and all rows.
//!
//! ```text
//! out[r, i] = activation(Σⱼ x[r, j] · weight[i, j] + bias[i])         x bf16, sums f32, out f32 or bf16
//! ```
//!
//! Bound by the weights (n · k elements, read once) for few rows; by the tensor cores (2 · rows · n · k operations) for
//! many.

use super::Spec;
use crate::hopper::matmul::{self, Batch, Bound, Finish, Fused, Product};
use crate::hopper::operand::matrix;
use crate::kernel::{Candidate, Config, Hopper, Launch, Lowering, Source, StepSize, Unsupported};

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        matmul::supports(self.format)
    }

    fn configs(&self, step: &StepSize) -> Vec<Candidate> {
        matmul::configs(step, self.n, step.rows)
    }

    fn lower(&self, config: Config) -> Vec<Launch> {
        let &Spec { n, k, format, out, bias, activation } = self;
        let finish = Finish::Linear { bias, activation };
        let (method, fused) = (config.into(), Fused::default());
        let product = Product { sizes: vec![n], k, format, out, finish, batch: Batch::Dense, method, fused };
        vec![product.launch(Bound {
            op: "linear",
            name: format!("linear_{}_n{n}_k{k}", format.name()),
            weight: matrix(format, 1, n, k),
            bias: bias.then_some(2),
            x: Source::Operand(0),
            offsets: None,
            outs: vec![Source::Result(0)],
        })]
    }
}
