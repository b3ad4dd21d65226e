//! Matrix products of one value on Hopper: [`crate::hopper::matmul`] with the matrices one after the other, each padded to whole
//! blocks of 64 rows, so that a warpgroup's outputs go to one place.
//!
//!     outₚ[r, i] = Σⱼ x[r, j] · weightₚ[i, j]      for every part p; x and out bf16, sums f32
//!
//! Bound as a linear of all outputs: by the weights for few rows, by the tensor cores for many.

use crate::hopper::matmul::{Batch, Finish, Method, Product, is_product};
use crate::kernel::{Elem, Rows};

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Outputs of each part, 2 … [`MAX_PARTS`](jambac_graph::op::MAX_PARTS) of them.
    pub sizes: Vec<usize>,
    /// Inputs.
    pub k: usize,
    /// Stored type of the weights: bf16 or int8.
    pub format: Elem,
    /// Type of the results: f32 or bf16.
    pub out: Elem,
    /// What the rows are.
    pub rows: Rows,
    /// How.
    pub method: Method,
}

impl Spec {
    fn product(&self) -> Product {
        Product {
            sizes: self.sizes.clone(),
            k: self.k,
            format: self.format,
            out: self.out,
            finish: Finish::SUM,
            batch: Batch::Dense(self.rows),
            method: self.method,
        }
    }

    /// The symbol but for what the product says.
    fn name(&self) -> String {
        let sizes: Vec<String> = self.sizes.iter().map(usize::to_string).collect();
        format!("split_linear_{}_n{}_k{}", self.format.name(), sizes.join("_"), self.k)
    }
}

is_product!();
