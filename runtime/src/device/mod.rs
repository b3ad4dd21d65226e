//! Devices: memory, code, and running an entry's steps. The only place with `unsafe`.

pub(crate) mod cpu;
pub(crate) mod cuda;
pub(crate) mod id;
pub(crate) mod map;

use jamba_plan::format::{Count, Setting, Table};

use crate::RuntimeError;
use crate::trace::Trace;

/// What a plan was opened on.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    /// The target whose code runs.
    pub(crate) target: String,
    /// `cpu`, or the name that its driver gives a GPU.
    pub(crate) device: String,
    /// Threads of the host that run steps, the caller's included.
    pub(crate) n_threads: usize,
}

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

impl Counts {
    /// One of them.
    pub(crate) fn of(self, count: Count) -> u64 {
        match count {
            Count::Tokens => self.tokens,
            Count::Sequences => self.sequences,
            Count::Outputs => self.outputs,
        }
    }
}

/// For each row of logits of a step, how the device may pick a token from it; None where the host needs the row itself. Empty
/// where it needs all of them.
pub(crate) type Settings<'a> = &'a [Option<Setting>];

/// What a device leaves of a row of logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Row<'a> {
    /// The row, f32 \[vocab\].
    Logits(&'a [f32]),
    /// The token that it picked from it.
    Token(u32),
}

/// A piece of one of the two pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A slot of conv and SSM state.
    Slot(u32),
    /// A page of keys and values.
    Page(u32),
}

/// What the engine asks of a device that has a plan open.
pub(crate) trait Device: Send {
    /// The step table, to be filled before [`Device::run`].
    fn table(&mut self, table: Table) -> &mut [i32];

    /// Makes a piece that of a sequence without tokens: zeros; a page holds NaN instead where steps are checked.
    fn clear(&mut self, piece: Piece);

    /// Nobody may read the piece from here on: it holds NaN where steps are checked.
    fn discard(&mut self, piece: Piece);

    /// Copies a piece over another of the same pool.
    fn copy(&mut self, from: Piece, to: Piece);

    /// Copies a piece to the host: as many bytes as it has.
    fn read(&self, piece: Piece, bytes: &mut [u8]);

    /// Copies a piece from the host: as many bytes as it has.
    fn write(&mut self, piece: Piece, bytes: &[u8]);

    /// Runs the steps of the entry of that index over the tables; counts and tables were checked against the plan. A device that
    /// picks tokens does so from the rows that have settings.
    ///
    /// # Errors
    /// Faults of the device, after which it is of no use.
    fn run(
        &mut self,
        entry: usize,
        counts: Counts,
        settings: Settings<'_>,
        trace: Option<&mut Trace>,
    ) -> Result<(), RuntimeError>;

    /// Row `row` of the logits that the entry of that index left; of no meaning where a token was picked from it.
    fn logits(&self, entry: usize, row: u64) -> &[f32];

    /// The token that the device picked from row `row` of the last run; None where it picked none.
    fn token(&self, _row: u64) -> Option<u32> {
        None
    }

    /// Whether everything asked of it so far was done: pieces that moved, too.
    ///
    /// # Errors
    /// The fault after which it is of no use.
    fn health(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Runs every step alone from now on, looks at the guards after it, and fills what nobody may read with NaN. A device that
    /// was opened for it has guards.
    fn check_steps(&mut self);

    /// The first guard that was broken since the last call, when steps are checked.
    fn broken_guard(&mut self) -> Option<RuntimeError>;
}
