//! Elementwise arithmetic on CPUs: each thread processes a range of vectors.
//!
//! 1. for each vector: load the operands
//! 2. compute
//! 3. store

use super::{Function, Spec};
use crate::cpu::builder::Builder;
use crate::cpu::math;
use crate::cpu::rows::for_each_vector;
use crate::kernel::LANES;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    for_each_vector(b, b.scalar("rows"), spec.cols, |row, column| {
        // 1. load
        let x = b.load_vector(b.buffer("a"), (row, column), LANES);
        let other = || b.load_vector(b.buffer("b"), (row, column), LANES);
        // 2. compute
        let y = match spec.function {
            Function::Silu => math::silu(x),
            Function::Softplus => math::softplus(x),
            Function::Add => x + other(),
            Function::Mul => x * other(),
            Function::MulRow => x * b.load_vector(b.buffer("b"), column, LANES),
            Function::Swiglu => math::swiglu(x, other()),
        };
        // 3. store
        b.store(y, b.buffer("out"), (row, column));
    });
}
