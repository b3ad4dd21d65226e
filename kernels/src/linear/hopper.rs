//! Matrix product on Hopper: [`crate::hopper::matmul`] with one matrix and all rows.
//!
//!     out[r, i] = activation(Σⱼ x[r, j] · weight[i, j] + bias[i])         x bf16, sums f32, out f32 or bf16
//!
//! Bound by the weights (n · k elements, once) for few rows, by the tensor cores (2 · rows · n · k operations) for many.

use jambac_graph::Activation;

use crate::hopper::matmul::{Batch, Finish, Method, Product, is_product};
use crate::kernel::{Elem, Rows};

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Stored type of the weights: bf16 or int8.
    pub format: Elem,
    /// Type of the results: f32 or bf16.
    pub out: Elem,
    /// True when a bias (f32) is added.
    pub bias: bool,
    /// Applied to the sum.
    pub activation: Activation,
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
            out: self.out,
            finish: Finish::Linear { bias: self.bias, activation: self.activation },
            batch: Batch::Dense(self.rows),
            method: self.method,
        }
    }

    /// The symbol but for what the product says.
    fn name(&self) -> String {
        format!("linear_{}_n{}_k{}", self.format.name(), self.n, self.k)
    }
}

is_product!();
