//! Gate and up of the experts on CPUs: each thread processes a range of panel pairs of every expert.
//!
//! 1. distribute pairs of panels over threads
//! 2. for each expert with slots: sum over the inputs, gate and up interleaved ([`crate::grouped_linear::experts`])
//! 3. multiply, store

use super::Spec;
use crate::cpu::builder::Builder;
use crate::cpu::math;
use crate::cpu::product::n_panels;
use crate::grouped_linear::experts::{self, Products};
use crate::kernel::LANES;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let &Spec { n_experts, k, format, .. } = spec;
    // 1. distribute
    let n_units = n_panels(spec.n);
    let pairs = b.thread_range(n_units);

    // 2. sum
    let out = b.buffer("out");
    let products = Products {
        n_experts,
        k,
        format,
        unit: 2,
        n_units,
        x_row: &|slot| slot / spec.slots_per_row,
        // 3. multiply, store
        store: &|slot, pair, sums| {
            let y = math::swiglu(sums[0], sums[1]);
            b.store(y, out, (slot, pair * LANES));
        },
    };
    experts::emit(b, &products, pairs);
}
