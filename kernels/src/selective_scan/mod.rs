//! The Mamba-1 recurrence (arXiv 2312.00752), sequential in time, with optionally fused preceding and following operations.
//!
//! ```text
//! h[c, n] = exp(Δ[t, c] · A[c, n]) · h[c, n] + Δ[t, c] · u[t, c] · B[t, n]
//! y[t, c] = Σₙ h[c, n] · C[t, n]                                   n from 0 to d_state − 1
//! y[t, c] = (y[t, c] + d[c] · u[t, c]) · silu(z[t, c])             (gated form)
//! ```
//!
//! Δ, B and C are given, or computed by the kernel ([`Selection`]):
//!
//! ```text
//! Δ[t, c] = softplus(Σⱼ dt[t, j] · dt_weight[c, j] + dt_bias[c])   j from 0 to dt_rank − 1   (projected, normed)
//! dt, B, C = rms_norm of the parts of x[t, :]                                                (normed)
//! ```
//!
//! A is packed as −exp(A_log) · log₂(e), so that exp(Δ · A) = exp2(Δ · a). Lanes are channels; A and the state are laid out
//! in panels `[ceil(channels / 16)][d_state][16]`, f32, dt_weight in those of [`crate::linear`]; slot_stride is in
//! elements. Token t belongs to sequence sequence_of\[t\], whose tokens are consecutive and whose state is in slot
//! slots\[sequence\]. Threads split the channels.
//! Bound by arithmetic: one exp2 and three multiply-adds per channel, state and token.

use jamba_plan::format::{Table, Transform};
use jambac_graph::{self as graph, Op};

use crate::cases::{Case, case};
use crate::cpu::operand::{panels, read, vector, write};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Per, Weight, cpu_body, padded};
use crate::node::{Node, Reads, Select, SelectError, Selected, Use};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;
#[cfg(feature = "emit")]
mod selection;

/// The Mamba-1 recurrence.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Number of channels: d_inner.
    pub channels: usize,
    /// States per channel.
    pub d_state: usize,
    /// Source of Δ, B and C.
    pub selection: Selection,
    /// Whether the D skip and the SiLU gate are fused.
    pub gated: bool,
}

/// Source of Δ, B and C.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Selection {
    /// Slots `dt`, `b` and `c`.
    Given,
    /// Δ from the low-rank rows in slot `dt`, B and C from slots `b` and `c`.
    Projected(Projection),
    /// All three from the parts of slot `x`: dt_rank, d_state and d_state columns.
    Normed {
        /// Projects the first part to Δ.
        projection: Projection,
        /// Added to the means of squares.
        eps: f64,
    },
}

/// The linear that computes Δ.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Projection {
    /// Number of inputs.
    pub dt_rank: usize,
    /// Stored type of its weight.
    pub format: Elem,
}

impl Selection {
    /// The linear, unless Δ is given.
    pub fn projection(self) -> Option<Projection> {
        match self {
            Selection::Given => None,
            Selection::Projected(projection) | Selection::Normed { projection, .. } => Some(projection),
        }
    }

    fn symbol(self) -> String {
        let projected = |Projection { dt_rank, format }: Projection| format!("_r{dt_rank}_{}", format.name());
        match self {
            Selection::Given => String::new(),
            Selection::Projected(projection) => projected(projection),
            Selection::Normed { projection, eps } => format!("{}_e{:x}", projected(projection), (eps as f32).to_bits()),
        }
    }

    /// The operands for Δ, B and C. The first one is operand [`FIRST`] of the node.
    fn operands(self, channels: usize, d_state: usize) -> Vec<Operand> {
        let mut operands = match self {
            Selection::Given => {
                vec![read("dt", channels, FIRST), read("b", d_state, FIRST + 1), read("c", d_state, FIRST + 2)]
            }
            Selection::Projected(Projection { dt_rank, .. }) => {
                vec![read("dt", dt_rank, FIRST), read("b", d_state, FIRST + 1), read("c", d_state, FIRST + 2)]
            }
            Selection::Normed { projection: Projection { dt_rank, .. }, .. } => vec![
                read("x", dt_rank + 2 * d_state, FIRST),
                vector("dt_norm", dt_rank, FIRST + 1),
                vector("b_norm", d_state, FIRST + 2),
                vector("c_norm", d_state, FIRST + 3),
            ],
        };
        if let Some(Projection { dt_rank, format }) = self.projection() {
            let operand = FIRST + operands.len();
            let weight = Weight::of(operand, channels, panels(1, &[channels], dt_rank));
            operands.push(Operand::weight("dt_weight", format, weight));
            operands.push(vector("dt_bias", channels, operand + 1));
        }
        operands
    }

    /// Number of these operands of the node.
    fn n_operands(self) -> usize {
        match self {
            Selection::Given => 3,
            Selection::Projected(_) => 5,
            Selection::Normed { .. } => 6,
        }
    }
}

