//! Δ, B and C of a run of tokens: given rows, or rows that each thread computes for the run.
//!
//! 1. once per run, if normed: the parts of x, in every thread separately (dt_rank + 2 · d_state columns, far less work
//!    than its channels)
//! 2. once per run and group of channel vectors, if projected: Δ

use super::cpu::{AHEAD, ChannelVector, Token};
use super::{Projection, Selection, Spec};
use crate::cpu::builder::{Buffer, Builder, Num, Range, Value};
use crate::cpu::math;
use crate::cpu::product::{Product, Weights};
use crate::cpu::rows::Row;
use crate::kernel::{LANES, padded};
use crate::split_rms_norm::cpu::Part;

/// Rows of a run's tokens.
#[derive(Clone, Copy)]
pub(super) enum Rows {
    /// One row per token of the step.
    Step(Buffer),
    /// One row per token of the run.
    Run(Buffer),
}

impl Rows {
    /// The row of token `i` of the run.
    pub(super) fn row(self, first_token: Value, i: Value) -> Row {
        match self {
            Rows::Step(buffer) => Row { buffer, row: first_token + i },
            Rows::Run(buffer) => Row { buffer, row: i },
        }
    }
}

/// The rows of Δ, B and C for the state update.
pub(super) struct Selected<'s> {
    spec: &'s Spec,
    /// The low-rank rows, if Δ is projected.
    low: Rows,
    /// Columns of the group if projected, of the step's rows if given.
    dt: Rows,
    pub(super) b: Rows,
    pub(super) c: Rows,
}

impl<'s> Selected<'s> {
    /// Allocates stack buffers for runs of `run` tokens and groups of `group` channel vectors.
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

    /// 1. Norms the parts of x of `n_tokens` tokens.
    pub(super) fn norm(&self, b: &Builder, first_token: Value, n_tokens: Value) {
        let Selection::Normed { projection: Projection { dt_rank, .. }, eps } = self.spec.selection else { return };
        let d_state = self.spec.d_state;
        let parts = [("dt_norm", dt_rank, self.low), ("b_norm", d_state, self.b), ("c_norm", d_state, self.c)];
        b.for_each(0, n_tokens, 1, |i| {
            let mut start = 0;
            for (weight, cols, rows) in parts {
                let part = Part { x: b.buffer("x"), start, cols, eps, weight: b.buffer(weight) };
                let out = rows.row(first_token, i);
                part.emit(b, first_token + i, out);
                start += cols;
            }
        });
    }

    /// 2. Projects Δ for a range of channel vectors.
    pub(super) fn project(&self, b: &Builder, first_token: Value, n_tokens: Value, vectors: Range) {
        let Some(Projection { dt_rank, .. }) = self.spec.selection.projection() else { return };
        let (Rows::Step(x) | Rows::Run(x), Rows::Step(out) | Rows::Run(out)) = (self.low, self.dt);
        let bias = b.buffer("dt_bias");
        let store = |i: Value, panel: Value, sums: &[Value]| {
            let column = panel * LANES;
            let channel = vectors.start * LANES + column;
            let dt = math::softplus(sums[0] + b.load_vector(bias, channel, LANES));
            b.store(dt, out, (i, column));
        };
        let product = Product {
            k: dt_rank,
            x,
            weights: Weights::Floats(b.buffer("dt_weight")),
            first_panel: vectors.start,
            unit: 1,
            x_row: &|i| self.low.row(first_token, i).row,
            store: &store,
        };
        let all = |n| Range { start: b.index(0), end: n };
        product.emit(b, all(n_tokens), all(vectors.count()));
    }

    /// Δ of a token and a channel vector.
    pub(super) fn dt(&self, b: &Builder, token: &Token, vector: &ChannelVector) -> Value {
        match self.dt {
            Rows::Step(rows) => {
                b.prefetch(rows, (token.t + AHEAD, vector.column));
                b.load_vector(rows, (token.t, vector.column), LANES)
            }
            Rows::Run(rows) => b.load_vector(rows, (token.i, vector.in_group * LANES), LANES),
        }
    }
}
