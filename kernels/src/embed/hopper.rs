//! Rows of the embedding table on Hopper: a block for each token.
//!
//!     out[t, :] = table[ids[t], :]            bf16 to f32, exactly; the table's rows are `row_stride` apart
//!
//! Bound by memory: 2 bytes read and 4 written for each element.
//!
//! 1. the token's row of the table, 8 bytes a thread and vector
//! 2. to f32, 16 bytes a thread and vector

use crate::hopper::{row_stride, row_threads};
use crate::kernel::{Cost, Counts, Elem, Param, Rows};
use jamba_plan::format::Launch;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Columns.
    pub d_model: usize,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("embed_bf16_d{}_sm90", self.d_model)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        vec![
            Param::read("ids", Elem::I32, &[]),
            Param::read("table", Elem::Bf16, &[row_stride(Elem::Bf16, self.d_model)]),
            Param::write("out", Elem::F32, &[row_stride(Elem::F32, self.d_model)]),
            Param::count("tokens"),
        ]
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        Cost { bytes: (counts.tokens * self.d_model) as f64 * 6.0, flops: 0.0 }
    }

    pub(crate) fn launch(&self) -> Launch {
        Launch::along_x(Rows::Tokens.blocks(1), row_threads(self.d_model), 0)
    }
}

#[cfg(feature = "emit")]
use crate::cpu::builder::{Num, Type};
#[cfg(feature = "emit")]
use crate::hopper::{Builder, rows};

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (cols, token) = (spec.d_model, b.block());
    b.if_(token.lt(b.count("tokens")), || {
        let id = b.load(b.at(b.pointer("ids"), token * 4), Type::scalar(Num::I32));
        let from = b.row(b.pointer("table"), id, 2 * row_stride(Elem::Bf16, cols));
        let to = b.row(b.pointer("out"), token, 4 * row_stride(Elem::F32, cols));
        rows::for_each_vector(b, cols, |_, column| {
            // 1. load
            let x = rows::load_bf16(b, from, column);
            // 2. store
            rows::store(b, x, Elem::F32, to, column);
        });
    });
}
