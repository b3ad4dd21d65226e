//! Gate, up and their product, of each slot with the weights of its expert, on Hopper: [`crate::hopper::matmul`] with rows sorted
//! by expert, and gate and up of an expert interleaved.
//!
//!     for every expert e and every row r of offsets[e] … offsets[e + 1]:
//!         out[r, i] = silu(Σⱼ x[r, j] · gate[e, i, j]) · Σⱼ x[r, j] · up[e, i, j]       x and out bf16, sums f32
//!
//! x and out have a row for each slot, in the order of the experts. Bound by the weights of the experts in use, once each, for
//! few tokens, by the tensor cores (4 · slots · n · k operations) for many.

use crate::hopper::matmul::{Batch, Finish, Method, Product, is_product};
use crate::kernel::{Elem, Rows};

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Experts.
    pub n_experts: usize,
    /// Outputs, as many as gate and up of an expert have rows.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Stored type of the weights: bf16 or int8.
    pub format: Elem,
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
            out: Elem::Bf16,
            finish: Finish::Swiglu,
            batch: Batch::Experts { n_experts: self.n_experts, top_k: self.top_k, rows: self.rows },
            method: self.method,
        }
    }

    /// The symbol but for what the product says.
    fn name(&self) -> String {
        format!("grouped_swiglu_{}_e{}_n{}_k{}", self.format.name(), self.n_experts, self.n, self.k)
    }
}

is_product!();
