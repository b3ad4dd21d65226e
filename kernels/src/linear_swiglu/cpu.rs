//! Swiglu on CPUs: all rows with all panels of gate and the matching panels of up ([`crate::cpu::whole`]).
//!
//! 1. sum
//! 2. multiply, store

use super::Spec;
use crate::cpu::builder::{Builder, Value};
use crate::cpu::math;
use crate::cpu::{product::n_panels, whole};
use crate::kernel::LANES;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    product(b, spec, None);
}

/// The product of rows, or of the norms with this eps of sums of rows ([`whole::Product::norm`]).
pub(crate) fn product(b: &Builder, spec: &Spec, norm: Option<f64>) {
    let out = b.buffer("out");
    // 2. multiply, store
    let store = |row: Value, pair: Value, sums: &[Value]| {
        b.store(math::swiglu(sums[0], sums[1]), out, (row, pair * LANES));
    };
    // 1. sum
    let n_units = n_panels(spec.n);
    let product = whole::Product { k: spec.k, format: spec.format, norm, unit: 2, n_units, store: &store };
    whole::emit(b, &product);
}
