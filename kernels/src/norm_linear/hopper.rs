//! A norm, a product and a convolution on Hopper: one launch of [`crate::hopper::matmul`] for the decode entry of one or two
//! sequences; for more, launches of their own.
//!
//! ```text
//! few, normed   one launch: each block norms all rows into shared memory, and convolves the channels that it sums
//! few           the norm, then the product, which convolves
//! tiled         the norm, the product, the convolution
//! ```
//!
//! A block that norms a row reads 8 · k bytes from L2 while its first weights are on their way; all blocks together read 264 times
//! as much, which takes as long as a launch from about three rows on.
//! Bound like the product: by the weights for few rows, by the tensor cores for many.

use super::{CONV_OPERANDS, NORM_OPERANDS, Product, Spec};
use crate::hopper::check_row;
use crate::hopper::matmul::few::NORMED_ROWS;
use crate::hopper::matmul::{self, Fused};
use crate::kernel::{Candidate, Config, Elem, Hopper, Launch, Lowering, Source, StepSize, Unsupported};
use crate::rms_norm;

/// The normed rows, and the first part of in_proj, where they are stored.
const NORMED: Source = Source::Scratch("normed");
const U: Source = Source::Scratch("u");

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        check_row(self.inputs())?;
        match &self.product {
            Product::Split(product) => Lowering::<Hopper>::supports(product),
            Product::Swiglu(product) => Lowering::<Hopper>::supports(product),
            Product::Conv(product, conv) => {
                Lowering::<Hopper>::supports(product)?;
                Lowering::<Hopper>::supports(conv)
            }
        }
    }

    fn configs(&self, step: &StepSize) -> Vec<Candidate> {
        let mut configs = match &self.product {
            Product::Split(product) | Product::Conv(product, _) => Lowering::<Hopper>::configs(product, step),
            Product::Swiglu(product) => Lowering::<Hopper>::configs(product, step),
        };
        let is_few = matmul::choose_few(step);
        configs.insert(
            0,
            match is_few && step.rows <= NORMED_ROWS as u64 {
                true => Candidate::accepted(Config::FewNormed),
                false => Candidate::rejected(Config::FewNormed, format!("each block would norm {} rows", step.rows)),
            },
        );
        configs
    }

    fn lower(&self, config: Config) -> Vec<Launch> {
        let is_tiled = matches!(config, Config::Tiled(_));
        let conv = self.conv().filter(|_| !is_tiled).cloned();
        let norm = (config == Config::FewNormed).then_some(self.eps);
        let after = self.conv().filter(|_| is_tiled).into_iter().flat_map(|conv| {
            let operand = |operand| match operand {
                0 => U,
                parameter => Source::Operand(CONV_OPERANDS + parameter - 1),
            };
            let launches = Lowering::<Hopper>::lower(conv, Config::Only).into_iter();
            launches.map(move |conv| conv.rebound(operand, |_| Source::Result(1)))
        });
        let after: Vec<Launch> = after.collect();
        let fused = Fused { norm, conv };
        let mut outs: Vec<Source> = (0..self.parts()).map(|part| Source::Result(1 + part)).collect();
        if !after.is_empty() {
            outs[0] = U;
        }
        let product = match &self.product {
            Product::Split(product) | Product::Conv(product, _) => {
                product.hopper_product(config, fused).launch(product.bound(NORM_OPERANDS, NORMED, outs))
            }
            Product::Swiglu(product) => {
                product.hopper_product(config, fused).launch(product.bound(NORM_OPERANDS, NORMED, outs))
            }
        };
        let before = if norm.is_none() { self.norm() } else { Vec::new() };
        before.into_iter().chain([product]).chain(after).collect()
    }
}

impl Spec {
    /// Results of the product.
    fn parts(&self) -> usize {
        match &self.product {
            Product::Split(product) | Product::Conv(product, _) => product.sizes.len(),
            Product::Swiglu(_) => 1,
        }
    }

    /// The norm by itself.
    fn norm(&self) -> Vec<Launch> {
        let norm = rms_norm::Spec { cols: self.inputs(), eps: self.eps, residual: true, out: Elem::Bf16 };
        let result = |result| if result == 1 { NORMED } else { Source::Result(result) };
        let launches = Lowering::<Hopper>::lower(&norm, Config::Only).into_iter();
        launches.map(|norm| norm.rebound(Source::Operand, result)).collect()
    }
}
