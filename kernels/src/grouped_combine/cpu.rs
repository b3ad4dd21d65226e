//! Weighted sums of experts on CPUs: each thread processes a range of panels of all experts. No other thread writes these
//! columns of the result.
//!
//! 1. distribute panels over threads
//! 2. clear their columns
//! 3. expert by expert, in order: sum over the inputs ([`crate::grouped_linear::experts`])
//! 4. add to the slot's token, weighted

use super::Spec;
use crate::cpu::builder::{Builder, Value};
use crate::cpu::product::n_panels;
use crate::grouped_linear::experts::{self, Products};
use crate::kernel::LANES;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let &Spec { n_experts, k, format, .. } = spec;
    let (weights, out) = (b.buffer("weights"), b.buffer("out"));
    // 1. distribute
    let n_units = n_panels(spec.n);
    let panels = b.thread_range(n_units);
    let column = |panel: Value| panel * LANES;

    // 2. clear
    b.for_each(0, b.scalar("rows"), 1, |t| {
        b.for_each_in(panels, |panel| b.store(b.splat(0.0, LANES), out, (t, column(panel))));
    });

    // 3. sum
    let products = Products {
        n_experts,
        k,
        format,
        unit: 1,
        n_units,
        x_row: &|slot| slot,
        // 4. add
        store: &|slot, panel, sums| {
            let (t, choice) = (slot / spec.top_k, slot % spec.top_k);
            let weight = b.load(weights, (t, choice)).broadcast(LANES);
            let at = [t, column(panel)];
            b.store(weight.mul_add(sums[0], b.load_vector(out, at, LANES)), out, at);
        },
    };
    experts::emit(b, &products, panels);
}
