//! Grouped matrix product on a CPU: each thread takes a range of panels of every expert, so that it reads those weights alone.
//!
//! 1. share out panels
//! 2. for each expert that has slots: sum over the inputs, tile by tile ([`crate::linear::panel`])

use super::Spec;
use crate::builder::{Builder, Value};
use crate::kernel::LANES;
use crate::linear::integer::{self, weights::Weights};
use crate::linear::panel::{self, Place, Product};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let (slots, offsets) = (b.buffer("slots"), b.buffer("offsets"));
    let n_panels = b.index(panel::n_panels(spec.n));

    // 1. share out
    let panels = b.thread_range(n_panels);

    // 2. sum
    let place = |row: Value| {
        let slot = b.to_index(b.load(slots, &[row]));
        Place { x: b.div(slot, b.index(spec.slots_per_row)), out: slot }
    };
    b.for_each(b.index(0), b.index(spec.n_experts), 1, |expert| {
        let offset = |expert: Value| b.to_index(b.load(offsets, &[expert]));
        let rows = (offset(expert), offset(b.add(expert, b.index(1))));
        if let Some(weights) = Weights::of(b, spec.format, spec.k) {
            let store = |row: Value, panel: Value, sums: &[Value]| {
                b.store(sums[0], b.buffer("out"), &[place(row).out, b.mul(panel, b.index(LANES))]);
            };
            let first_panel = b.mul(expert, n_panels);
            let place = |row| place(row).x;
            let product =
                integer::cpu::Product { weights, x: b.buffer("x"), first_panel, unit: 1, place: &place, store: &store };
            return integer::cpu::emit(b, &product, rows, panels);
        }
        let product = Product {
            k: spec.k,
            x: b.buffer("x"),
            weight: b.buffer("weight"),
            out: b.buffer("out"),
            first_panel: b.mul(expert, n_panels),
            place: &place,
            finish: None,
        };
        panel::emit(b, &product, rows, panels);
    });
}
