//! Depthwise causal convolution over the last `taps` inputs of each sequence, then activation.
//!
//! ```text
//! y[t, c] = activation(Σₖ u[t − taps + 1 + k, c] · weight[c, k] + bias[c])
//! ```
//!
//! Inputs before the step come from the sequence's state, `[ceil(channels / 16)][taps − 1][16]` f32 in its slot, oldest
//! first. The kernel leaves the last taps − 1 inputs in the state; slot_stride is in elements. Weights are laid out in
//! panels `[ceil(channels / 16)][taps][16]`, f32. Threads split the channels; each processes its channels along time with
//! the last inputs in registers.
//! Bound by memory: u read once, y written once.

use jamba_plan::format::Table;
use jambac_graph::{Activation, Op};

use crate::cases::{Case, case, decode};
use crate::cpu::operand::{panels, read, vector, write};
use crate::kernel::{
    Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Per, Weight, cpu_body, epilogue, padded,
};
use crate::node::{Node, Reads, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

/// Depthwise causal convolution along each sequence.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Number of channels: d_inner.
    pub channels: usize,
    /// Inputs per output: d_conv.
    pub taps: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// Applied to the sum.
    pub activation: Activation,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let &Op::CausalConv1d { bias, activation } = node.op() else { return Err(node.other_op()) };
        let (channels, taps) = (node.result_cols(0)?, node.dim(node.operand(1), 2)?);
        Ok(Selected::new(Spec { channels, taps, bias, activation }, node.tokens(0)?))
    }

    fn reads(_: &Op, _: usize, _: usize) -> Reads {
        Reads::As(Elem::Bf16)
    }

    fn cases() -> Vec<Case> {
        let base = Spec { channels: 216, taps: 4, bias: true, activation: Activation::Silu };
        let mut cases = vec![case(base.clone(), 17)];
        cases.extend([16, 20].map(|channels| case(Spec { channels, ..base.clone() }, 17)));
        cases.extend([1, 2, 3].map(|taps| case(Spec { taps, ..base.clone() }, 17)));
        cases.push(case(Spec { bias: false, ..base.clone() }, 17));
        let activations = [Activation::None, Activation::Softplus];
        cases.extend(activations.map(|activation| case(Spec { activation, ..base.clone() }, 17)));
        // Jamba Mini.
        cases.extend([1, 512].map(|n_tokens| case(Spec { channels: 8192, ..base.clone() }, n_tokens)));
        // Several blocks of channels on Hopper; fewer than a block; more taps.
        let wide = Spec { channels: 600, ..base.clone() };
        let plain = Spec { bias: false, activation: Activation::None, ..wide.clone() };
        let two_taps = Spec { channels: 33, taps: 2, ..base.clone() };
        let softplus = Spec { channels: 5, taps: 7, bias: false, activation: Activation::Softplus };
        cases
            .extend([wide.clone(), plain, Spec { channels: 7, ..base }, two_taps, softplus].map(|spec| case(spec, 17)));
        let one_tap = Spec { taps: 1, bias: false, ..wide.clone() };
        cases.extend([wide, one_tap].map(|spec| decode(spec, 5)));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { channels, taps, bias, activation } = self;
        let mut operands = vec![read("u", channels, 0)];
        operands.extend(self.parameters(["weight", "bias"], 1));
        operands.extend([
            self.state(),
            Operand::table(Table::Starts),
            Operand::table(Table::Slots),
            write("y", channels, 0),
            Operand::scalar("sequences", Per::Sequence),
            Operand::slot_stride(),
        ]);
        vec![Launch {
            op: "causal_conv1d",
            symbol: format!("causal_conv1d_c{channels}_k{taps}{}", epilogue(bias, activation)),
            operands,
            cost: self.cost(4.0),
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}

impl Spec {
    /// The weight and the bias on CPUs, by these names, from the node's operand `first` on.
    pub(crate) fn parameters(&self, [weight, bias]: [&'static str; 2], first: usize) -> Vec<Operand> {
        let &Spec { channels, taps, .. } = self;
        let packed = Weight::of(first, channels, panels(1, &[channels], taps));
        let mut operands = vec![Operand::weight(weight, Elem::F32, packed)];
        operands.extend(self.bias.then(|| vector(bias, channels, first + 1)));
        operands
    }

    /// The state on CPUs.
    pub(crate) fn state(&self) -> Operand {
        Operand::state(Elem::F32, padded(self.channels) * (self.taps - 1))
    }

    /// The part of the symbol of a kernel that the convolution is fused into.
    pub(crate) fn fused_name(&self) -> String {
        format!("_conv{}{}", self.taps, epilogue(self.bias, self.activation))
    }

    /// The cost of a kernel with the convolution fused into it, which has u and y in registers.
    pub(crate) fn add_cost(&self, mut cost: Cost) -> Cost {
        let of_conv = self.cost(0.0);
        cost.bytes.sequences += of_conv.bytes.sequences;
        cost.operations.rows += of_conv.operations.rows;
        cost
    }

    /// Bytes of u, y and state for these element sizes, and the operations.
    fn cost(&self, activation_bytes: f64) -> Cost {
        let channels = self.channels as f64;
        Cost {
            bytes: Amount {
                rows: 2.0 * channels * activation_bytes,
                sequences: 8.0 * channels * (self.taps - 1) as f64,
                ..Amount::default()
            },
            operations: Amount::per_row(channels * 2.0 * self.taps as f64),
        }
    }
}
