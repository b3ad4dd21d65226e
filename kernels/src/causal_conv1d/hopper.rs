//! Causal convolution on Hopper: blocks split channels and runs of tokens; a thread processes four channels along a run,
//! with their taps and last inputs in registers.
//!
//! ```text
//! y[t, c] = activation(Σₖ u[t − taps + 1 + k, c] · weight[c, k] + bias[c])      u, y bf16; sums in f32
//! ```
//!
//! Inputs before the step come from the sequence's state, `[taps − 1][row_stride(f32, channels)]` f32 in its slot, oldest
//! first. The kernel leaves the last taps − 1 inputs in the state; slot_stride is in elements. Weights are dense,
//! `[channel][tap]` f32.
//! Bound by memory: 2 bytes of u read and 2 of y written per element, plus u of the taps − 1 tokens before a run.
//!
//! A run never ends inside a sequence's first taps − 1 tokens: only the thread that starts a sequence reads its state, and
//! it writes the next state.
//!
//! 1. load taps and bias of the channels
//! 2. for each sequence in the run: load the previous inputs, from the state (then the next state is written too) or from u
//! 3. along time: add the taps in order, oldest input first, then the bias and the activation; in groups, with the next
//!    group's rows in flight, and the remainder token by token

use std::ops::Deref;

use super::Spec;
use crate::hopper::operand::{read, small, vector, write};
use crate::hopper::row_stride;
use crate::kernel::{
    Blocks, Candidate, Config, Elem, Grid, Hopper, Launch, Lowering, Operand, Per, StepSize, Work, epilogue,
    hopper_body,
};
use jamba_plan::format::{EntryKind, Table, Transform};

/// Channels per thread: 8 bytes of bf16.
const CHANNELS: usize = 4;

/// Threads per block.
const THREADS: u32 = 128;

/// Tokens per run if sequences are long.
const RUN_PREFILL: u32 = 32;

/// Tokens per run if each token belongs to another sequence.
const RUN_DECODE: u32 = 1;

/// A convolution whose blocks process runs of `run` tokens.
#[derive(Clone, Debug)]
pub(crate) struct Runs {
    spec: Spec,
    run: u32,
}

impl Deref for Runs {
    type Target = Spec;

    fn deref(&self) -> &Spec {
        &self.spec
    }
}

impl Lowering<Hopper> for Spec {
    /// The results do not depend on the run length.
    fn configs(&self, step: &StepSize) -> Vec<Candidate> {
        match step.entry {
            EntryKind::Prefill => vec![
                Candidate::accepted(Config::Run(RUN_PREFILL)),
                Candidate::rejected(Config::Run(RUN_DECODE), "loads the last inputs of a sequence once per token"),
            ],
            EntryKind::Decode => vec![
                Candidate::accepted(Config::Run(RUN_DECODE)),
                Candidate::rejected(Config::Run(RUN_PREFILL), "a run would span several sequences"),
            ],
        }
    }

    fn lower(&self, config: Config) -> Vec<Launch> {
        let run = if let Config::Run(run) = config { run } else { RUN_DECODE };
        let &Spec { channels, taps, bias, activation } = self;
        let mut operands = vec![read("u", Elem::Bf16, channels, 0)];
        operands.extend(self.hopper_parameters(["weight", "bias"], 1));
        operands.extend([
            Operand::table(Table::SequenceOf),
            Operand::table(Table::Starts),
            Operand::table(Table::Slots),
            write("y", Elem::Bf16, channels, 0),
            Operand::count("tokens", Per::Token),
            Operand::slot_stride(),
        ]);
        let along_time = Blocks::Of { per: Per::Token, factor: 1, per_block: run };
        let blocks = channels.div_ceil(CHANNELS * THREADS as usize) as u32;
        let runs = Runs { spec: self.clone(), run };
        vec![Launch {
            op: "causal_conv1d",
            symbol: format!("causal_conv1d_c{channels}_k{taps}{}_run{run}_sm90", epilogue(bias, activation)),
            operands,
            cost: self.cost(2.0),
            grid: Some(Grid {
                blocks: [along_time, Blocks::Fixed(blocks), Blocks::Fixed(1)],
                threads: THREADS,
                shared_bytes: 0,
                // starts, slots, state
                work: Work { dependent_reads: 3, ..Work::default() },
            }),
            body: hopper_body!(runs, emit),
        }]
    }
}

impl Spec {
    /// The weight, the bias and the state, by these names of the first two, from the node's operand `first` on.
    pub(crate) fn hopper_parameters(&self, [weight, bias]: [&'static str; 2], first: usize) -> Vec<Operand> {
        let &Spec { channels, taps, .. } = self;
        let mut operands = vec![small(weight, channels, taps, first, Transform::None)];
        operands.extend(self.bias.then(|| vector(bias, channels, first + 1)));
        operands.push(Operand::state(Elem::F32, self.state_row() * (taps - 1)));
        operands
    }

    /// Elements of a row of the state: the inputs of one token.
    pub(crate) fn state_row(&self) -> usize {
        row_stride(Elem::F32, self.channels)
    }
}

#[cfg(feature = "emit")]
mod emit;
#[cfg(feature = "emit")]
pub(crate) use emit::emit;
