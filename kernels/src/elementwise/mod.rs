//! Arithmetic on whole rows, element by element.
//!
//! Bound by memory: each operand read once, the result written once.

use crate::kernel::{Cost, Counts, Elem, Param, padded};

/// What is computed from a (and b).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// a / (1 + exp(−a)).
    Silu,
    /// log(1 + exp(a)).
    Softplus,
    /// a + b.
    Add,
    /// a · b.
    Mul,
    /// a · b, where b is one row for all.
    MulRow,
    /// silu(a) · b.
    Swiglu,
}

impl Function {
    /// The name in symbols.
    pub fn name(self) -> &'static str {
        match self {
            Function::Silu => "silu",
            Function::Softplus => "softplus",
            Function::Add => "add",
            Function::Mul => "mul",
            Function::MulRow => "mul_row",
            Function::Swiglu => "swiglu",
        }
    }
}

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The formula.
    pub function: Function,
    /// Columns.
    pub cols: usize,
    /// Rows of one token: experts per token inside a mixture, else 1.
    pub rows_per_token: usize,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("{}_d{}", self.function.name(), self.cols)
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let row = &[padded(self.cols)];
        let mut params = vec![Param::read("a", Elem::F32, row)];
        match self.function {
            Function::Silu | Function::Softplus => {}
            Function::Add | Function::Mul | Function::Swiglu => params.push(Param::read("b", Elem::F32, row)),
            Function::MulRow => params.push(Param::read("b", Elem::F32, &[])),
        }
        params.extend([Param::write_over("out", Elem::F32, row), Param::scalar("rows")]);
        params
    }

    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let elements = (counts.tokens * self.rows_per_token * self.cols) as f64;
        let (streams, flops) = match self.function {
            Function::Silu => (2.0, 4.0),
            Function::Softplus => (2.0, 8.0),
            Function::Add | Function::Mul => (3.0, 1.0),
            Function::MulRow => (2.0, 1.0),
            Function::Swiglu => (3.0, 5.0),
        };
        Cost { bytes: elements * 4.0 * streams, flops: elements * flops }
    }
}
