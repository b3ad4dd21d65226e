//! Δ, B and C of a run of tokens: rows that are given, or rows of a thread's own that are computed as far as the run goes.
//!
//! 1. once a run, where normed: the parts of x, by each thread for itself (dt_rank + 2 · d_state columns, far less than what its
//!    channels take)
//! 2. once a run and group of channel vectors, where projected: Δ

use super::cpu::AHEAD;
use super::{Projection, Selection, Spec};
use crate::cpu::builder::{Buffer, Builder, Num, Value};
use crate::cpu::math;
use crate::cpu::panel::{self, Product};
use crate::kernel::{LANES, padded};
use crate::split_rms_norm::cpu::Part;

/// Rows of a run's tokens.
#[derive(Clone, Copy)]
pub(super) enum Rows {
    /// One per token of the step.
    Step(Buffer),
    /// One per token of the run.
    Run(Buffer),
}

impl Rows {
    /// The array, and the row of the run's token number `i`.
    pub(super) fn row(self, first_token: Value, i: Value) -> (Buffer, Value) {
        match self {
            Rows::Step(buffer) => (buffer, first_token + i),
            Rows::Run(buffer) => (buffer, i),
        }
    }
}

/// Where the states' update finds Δ, B and C.
pub(super) struct Selected<'s> {
    spec: &'s Spec,
    /// What Δ is projected from, where it is.
    low: Rows,
    /// In columns of the group where projected, of the step's rows where given.
    dt: Rows,
    pub(super) b: Rows,
    pub(super) c: Rows,
}

impl<'s> Selected<'s> {
    /// Takes the stack that runs of so many tokens and groups of so many channel vectors need.
    pub(super) fn new(b: &Builder, spec: &'s Spec, run: usize, group: usize) -> Selected<'s> {
        let given = |name| Rows::Step(b.buffer(name));
        let own = |cols| Rows::Run(b.stack(Num::F32, &[run, padded(cols)]));
        let group = group * LANES;
        match spec.selection {
            Selection::Given => Selected { spec, low: given("dt"), dt: given("dt"), b: given("b"), c: given("c") },
            Selection::Projected(_) => {
                Selected { spec, low: given("dt"), dt: own(group), b: given("b"), c: given("c") }
            }
            Selection::Normed { projection: Projection { dt_rank, .. }, .. } => {
                Selected { spec, low: own(dt_rank), dt: own(group), b: own(spec.d_state), c: own(spec.d_state) }
            }
        }
    }

    /// 1. norms the parts of x, of `n_tokens` tokens.
    pub(super) fn norm(&self, b: &Builder, first_token: Value, n_tokens: Value) {
        let Selection::Normed { projection: Projection { dt_rank, .. }, eps } = self.spec.selection else { return };
        let d_state = self.spec.d_state;
        let parts = [("dt_norm", dt_rank, self.low), ("b_norm", d_state, self.b), ("c_norm", d_state, self.c)];
        b.for_each(0, n_tokens, 1, |i| {
            let mut start = 0;
            for (weight, cols, rows) in parts {
                let part = Part { x: b.buffer("x"), start, cols, eps, weight: b.buffer(weight) };
                let (out, row) = rows.row(first_token, i);
                part.emit(b, first_token + i, out, row);
                start += cols;
            }
        });
    }

    /// 2. projects Δ for the channel vectors `first … last`.
    pub(super) fn project(&self, b: &Builder, first_token: Value, n_tokens: Value, (first, last): (Value, Value)) {
        let Some(Projection { dt_rank, .. }) = self.spec.selection.projection() else { return };
        let (Rows::Step(x) | Rows::Run(x), Rows::Step(out) | Rows::Run(out)) = (self.low, self.dt);
        let bias = b.buffer("dt_bias");
        let store = |i: Value, panel: Value, sums: &[Value]| {
            let column = panel * LANES;
            let channel = first * LANES + column;
            let dt = math::softplus(sums[0] + b.load_vector(bias, &[channel], LANES));
            b.store(dt, out, &[i, column]);
        };
        let product = Product {
            k: dt_rank,
            x,
            weight: b.buffer("dt_weight"),
            first_panel: first,
            unit: 1,
            x_row: &|i| self.low.row(first_token, i).1,
            store: &store,
        };
        panel::emit(b, &product, (b.index(0), n_tokens), (b.index(0), last - first));
    }

    /// Δ of a channel vector: at a place in the step's rows where given, of token and vector in run and group where projected.
    pub(super) fn dt(&self, b: &Builder, in_step: (Value, Value), (i, in_group): (Value, Value)) -> Value {
        match self.dt {
            Rows::Step(rows) => {
                b.prefetch(rows, &[in_step.0 + AHEAD, in_step.1]);
                b.load_vector(rows, &[in_step.0, in_step.1], LANES)
            }
            Rows::Run(rows) => b.load_vector(rows, &[i, in_group * LANES], LANES),
        }
    }
}
