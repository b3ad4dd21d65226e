//! Grouped matrix product on CPUs: each thread processes a range of panels of every expert.
//!
//! 1. distribute panels over threads
//! 2. for each expert with slots: sum over the inputs ([`super::experts`])
//! 3. store

use super::Spec;
use super::experts::{self, Products};
use crate::cpu::builder::Builder;
use crate::cpu::product::n_panels;
use crate::kernel::LANES;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let &Spec { n_experts, k, format, .. } = spec;
    // 1. distribute
    let n_units = n_panels(spec.n);
    let panels = b.thread_range(n_units);

    // 2. sum
    let out = b.buffer("out");
    let products = Products {
        n_experts,
        k,
        format,
        unit: 1,
        n_units,
        x_row: &|slot| slot / spec.slots_per_row,
        // 3. store
        store: &|slot, panel, sums| b.store(sums[0], out, (slot, panel * LANES)),
    };
    experts::emit(b, &products, panels);
}
