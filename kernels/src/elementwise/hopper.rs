//! Elementwise arithmetic on Hopper: one block per row. Operands and result are each f32 or bf16; the arithmetic is f32.
//!
//! Bound by memory: each operand read once, the result written once.
//!
//! 1. load the operands, four columns per thread and vector
//! 2. compute
//! 3. round and store

use super::{Function, Spec};
use crate::hopper::operand::{read, vector, write};
#[cfg(feature = "emit")]
use crate::hopper::row_stride;
use crate::hopper::row_threads;
use crate::kernel::{Blocks, Config, Elem, Grid, Hopper, Launch, Lowering, Operand, Per, hopper_body};

impl Lowering<Hopper> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { function, cols, a, b, out } = self;
        let types: Vec<&str> = [Some(a), b, Some(out)].into_iter().flatten().map(Elem::name).collect();
        let mut operands = vec![read("a", a, cols, 0)];
        operands.extend(b.map(|elem| match function {
            Function::MulRow => vector("b", cols, 1),
            _ => read("b", elem, cols, 1),
        }));
        operands.extend([write("out", out, cols, 0), Operand::count("rows", Per::Row)]);
        vec![Launch {
            op: "elementwise",
            symbol: format!("{}_{}_d{cols}_sm90", function.name(), types.join("_")),
            operands,
            cost: self.cost(),
            grid: Some(Grid::along_x(Blocks::of_rows(1), row_threads(cols), 0)),
            body: hopper_body!(self, emit),
        }]
    }
}

#[cfg(feature = "emit")]
use crate::hopper::{Builder, rows};

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (cols, row) = (spec.cols, b.block());
    b.if_(row.lt(b.count("rows")), || {
        let row_of = |name: &str, elem: Elem| b.row(b.pointer(name), row, elem.bytes() * row_stride(elem, cols));
        rows::for_each_vector(b, cols, |_, column| {
            // 1. load
            let x = rows::load(b, spec.a, row_of("a", spec.a), column);
            let other = || match (spec.function, spec.b) {
                (Function::MulRow, _) => rows::load_dense(b, b.pointer("b"), cols, column),
                (_, elem) => {
                    let elem = elem.expect("a function of two operands has their types");
                    rows::load(b, elem, row_of("b", elem), column)
                }
            };
            // 2. compute
            let y = match spec.function {
                Function::Silu => rows::map(x, |x| b.silu(x)),
                Function::Softplus => rows::map(x, |x| b.softplus(x)),
                Function::Add => x + other(),
                Function::Mul | Function::MulRow => x * other(),
                Function::Swiglu => rows::map(x, |x| b.silu(x)) * other(),
            };
            // 3. store
            rows::store(b, y, spec.out, row_of("out", spec.out), column);
        });
    });
}
