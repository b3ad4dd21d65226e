//! Embedding lookup on Hopper: one block per token.
//!
//! ```text
//! out[t, :] = table[ids[t], :]            bf16 to f32, exact; the table's row stride is `row_stride`
//! ```
//!
//! Bound by memory: 2 bytes read and 4 written per element.
//!
//! 1. load the token's row of the table, 8 bytes per thread and vector
//! 2. store as f32, 16 bytes per thread and vector

use super::Spec;
use crate::hopper::operand::{matrix, write};
use crate::hopper::{row_stride, row_threads};
use crate::kernel::{
    Amount, Blocks, Config, Cost, Elem, Grid, Hopper, Launch, Lowering, Operand, Param, Per, Unsupported, hopper_body,
};

impl Lowering<Hopper> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        match self.format {
            Elem::Bf16 => Ok(()),
            found => Err(Unsupported(format!("the table is {}, expected bf16 on sm_90a", found.name()))),
        }
    }

    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { vocab, d_model, .. } = self;
        let mut table = Operand::weight("table", Elem::Bf16, matrix(Elem::Bf16, 1, vocab, d_model));
        table.param = Param::read("table", Elem::Bf16, &[row_stride(Elem::Bf16, d_model)]);
        vec![Launch {
            op: "embed",
            symbol: format!("embed_bf16_d{d_model}_sm90"),
            operands: vec![
                Operand::ids(0),
                table,
                write("out", Elem::F32, d_model, 0),
                Operand::count("tokens", Per::Token),
            ],
            cost: Cost { bytes: Amount::per_row(d_model as f64 * 6.0), ..Cost::default() },
            grid: Some(Grid::along_x(Blocks::of_rows(1), row_threads(d_model), 0).reading_after(2)),
            body: hopper_body!(self, emit),
        }]
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
