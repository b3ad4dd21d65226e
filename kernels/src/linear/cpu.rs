//! Matrix product on a CPU: each thread takes a range of panels, or of rows where panels are scarce.
//!
//! 1. share out panels (rows, when there are many of them and less than 8 panels)
//! 2. sum over the inputs, tile by tile ([`super::panel`])
//! 3. add the bias, apply the activation

use super::Spec;
use super::integer::{self, weights::Weights};
use super::panel::{self, Product};
use crate::builder::{Builder, Compare, Value};
use crate::kernel::LANES;
use crate::math;
use jambac_graph::Activation;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    // 1. share out
    let (rows, n_panels) = (b.scalar("rows"), panel::n_panels(spec.n));
    let everything = [b.index(0), rows, b.index(0), b.index(n_panels)];
    let share_panels = || {
        let (start, end) = b.thread_range(everything[3]);
        [everything[0], rows, start, end]
    };
    let share_rows = || {
        let (start, end) = b.thread_range(rows);
        [start, end, everything[2], everything[3]]
    };
    let [first_row, end_row, first_panel, end_panel] = if n_panels < 8 {
        let many = b.cmp(Compare::Ge, rows, b.mul(b.n_threads(), b.index(8)));
        b.if_else(many, share_rows, share_panels)
    } else {
        share_panels()
    };

    // 3. bias and activation
    let (out, bias) = (b.buffer("out"), spec.bias.then(|| b.buffer("bias")));
    let store = |row: Value, panel: Value, sums: &[Value]| {
        let column = b.mul(panel, b.index(LANES));
        let sum = bias.map_or(sums[0], |bias| b.add(sums[0], b.load_vector(bias, &[column], LANES)));
        let result = match spec.activation {
            Activation::None => sum,
            Activation::Silu => math::silu(b, sum),
            Activation::Softplus => math::softplus(b, sum),
        };
        b.store(result, out, &[row, column]);
    };
    // 2. sum
    if let Some(weights) = Weights::of(b, spec.format, spec.k) {
        let (x, zero) = (b.buffer("x"), b.index(0));
        let product =
            integer::cpu::Product { weights, x, first_panel: zero, unit: 1, x_row: &|row| row, store: &store };
        return integer::cpu::emit(b, &product, (first_row, end_row), (first_panel, end_panel));
    }
    let product = Product {
        k: spec.k,
        x: b.buffer("x"),
        weight: b.buffer("weight"),
        first_panel: b.index(0),
        unit: 1,
        x_row: &|row| row,
        store: &store,
    };
    panel::emit(b, &product, (first_row, end_row), (first_panel, end_panel));
}
