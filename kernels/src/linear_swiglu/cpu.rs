//! Gate, up and their product on a CPU: every row with every panel of gate and its panel of up ([`crate::linear::whole`]).
//!
//! 1. sum
//! 2. multiply, store

use super::Spec;
use crate::builder::{Builder, Value};
use crate::kernel::LANES;
use crate::linear::{panel, whole};
use crate::math;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let out = b.buffer("out");
    // 2. multiply, store
    let store = |row: Value, pair: Value, sums: &[Value]| {
        b.store(math::swiglu(b, sums[0], sums[1]), out, &[row, b.mul(pair, b.index(LANES))]);
    };
    // 1. sum
    let n_units = panel::n_panels(spec.n);
    let product = whole::Product { k: spec.k, format: spec.format, unit: 2, n_units, store: &store };
    whole::emit(b, &product);
}
