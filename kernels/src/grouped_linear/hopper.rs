//! Matrix product of each slot with its expert's weight on Hopper: [`crate::hopper::matmul`] with rows sorted by expert.
//!
//! ```text
//! for every expert e and every row r of offsets[e] … offsets[e + 1]:
//!     out[r, i] = Σⱼ x[r, j] · weight[e, i, j]                           x bf16, sums f32, out f32 or bf16
//! ```
//!
//! x and out have one row per slot, in the order of the experts. Bound by the weights of the experts in use, read once
//! each, for few tokens; by the tensor cores (2 · slots · n · k operations) for many.

use super::Spec;
use crate::hopper::matmul::{self, Batch, Bound, Finish, Fused, Product};
use crate::hopper::operand::experts;
use crate::kernel::{Candidate, Config, Hopper, Launch, Lowering, Source, StepSize, Unsupported};
use crate::moe_gather;

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        matmul::supports(self.format)
    }

    fn configs(&self, step: &StepSize) -> Vec<Candidate> {
        let &Spec { n_experts, n, top_k, .. } = self;
        matmul::configs(step, n_experts * n, (step.rows * top_k as u64).div_ceil(n_experts as u64))
    }

    fn lower(&self, config: Config) -> Vec<Launch> {
        let &Spec { k, slots_per_row, top_k, .. } = self;
        if slots_per_row == 1 {
            return vec![product(self, config, 3, Source::Operand(0), Source::Result(0))];
        }
        // Rows in token order are sorted by expert first.
        let gather = moe_gather::Spec { cols: k, top_k };
        vec![gather.launch(2), product(self, config, 3, moe_gather::GATHERED, Source::Result(0))]
    }
}

/// The product of rows that are sorted by expert; `offsets` is the operand with the experts' row offsets.
pub(crate) fn product(spec: &Spec, config: Config, offsets: usize, x: Source, out: Source) -> Launch {
    let &Spec { n_experts, n, k, format, out: elem, top_k, .. } = spec;
    let (finish, batch) = (Finish::SUM, Batch::Experts { n_experts, top_k });
    let (method, fused) = (config.into(), Fused::default());
    let product = Product { sizes: vec![n], k, format, out: elem, finish, batch, method, fused };
    product.launch(Bound {
        op: "grouped_linear",
        name: format!("grouped_linear_{}_e{n_experts}_n{n}_k{k}", format.name()),
        weight: experts(format, 1, n_experts, n, k),
        bias: None,
        x,
        offsets: Some(offsets),
        outs: vec![out],
    })
}
