//! Matrix product of each slot with the weight of its expert, on Hopper: [`crate::hopper::matmul`] with rows sorted by expert.
//!
//!     for every expert e and every row r of offsets[e] … offsets[e + 1]:
//!         out[r, i] = Σⱼ x[r, j] · weight[e, i, j]                           x bf16, sums f32, out f32 or bf16
//!
//! x and out have a row for each slot, in the order of the experts. Bound by the weights of the experts in use, once each, for
//! few tokens, by the tensor cores (2 · slots · n · k operations) for many.

use crate::hopper::matmul::{Batch, Finish, Method, Product, is_product};
use crate::kernel::{Elem, Rows};

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Experts.
    pub n_experts: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Stored type of the weights: bf16 or int8.
    pub format: Elem,
    /// Type of the results: f32 or bf16.
    pub out: Elem,
    /// Slots of a token.
    pub top_k: usize,
    /// What the tokens are.
    pub rows: Rows,
    /// How.
    pub method: Method,
}

impl Spec {
    fn product(&self) -> Product {
        Product {
            sizes: vec![self.n],
            k: self.k,
            format: self.format,
            out: self.out,
            finish: Finish::SUM,
            batch: Batch::Experts { n_experts: self.n_experts, top_k: self.top_k, rows: self.rows },
            method: self.method,
        }
    }

    /// The symbol but for what the product says.
    fn name(&self) -> String {
        format!("grouped_linear_{}_e{}_n{}_k{}", self.format.name(), self.n_experts, self.n, self.k)
    }
}

is_product!();
