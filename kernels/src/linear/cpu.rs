//! Matrix product on CPUs: all rows with all panels ([`crate::cpu::whole`]).
//!
//! 1. sum
//! 2. add the bias, apply the activation, store

use super::Spec;
use crate::cpu::builder::{Builder, Value};
use crate::cpu::{math, product::n_panels, whole};
use crate::kernel::LANES;
use jambac_graph::Activation;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (out, bias) = (b.buffer("out"), spec.bias.then(|| b.buffer("bias")));
    // 2. bias, activation, store
    let store = |row: Value, panel: Value, sums: &[Value]| {
        let column = panel * LANES;
        let sum = bias.map_or(sums[0], |bias| sums[0] + b.load_vector(bias, column, LANES));
        let result = match spec.activation {
            Activation::None => sum,
            Activation::Silu => math::silu(sum),
            Activation::Softplus => math::softplus(sum),
        };
        b.store(result, out, (row, column));
    };
    // 1. sum
    let n_units = n_panels(spec.n);
    let product = whole::Product { k: spec.k, format: spec.format, norm: None, unit: 1, n_units, store: &store };
    whole::emit(b, &product);
}
