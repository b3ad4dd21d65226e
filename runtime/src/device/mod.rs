//! Devices: memory, code, and running an entry's steps. The only place with `unsafe`.

pub(crate) mod cpu;
pub(crate) mod map;

use jamba_plan::format::{EntryKind, Table};

use crate::RuntimeError;
use crate::trace::Trace;

/// Counts of one step, as [`jamba_plan::format::Count`] names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Tokens, all sequences together.
    pub(crate) tokens: u64,
    /// Sequences.
    pub(crate) sequences: u64,
    /// Rows of logits.
    pub(crate) outputs: u64,
}

/// What the engine asks of a device that has a plan open.
pub(crate) trait Device: Send {
    /// The step table, to be filled before [`Device::run`].
    fn table(&mut self, table: Table) -> &mut [i32];

    /// Makes a state slot that of a sequence without tokens.
    fn clear_slot(&mut self, slot: u32);

    /// Runs an entry's steps over the tables; counts and tables were checked against the plan.
    fn run(&mut self, entry: EntryKind, counts: Counts, trace: Option<&mut Trace>);

    /// Row `row` of the logits that the entry left.
    fn logits(&self, entry: EntryKind, row: u64) -> &[f32];

    /// Runs every step alone from now on and looks at the guards after it.
    fn check_steps(&mut self);

    /// The first guard that was broken since the last call, when steps are checked.
    fn broken_guard(&mut self) -> Option<RuntimeError>;
}
