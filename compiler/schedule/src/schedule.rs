//! What scheduling makes: the plan's own records, and the kernels that are compiled for them.

use jamba_plan::format::{Buffer, Entry, Limits, Memory, Program, Step, TargetKind, WeightFormat};
use jambac_kernels::kernel::{Launch, Operand};

use crate::states::StateRegion;

/// What a schedule is made for, besides the graphs.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The kind of target.
    pub kind: TargetKind,
    /// What the plan serves.
    pub limits: Limits,
    /// Stored formats of parameters.
    pub formats: Formats,
}

/// Stored format of each group of parameters; `None` keeps the checkpoint's. Norm weights, biases, convolutions, A and D are
/// always f32. A table that is a linear's weight too is stored once, in the linear's format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// Weights of linears, routers included.
    pub linear: Option<WeightFormat>,
    /// Weights of experts.
    pub experts: Option<WeightFormat>,
    /// The embedding table.
    pub embedding: Option<WeightFormat>,
    /// True when every target reads f16; otherwise f16 parameters are stored as f32.
    pub f16_native: bool,
}

/// The steps of all entries, what they read, and where everything is placed.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The kind of target.
    pub kind: TargetKind,
    /// What it was made for.
    pub limits: Limits,
    /// Code to compile, by the index that steps and [`Program::kernels`] use; each symbol once, in order of first use.
    pub kernels: Vec<Launch>,
    /// Kernels, weights, tensor maps and entries, as the runtime executes them.
    pub program: Program,
    /// What sequences remember: conv and SSM state in slots, keys and values in pages.
    pub states: Vec<StateRegion>,
    /// Bytes of every pool, without the slack behind it.
    pub memory: Memory,
}

impl Schedule {
    /// The operands of a step, in the order of its arguments.
    pub fn operands(&self, step: &Step) -> &[Operand] {
        self.kernels.get(step.kernel as usize).map_or(&[], |launch| &launch.operands)
    }

    /// Bytes of arena that an entry uses.
    pub fn arena_bytes(entry: &Entry) -> u64 {
        entry.buffers.iter().map(|buffer| buffer.offset + buffer.bytes).max().unwrap_or(0)
    }

    /// The most bytes that are live in any step of an entry: no arena can be smaller. A buffer written in place is counted
    /// once.
    pub fn peak_live_bytes(entry: &Entry) -> u64 {
        let mut live = vec![0; entry.steps.len()];
        for buffer in &entry.buffers {
            let Buffer { first, last, bytes, in_place_of, .. } = *buffer;
            let first = first as usize + usize::from(in_place_of.is_some());
            live.iter_mut().take(last as usize + 1).skip(first).for_each(|live| *live += bytes);
        }
        live.into_iter().max().unwrap_or(0)
    }
}
