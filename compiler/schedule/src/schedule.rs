//! The result of scheduling: the plan's own records, and the kernels to compile.

use std::collections::BTreeMap;

use jamba_plan::format::{Buffer, Entry, Limits, Memory, Program, Step, TargetKind, WeightFormat};
use jambac_kernels::kernel::{Launch, Operand};

use crate::states::StateRegion;

/// Inputs of scheduling besides the graphs.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub kind: TargetKind,
    /// The sizes that the plan supports.
    pub limits: Limits,
    /// Storage formats of parameters.
    pub formats: Formats,
}

/// Storage format of each group of parameters; `None` keeps the checkpoint's format. Norm weights, biases, convolutions, A and
/// D are always f32. An embedding table that is also a linear's weight is stored once, in the linear's format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// Weights of linears, including routers. Of int4 and int3, the linear that computes the logits is int8: of all linears it loses most.
    pub linear: Option<WeightFormat>,
    pub experts: Option<WeightFormat>,
    pub embedding: Option<WeightFormat>,
    /// Formats of single parameters by canonical name, which take precedence.
    pub named: BTreeMap<String, WeightFormat>,
    /// True if every target reads f16; otherwise f16 parameters are stored as f32.
    pub f16_native: bool,
}

/// The steps of all entries with their operands, and the locations of all data.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    pub kind: TargetKind,
    /// The limits from the options.
    pub limits: Limits,
    /// Kernels to compile, by the index that steps and [`Program::kernels`] use; unique symbols in order of first use.
    pub kernels: Vec<Launch>,
    /// Kernels, weights, tensor maps and entries, in the form that the runtime executes.
    pub program: Program,
    /// The states of sequences: conv and SSM state in slots, keys and values in pages.
    pub states: Vec<StateRegion>,
    /// Size of every pool in bytes, excluding slack.
    pub memory: Memory,
}

impl Schedule {
    /// The operands of a step, in the order of its arguments.
    pub fn operands(&self, step: &Step) -> &[Operand] {
        self.kernels.get(step.kernel as usize).map_or(&[], |launch| &launch.operands)
    }

    /// Bytes of the arena that an entry uses.
    pub fn arena_bytes(entry: &Entry) -> u64 {
        entry.buffers.iter().map(|buffer| buffer.offset + buffer.bytes).max().unwrap_or(0)
    }

    /// Maximum number of live bytes over the steps of an entry, a lower bound of the arena size. A buffer written in place
    /// counts once.
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
