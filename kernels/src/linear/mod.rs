//! Matrix product with packed weights: the same kernel, the same weights and the same sums for one row and for many.
//!
//!     out[r, i] = activation(Σⱼ x[r, j] · weight[i, j] + bias[i])
//!
//! Weights lie in panels of 16 outputs (`[ceil(n / 16)][k][16]`): vector lanes are outputs, the sum over j runs from 0 to
//! k − 1 in f32 for each of them, bias and activation follow.
//! Weights of integers: [`crate::cpu::integer`].
//! Bound by memory (the weights once) for few rows, by multiply-adds (2 · rows · n · k) for many.

use crate::cpu::integer;
use crate::kernel::{Cost, Counts, Elem, Param, Rows, epilogue, padded};
use jambac_graph::Activation;

pub mod hopper;

#[cfg(feature = "emit")]
pub(crate) mod cpu;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Stored type of the weights.
    pub format: Elem,
    /// True when a bias (f32, padded to whole vectors) follows the weight.
    pub bias: bool,
    /// Applied to the sum.
    pub activation: Activation,
    /// What the rows are.
    pub rows: Rows,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        let epilogue = epilogue(self.bias, self.activation);
        format!("linear_{}_n{}_k{}{epilogue}", self.format.name(), self.n, self.k)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let mut params = vec![Param::read("x", Elem::F32, &[padded(self.k)]), Param::read("weight", self.format, &[])];
        params.extend(integer::scales(self.format));
        if self.bias {
            params.push(Param::read("bias", Elem::F32, &[]));
        }
        params.extend([Param::write("out", Elem::F32, &[padded(self.n)]), Param::scalar("rows")]);
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let rows = self.rows.count(counts) as f64;
        let (n, k) = (self.n as f64, self.k as f64);
        let weight = integer::weight_bytes(self.format, self.n, self.k);
        Cost { bytes: weight + rows * (n + k) * 4.0, flops: 2.0 * rows * n * k }
    }
}
