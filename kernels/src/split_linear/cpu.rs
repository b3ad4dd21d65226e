//! Several matrix products with one input on CPUs: all rows with all panels of all parts ([`crate::cpu::whole`]).
//!
//! 1. sum
//! 2. store in the result of the panel's part

use super::{OUTS, Spec};
use crate::cpu::builder::{Buffer, Builder, Value};
use crate::cpu::{product::n_panels, whole};
use crate::kernel::LANES;

/// The result of a part, and its first panel among the panels of all parts.
struct Part {
    out: Buffer,
    first_panel: usize,
}

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    product(b, spec, None, &|_, _, sum| sum);
}

/// What makes a part's result of a row, a panel and its sum.
type Finish<'a> = &'a dyn Fn(Value, Value, Value) -> Value;

/// The product of rows, or of the norms with this eps of sums of rows ([`whole::Product::norm`]). `finish` makes the results of the
/// first part.
pub(crate) fn product(b: &Builder, spec: &Spec, norm: Option<f64>, finish: Finish) {
    let mut n_units = 0;
    let mut parts = Vec::new();
    for (name, &n) in OUTS.iter().zip(&spec.sizes) {
        parts.push(Part { out: b.buffer(name), first_panel: n_units });
        n_units += n_panels(n);
    }

    // 1. sum, 2. store
    let product = whole::Product {
        k: spec.k,
        format: spec.format,
        norm,
        unit: 1,
        n_units,
        store: &|row, panel, sums| store(b, &parts, finish, (row, panel), sums[0]),
    };
    whole::emit(b, &product);
}

/// Stores the sums of a panel of one of the parts.
fn store(b: &Builder, parts: &[Part], finish: Finish, (row, panel): (Value, Value), sum: Value) {
    let Some((last, others)) = parts.split_last() else { return };
    let store_in_last = |sum: Value| b.store(sum, last.out, (row, (panel - last.first_panel) * LANES));
    if others.is_empty() {
        store_in_last(finish(row, panel, sum));
    } else {
        let store_in_others = || store(b, others, finish, (row, panel), sum);
        b.if_else(panel.ge(last.first_panel), || store_in_last(sum), store_in_others);
    }
}
