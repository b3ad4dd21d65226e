//! Weighted sum of each token's experts on Hopper: a block for each token.
//!
//!     out[t, i] = Σⱼ weights[t, j] · y[p, i]       p = sorted position of slot t · top_k + j, j from 0 to top_k − 1
//!
//! y is in the order of [`crate::moe_gather::hopper`]; `slots` are those of [`crate::moe_route::hopper`].
//! Bound by memory: top_k rows of f32 read and one written for each token.
//!
//! 1. the addresses of the token's products, and their weights
//! 2. the first, and the others added in their order

use crate::hopper::{row_stride, row_threads};
use crate::kernel::{Cost, Counts, Elem, Param, Rows};
use jamba_plan::format::Launch;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns.
    pub cols: usize,
    /// Experts per token.
    pub top_k: usize,
    /// What the tokens are.
    pub rows: Rows,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("moe_combine_d{}_k{}_sm90", self.cols, self.top_k)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = &[row_stride(Elem::F32, self.cols)];
        vec![
            Param::read("y", Elem::F32, row),
            Param::read("weights", Elem::F32, &[row_stride(Elem::F32, self.top_k)]),
            Param::read("slots", Elem::I32, &[2]),
            Param::write("out", Elem::F32, row),
            Param::count("rows"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let elements = (self.rows.count(counts) * self.cols) as f64;
        let top_k = self.top_k as f64;
        Cost { bytes: elements * 4.0 * (top_k + 1.0), flops: elements * 2.0 * top_k }
    }

    pub(crate) fn launch(&self) -> Launch {
        Launch::along_x(self.rows.blocks(1), row_threads(self.cols), 0)
    }
}

#[cfg(feature = "emit")]
use crate::cpu::builder::{Num, Type};
#[cfg(feature = "emit")]
use crate::hopper::{Builder, COLUMNS, rows};

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (cols, top_k, token) = (spec.cols, spec.top_k, b.block());
    let stride = 4 * row_stride(Elem::F32, cols);
    b.if_(token.lt(b.count("rows")), || {
        // 1. addresses
        let weights = b.row(b.pointer("weights"), token, 4 * row_stride(Elem::F32, top_k));
        let slots = b.row(b.pointer("slots"), token, 8 * top_k);
        let terms: Vec<_> = (0..top_k)
            .map(|j| {
                let weight = b.load(b.at_byte(weights, 4 * j), Type::scalar(Num::F32));
                let place = b.load(b.at_byte(slots, 8 * j + 4), Type::scalar(Num::I32));
                (weight.broadcast(COLUMNS), b.row(b.pointer("y"), place, stride))
            })
            .collect();
        // 2. sum
        let out = b.row(b.pointer("out"), token, stride);
        rows::for_each_vector(b, cols, |_, column| {
            let mut products = terms.iter().map(|&(weight, row)| (weight, rows::load_f32(b, row, column)));
            let (weight, y) = products.next().expect("an expert at least");
            let sum = products.fold(weight * y, |sum, (weight, y)| weight.mul_add(y, sum));
            rows::store(b, sum, Elem::F32, out, column);
        });
    });
}
