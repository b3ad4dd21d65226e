//! Several matrix products with one input on Hopper: [`crate::hopper::matmul`] with consecutive matrices, each padded to
//! whole blocks of 64 rows, so that a warpgroup's outputs go to one result.
//!
//! ```text
//! outₚ[r, i] = Σⱼ x[r, j] · weightₚ[i, j]      for every part p; x and out bf16, sums f32
//! ```
//!
//! Bound like one linear with all outputs: by the weights for few rows, by the tensor cores for many.

use super::Spec;
use crate::hopper::matmul::{self, Batch, Bound, Finish, Product};
use crate::hopper::operand::stacked;
use crate::kernel::{Candidate, Config, Hopper, Launch, Lowering, Source, StepSize, Unsupported};

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        matmul::supports(self.format)
    }

    fn configs(&self, step: &StepSize) -> Vec<Candidate> {
        matmul::configs(step, self.sizes.iter().sum(), step.rows)
    }

    fn lower(&self, config: Config) -> Vec<Launch> {
        let Spec { sizes, weights, k, format, out } = self;
        let (k, format, out, finish, batch) = (*k, *format, *out, Finish::SUM, Batch::Dense);
        let product = Product { sizes: sizes.clone(), k, format, out, finish, batch, method: config.into() };
        vec![product.launch(Bound {
            op: "split_linear",
            name: self.name(),
            weight: stacked(format, 1..1 + weights, sizes, k),
            bias: None,
            x: Source::Operand(0),
            offsets: None,
            outs: (0..sizes.len()).map(Source::Result).collect(),
        })]
    }
}
