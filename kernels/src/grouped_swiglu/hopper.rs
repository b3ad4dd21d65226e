//! Swiglu of each slot with its expert's gate and up on Hopper: [`crate::hopper::matmul`] with rows sorted by expert, and
//! gate and up of an expert interleaved.
//!
//! ```text
//! for every expert e and every row r of offsets[e] … offsets[e + 1]:
//!     out[r, i] = silu(Σⱼ x[r, j] · gate[e, i, j]) · Σⱼ x[r, j] · up[e, i, j]       x and out bf16, sums f32
//! ```
//!
//! x and out have one row per slot, in the order of the experts. Bound by the weights of the experts in use, read once
//! each, for few tokens; by the tensor cores (4 · slots · n · k operations) for many.

use super::Spec;
use crate::hopper::matmul::{self, Batch, Bound, Finish, Fused, Product};
use crate::hopper::operand::gate_and_up;
use crate::kernel::{Candidate, Config, Elem, Hopper, Launch, Lowering, Source, StepSize, Unsupported};
use crate::moe_gather;

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        match self.slots_per_row == self.top_k {
            true => matmul::supports(self.format),
            false => Err(Unsupported("x has a row per slot, expected a row per token on sm_90a".into())),
        }
    }

    fn configs(&self, step: &StepSize) -> Vec<Candidate> {
        let &Spec { n_experts, n, top_k, .. } = self;
        matmul::configs(step, n_experts * 2 * n, (step.rows * top_k as u64).div_ceil(n_experts as u64))
    }

    fn lower(&self, config: Config) -> Vec<Launch> {
        let &Spec { n_experts, n, k, format, top_k, .. } = self;
        let (finish, batch) = (Finish::Swiglu, Batch::Experts { n_experts, top_k });
        let (method, fused) = (config.into(), Fused::default());
        let product = Product { sizes: vec![n], k, format, out: Elem::Bf16, finish, batch, method, fused };
        let product = product.launch(Bound {
            op: "grouped_swiglu",
            name: format!("grouped_swiglu_{}_e{n_experts}_n{n}_k{k}", format.name()),
            weight: gate_and_up(format, n_experts, 1..3, n, k),
            bias: None,
            x: moe_gather::GATHERED,
            offsets: Some(4),
            outs: vec![Source::Result(0)],
        });
        vec![moe_gather::Spec { cols: k, top_k }.launch(3), product]
    }
}
