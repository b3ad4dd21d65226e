//! Several matrix products with one input on Hopper: [`crate::hopper::matmul`] with consecutive matrices, each padded to
//! whole blocks of 64 rows, so that a warpgroup's outputs go to one result.
//!
//!     outₚ[r, i] = Σⱼ x[r, j] · weightₚ[i, j]      for every part p; x and out bf16, sums f32
//!
//! Bound like one linear with all outputs: by the weights for few rows, by the tensor cores for many.

use super::Spec;
use crate::hopper::matmul::{self, Batch, Bound, Finish, Product};
use crate::hopper::operand::stacked;
use crate::kernel::{Candidate, Config, Launch, Source, StepSize, Unsupported};

pub(super) fn supports(spec: &Spec) -> Result<(), Unsupported> {
    matmul::supports(spec.format)
}

pub(super) fn configs(spec: &Spec, step: &StepSize) -> Vec<Candidate> {
    matmul::configs(step, spec.sizes.iter().sum(), step.rows)
}

pub(super) fn lower(spec: &Spec, config: Config) -> Vec<Launch> {
    let Spec { sizes, weights, k, format, out } = spec;
    let (k, format, out, finish, batch) = (*k, *format, *out, Finish::SUM, Batch::Dense);
    let product = Product { sizes: sizes.clone(), k, format, out, finish, batch, method: config.into() };
    vec![product.launch(Bound {
        op: "split_linear",
        name: spec.name(),
        weight: stacked(format, 1..1 + weights, sizes, k),
        bias: None,
        x: Source::Operand(0),
        offsets: None,
        outs: (0..sizes.len()).map(Source::Result).collect(),
    })]
}
