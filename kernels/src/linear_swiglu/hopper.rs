//! Gate and up of a feed-forward, and their product, on Hopper: [`crate::hopper::matmul`] with rows of gate and of up interleaved,
//! so that one thread has both sums.
//!
//!     out[r, i] = silu(Σⱼ x[r, j] · gate[i, j]) · Σⱼ x[r, j] · up[i, j]      x and out bf16, sums f32
//!
//! Bound as two linears: by the weights (2 · n · k elements, once) for few rows, by the tensor cores (4 · rows · n · k
//! operations) for many.

use crate::hopper::matmul::{Batch, Finish, Method, Product, is_product};
use crate::kernel::{Elem, Rows};

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Outputs, as many as gate and up have rows.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Stored type of both weights: bf16 or int8.
    pub format: Elem,
    /// What the rows are.
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
            batch: Batch::Dense(self.rows),
            method: self.method,
        }
    }

    /// The symbol but for what the product says.
    fn name(&self) -> String {
        format!("linear_swiglu_{}_n{}_k{}", self.format.name(), self.n, self.k)
    }
}

is_product!();
