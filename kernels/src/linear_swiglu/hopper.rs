//! Gate and up of a feed-forward fused with their product on Hopper: [`crate::hopper::matmul`] with interleaved rows of
//! gate and up, so that one thread has both sums.
//!
//! ```text
//! out[r, i] = silu(Σⱼ x[r, j] · gate[i, j]) · Σⱼ x[r, j] · up[i, j]      x and out bf16, sums f32
//! ```
//!
//! Bound like two linears: by the weights (2 · n · k elements, read once) for few rows; by the tensor cores (4 · rows · n ·
//! k operations) for many.

use super::Spec;
use crate::hopper::matmul::{self, Batch, Bound, Finish, Fused, Product};
use crate::hopper::operand::gate_and_up;
use crate::kernel::{Candidate, Config, Elem, Hopper, Launch, Lowering, Source, StepSize, Unsupported};

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        matmul::supports(self.format)
    }

    fn configs(&self, step: &StepSize) -> Vec<Candidate> {
        matmul::configs(step, 2 * self.n, step.rows)
    }

    fn lower(&self, config: Config) -> Vec<Launch> {
        let bound = self.bound(1, Source::Operand(0), vec![Source::Result(0)]);
        vec![self.hopper_product(config, Fused::default()).launch(bound)]
    }
}

impl Spec {
    pub(crate) fn hopper_product(&self, config: Config, fused: Fused) -> Product {
        let &Spec { n, k, format } = self;
        let (finish, batch) = (Finish::Swiglu, Batch::Dense);
        Product { sizes: vec![n], k, format, out: Elem::Bf16, finish, batch, method: config.into(), fused }
    }

    /// The operands of a node whose weights begin at operand `first`.
    pub(crate) fn bound(&self, first: usize, x: Source, outs: Vec<Source>) -> Bound {
        let &Spec { n, k, format } = self;
        Bound {
            op: "linear_swiglu",
            name: format!("linear_swiglu_{}_n{n}_k{k}", format.name()),
            weight: gate_and_up(format, 1, first..first + 2, n, k),
            bias: None,
            x,
            offsets: None,
            outs,
        }
    }
}