/// The node's operands are u, a_log, state, then those of the selection, then d and z if gated.
const FIRST: usize = 3;

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let &Op::SelectiveScan { selection, gated } = node.op() else { return Err(node.other_op()) };
        let projection = || {
            let weight = selection.operands().end - 2;
            Ok(Projection { dt_rank: node.operand_cols(weight)?, format: node.format(weight, Use::StepSize)? })
        };
        let selection = match selection {
            graph::Selection::Given => Selection::Given,
            graph::Selection::Projected => Selection::Projected(projection()?),
            graph::Selection::Normed { eps } => Selection::Normed { projection: projection()?, eps },
        };
        let (channels, d_state) = (node.result_cols(0)?, node.operand_cols(1)?);
        Ok(Selected::new(Spec { channels, d_state, selection, gated }, node.tokens(0)?))
    }

    fn reads(op: &Op, operand: usize, n_operands: usize) -> Reads {
        let Op::SelectiveScan { selection, gated } = *op else { return Reads::As(Elem::F32) };
        let is_gate = gated && operand + 1 == n_operands;
        // The tensor cores project it.
        let is_low = selection == graph::Selection::Projected && operand == FIRST;
        Reads::As(if operand == 0 || is_gate || is_low { Elem::Bf16 } else { Elem::F32 })
    }

    fn cases() -> Vec<Case> {
        let base = Spec { channels: 216, d_state: 16, selection: Selection::Given, gated: true };
        let projection = Projection { dt_rank: 7, format: Elem::Bf16 };
        let normed = Selection::Normed { projection, eps: 1e-6 };
        let with = |selection| Spec { selection, ..base.clone() };
        let mut cases = vec![case(base.clone(), 17)];
        cases.extend([16, 20].map(|channels| case(Spec { channels, ..base.clone() }, 17)));
        cases.extend([1, 5, 8, 27, 64].map(|d_state| case(Spec { d_state, ..base.clone() }, 17)));
        cases.push(case(Spec { gated: false, ..base.clone() }, 17));
        cases.push(case(with(Selection::Projected(projection)), 17));
        cases.push(case(with(normed), 17));
        let others = [(1, Elem::Bf16), (33, Elem::Bf16), (16, Elem::F32), (7, Elem::F16)];
        cases.extend(others.map(|(dt_rank, format)| {
            case(with(Selection::Normed { projection: Projection { dt_rank, format }, eps: 1e-6 }), 17)
        }));
        let eps = Selection::Normed { projection, eps: 1e-2 };
        cases.push(case(Spec { channels: 20, d_state: 5, gated: false, ..with(eps) }, 17));
        // Jamba Mini.
        let projection = Projection { dt_rank: 256, format: Elem::Bf16 };
        let selections =
            [Selection::Given, Selection::Projected(projection), Selection::Normed { projection, eps: 1e-6 }];
        for selection in selections {
            cases.extend([1, 8, 512].map(|n| case(Spec { channels: 8192, ..with(selection) }, n)));
        }
        // On Hopper the first has four states per lane; odd numbers of channels and states.
        let shapes = [
            (7700, 16, true),
            (160, 16, true),
            (40, 16, false),
            (9, 64, true),
            (40, 5, true),
            (3, 1, false),
            (11, 40, true),
        ];
        let selection = Selection::Given;
        cases.extend(shapes.map(|(channels, d_state, gated)| case(Spec { channels, d_state, selection, gated }, 17)));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { channels, d_state, selection, gated } = self;
        let rates =
            Weight { transform: Transform::DecayRate, ..Weight::of(1, channels, panels(1, &[channels], d_state)) };
        let mut operands = vec![read("u", channels, 0), Operand::weight("a", Elem::F32, rates)];
        operands.extend(selection.operands(channels, d_state));
        operands.push(Operand::state(Elem::F32, padded(channels) * d_state));
        if gated {
            operands.extend([vector("d", channels, self.skip()), read("z", channels, self.skip() + 1)]);
        }
        operands.extend([
            Operand::table(Table::SequenceOf),
            Operand::table(Table::Slots),
            write("y", channels, 0),
            Operand::scalar("tokens", Per::Token),
            Operand::slot_stride(),
        ]);
        vec![Launch {
            op: "selective_scan",
            symbol: format!("{}_c{channels}_n{d_state}{}", self.name(), selection.symbol()),
            operands,
            cost: self.cost(),
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}

impl Spec {
    fn name(&self) -> &'static str {
        if self.gated { "gated_selective_scan" } else { "selective_scan" }
    }

    /// The node's operand for d; z follows.
    fn skip(&self) -> usize {
        FIRST + self.selection.n_operands()
    }

    fn cost(&self) -> Cost {
        let (channels, d_state) = (self.channels as f64, self.d_state as f64);
        let gate = if self.gated { 20.0 } else { 1.0 };
        let (rows, weight, projecting) = match self.selection.projection() {
            None => (channels, 0.0, 0.0),
            // A softplus has as many operations as a gate.
            Some(Projection { format, dt_rank }) => {
                let rank = dt_rank as f64;
                (rank, channels * rank * format.bytes() as f64, 2.0 * rank + 20.0)
            }
        };
        let streams = if self.gated { 3.0 } else { 2.0 };
        Cost {
            bytes: Amount {
                constant: weight + channels * d_state * 4.0,
                rows: (streams * channels + rows + 2.0 * d_state) * 4.0,
                sequences: 2.0 * channels * d_state * 4.0,
                ..Amount::default()
            },
            operations: Amount::per_row(channels * (d_state * 14.0 + gate + projecting)),
        }
    }
}
