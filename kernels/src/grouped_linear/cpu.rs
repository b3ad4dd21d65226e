//! Grouped matrix product on a CPU: each thread takes a range of panels of every expert, so that it reads those weights alone.
//!
//! 1. share out panels
//! 2. for each expert that has slots: sum over the inputs, tile by tile ([`crate::linear::panel`])

use super::Spec;
use crate::builder::{Builder, Value};
use crate::kernel::LANES;
use crate::linear::integer::{self, weights::Weights};
use crate::linear::panel::{self, Product};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (slots, offsets) = (b.buffer("slots"), b.buffer("offsets"));
    let n_panels = b.index(panel::n_panels(spec.n));

    // 1. share out
    let panels = b.thread_range(n_panels);

    // 2. sum
    let slot = |row: Value| b.to_index(b.load(slots, &[row]));
    let x_row = |row: Value| b.div(slot(row), b.index(spec.slots_per_row));
    let out = b.buffer("out");
    let store = |row: Value, panel: Value, sums: &[Value]| {
        b.store(sums[0], out, &[slot(row), b.mul(panel, b.index(LANES))]);
    };
    b.for_each(b.index(0), b.index(spec.n_experts), 1, |expert| {
        let offset = |expert: Value| b.to_index(b.load(offsets, &[expert]));
        let rows = (offset(expert), offset(b.add(expert, b.index(1))));
        let (x, first_panel, unit) = (b.buffer("x"), b.mul(expert, n_panels), 1);
        if let Some(weights) = Weights::of(b, spec.format, spec.k) {
            let product = integer::cpu::Product { weights, x, first_panel, unit, x_row: &x_row, store: &store };
            return integer::cpu::emit(b, &product, rows, panels);
        }
        let weight = b.buffer("weight");
        let product = Product { k: spec.k, x, weight, first_panel, unit, x_row: &x_row, store: &store };
        panel::emit(b, &product, rows, panels);
    });
}
