//! Element by element on Hopper: a block for each row. Operands and result are f32 or bf16 each, the arithmetic is f32.
//!
//! Bound by memory: each operand read once, the result written once.
//!
//! 1. load the operands, four columns a thread and vector
//! 2. compute
//! 3. round and store

use super::Function;
use crate::hopper::{row_stride, row_threads};
use crate::kernel::{Cost, Counts, Elem, Param, Rows};
use jamba_plan::format::Launch;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The formula.
    pub function: Function,
    /// Columns.
    pub cols: usize,
    /// Type of the first operand: f32 or bf16.
    pub a: Elem,
    /// Type of the second operand, where there is one: f32 or bf16; of a row for all f32.
    pub b: Option<Elem>,
    /// Type of the result: f32 or bf16.
    pub out: Elem,
    /// What the rows belong to.
    pub rows: Rows,
    /// Rows of one of these: experts per token inside a mixture, else 1.
    pub per_row: usize,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        let types: Vec<&str> = [Some(self.a), self.b, Some(self.out)].into_iter().flatten().map(Elem::name).collect();
        format!("{}_{}_d{}_sm90", self.function.name(), types.join("_"), self.cols)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = |elem: Elem| vec![row_stride(elem, self.cols)];
        let second = self.b.map(|elem| match self.function {
            Function::MulRow => Param::read("b", elem, &[]),
            _ => Param::read("b", elem, &row(elem)),
        });
        let first = Param::read("a", self.a, &row(self.a));
        let result = [Param::write("out", self.out, &row(self.out)), Param::count("rows")];
        [first].into_iter().chain(second).chain(result).collect()
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let elements = (self.rows.count(counts) * self.per_row * self.cols) as f64;
        let second = self.b.filter(|_| self.function != Function::MulRow);
        let bytes: usize = [Some(self.a), second, Some(self.out)].into_iter().flatten().map(Elem::bytes).sum();
        let flops = match self.function {
            Function::Silu => 4.0,
            Function::Softplus => 8.0,
            Function::Add | Function::Mul | Function::MulRow => 1.0,
            Function::Swiglu => 5.0,
        };
        Cost { bytes: elements * bytes as f64, flops: elements * flops }
    }

    pub(crate) fn launch(&self) -> Launch {
        Launch::along_x(self.rows.blocks_of(self.per_row as u32, 1), row_threads(self.cols), 0)
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
                Function::Silu => rows::map(b, x, |x| b.silu(x)),
                Function::Softplus => rows::map(b, x, |x| b.softplus(x)),
                Function::Add => x + other(),
                Function::Mul | Function::MulRow => x * other(),
                Function::Swiglu => rows::map(b, x, |x| b.silu(x)) * other(),
            };
            // 3. store
            rows::store(b, y, spec.out, row_of("out", spec.out), column);
        });
    });
}
