//! Weighted sum of each token's experts on Hopper, in two launches: the products of [`crate::grouped_linear`] in f32,
//! followed by the sum of [`crate::moe_combine`].

use super::Spec;
use crate::grouped_linear;
use crate::hopper::matmul;
use crate::kernel::{Candidate, Config, Elem, Hopper, Launch, Lowering, Source, StepSize, Unsupported};
use crate::moe_combine;

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        matmul::supports(self.format)
    }

    fn configs(&self, step: &StepSize) -> Vec<Candidate> {
        let &Spec { n_experts, n, top_k, .. } = self;
        matmul::configs(step, n_experts * n, (step.rows * top_k as u64).div_ceil(n_experts as u64))
    }

    fn lower(&self, config: Config) -> Vec<Launch> {
        let &Spec { n_experts, n, k, format, top_k } = self;
        let y = Source::Scratch("products");
        let product = grouped_linear::Spec { n_experts, n, k, format, out: Elem::F32, slots_per_row: 1, top_k };
        let sum = moe_combine::Spec { cols: n, top_k };
        vec![
            grouped_linear::hopper::product(&product, config, 4, Source::Operand(0), y.clone()),
            moe_combine::hopper::launch(&sum, y, Source::Operand(2), Source::Operand(3)),
        ]
    }
}
