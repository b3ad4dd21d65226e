//! Devices: memory, code, and execution of an entry's steps. The only module with `unsafe`.

pub(crate) mod cpu;
pub(crate) mod cuda;
pub mod faults;
pub(crate) mod id;
pub(crate) mod map;

use std::sync::Arc;

use jamba_plan::format::{Arg, Count, Limits, Program, Setting, Table};

use crate::RuntimeError;
use crate::trace::Trace;

/// The device, target and threads of an open plan.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    /// The target whose code was loaded.
    pub(crate) target: String,
    /// `cpu`, or the GPU's name as its driver reports it.
    pub(crate) device: String,
    /// Number of host threads that run steps, including the caller.
    pub(crate) n_threads: usize,
}

/// The values of [`Count`] in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Tokens, summed over all sequences.
    pub(crate) tokens: u64,
    /// Number of sequences.
    pub(crate) sequences: u64,
    /// Number of rows of logits.
    pub(crate) outputs: u64,
}

impl Counts {
    /// Tokens, sequences and rows of logits.
    pub(crate) fn all(self) -> [u64; 3] {
        [self.tokens, self.sequences, self.outputs]
    }

    /// The value of one count.
    pub(crate) fn of(self, count: Count) -> u64 {
        match count {
            Count::Tokens => self.tokens,
            Count::Sequences => self.sequences,
            Count::Outputs => self.outputs,
        }
    }
}

/// Base addresses of a plan's memory on its device; 0 for memory that the plan does not have.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) weights: u64,
    pub(crate) kv: u64,
    pub(crate) state: u64,
    pub(crate) arena: u64,
    pub(crate) tables: u64,
}

impl Addresses {
    /// The value of a kernel argument that is known when the plan is opened; None for counts, which each step sets, and for
    /// tensor maps, which only GPUs have.
    pub(crate) fn of(self, arg: Arg, program: &Program, limits: &Limits) -> Option<u64> {
        match arg {
            Arg::Arena(offset) => Some(self.arena + offset),
            Arg::State(offset) => Some(self.state + offset),
            Arg::Kv(offset) => Some(self.kv + offset),
            Arg::Weight(index) => Some(self.weights + program.weights[index as usize].offset),
            Arg::Table(table) => Some(self.tables + table.offset(limits)),
            Arg::Constant(value) => Some(value),
            Arg::Count(..) | Arg::TensorMap(_) => None,
        }
    }
}

/// Fills memory that no kernel may read: f32 and bf16 numbers of these bytes are NaN.
pub(crate) const NAN_BYTE: u8 = 0xff;

/// How the device may pick a token from each row of logits; None if the host needs the row. Empty if the host needs all
/// rows.
pub(crate) type Settings<'a> = &'a [Option<Setting>];

/// The result of a row of logits after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Row<'a> {
    /// The logits, f32 \[vocab\].
    Logits(&'a [f32]),
    /// The token that the device picked.
    Token(u32),
}

/// A unit of pool memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A state slot: conv and SSM state of one sequence.
    Slot(u32),
    /// A KV page: keys and values of 16 tokens.
    Page(u32),
}

/// A device with an open plan.
pub(crate) trait Device: Send {
    /// A step table, which the caller fills before [`Device::run`].
    fn table(&mut self, table: Table) -> &mut [i32];

    /// Initializes a piece for a new sequence: zeros, or NaN in a KV page if steps are checked.
    fn clear(&mut self, piece: Piece);

    /// Marks a piece as unused. Fills it with NaN if steps are checked.
    fn discard(&mut self, piece: Piece);

    /// Copies a piece to another one of the same pool.
    fn copy(&mut self, from: Piece, to: Piece);

    /// Copies a piece to host memory. `bytes` has the size of the piece.
    fn read(&self, piece: Piece, bytes: &mut [u8]);

    /// A copy of a piece of `bytes` bytes in host memory.
    fn copy_out(&self, piece: Piece, bytes: usize) -> Arc<[u8]> {
        let mut copy: Arc<[u8]> = std::iter::repeat_n(0, bytes).collect();
        if let Some(copy) = Arc::get_mut(&mut copy) {
            self.read(piece, copy);
        }
        copy
    }

    /// Copies a piece from host memory. `bytes` has the size of the piece.
    fn write(&mut self, piece: Piece, bytes: &[u8]);

    /// Runs the steps of an entry on the step tables. The caller has checked counts and tables against the plan. A device that
    /// can pick tokens does so for the rows that have settings.
    ///
    /// # Errors
    /// Device faults, after which the device is unusable.
    fn run(
        &mut self,
        entry: usize,
        counts: Counts,
        settings: Settings<'_>,
        trace: Option<&mut Trace>,
    ) -> Result<(), RuntimeError>;

    /// Mean number of threads of the jobs so far, weighted by their time.
    fn mean_threads(&self) -> f64 {
        1.0
    }

    /// Row `row` of the logits of the last run of `entry`; undefined if the device picked a token from the row.
    fn logits(&self, entry: usize, row: u64) -> &[f32];

    /// The token that the device picked from row `row` of the last run, if any.
    fn token(&self, _row: u64) -> Option<u32> {
        None
    }

    /// The CPU, which can show its arena between steps.
    fn as_cpu(&mut self) -> Option<&mut cpu::Cpu> {
        None
    }

    /// Reports faults of earlier calls, including those that return nothing.
    ///
    /// # Errors
    /// The fault that made the device unusable.
    fn health(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Enables checks: synchronizes after every step, checks the guards and fills unused memory with NaN. On a GPU, guards
    /// exist only if the plan was opened with [`DebugOptions::check`](crate::DebugOptions::check).
    fn check_steps(&mut self);

    /// The first broken guard since the last call, if steps are checked.
    fn broken_guard(&mut self) -> Option<RuntimeError>;
}
