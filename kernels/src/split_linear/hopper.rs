//! Several matrix products with one input on Hopper: [`crate::hopper::matmul`] with consecutive matrices, each padded to
//! whole blocks of 64 rows, so that a warpgroup's outputs go to one result.
//!
//! ```text
//! outₚ[r, i] = Σⱼ x[r, j] · weightₚ[i, j]      for every part p; x and out bf16, sums f32
//! ```
//!
//! Bound like one linear with all outputs: by the weights for few rows, by the tensor cores for many.

use super::Spec;
use crate::hopper::matmul::{self, Batch, Bound, Finish, Fused, Product};
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
        let outs = (0..self.sizes.len()).map(Source::Result).collect();
        vec![self.hopper_product(config, Fused::default()).launch(self.bound(1, Source::Operand(0), outs))]
    }
}

impl Spec {
    pub(crate) fn hopper_product(&self, config: Config, fused: Fused) -> Product {
        let &Spec { k, format, out, .. } = self;
        let (finish, batch) = (Finish::SUM, Batch::Dense);
        Product { sizes: self.sizes.clone(), k, format, out, finish, batch, method: config.into(), fused }
    }

    /// The operands of a node whose weights begin at operand `first`.
    pub(crate) fn bound(&self, first: usize, x: Source, outs: Vec<Source>) -> Bound {
        Bound {
            op: "split_linear",
            name: self.name(),
            weight: stacked(self.format, first..first + self.weights, &self.sizes, self.k),
            bias: None,
            x,
            offsets: None,
            outs,
        }
    }
}
