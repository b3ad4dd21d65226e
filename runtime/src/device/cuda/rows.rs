//! Results of a run on the host: rows of logits, or the tokens that the device picked and the rows that the host needs.

use jamba_plan::format::{Entry, Logits, NO_TOKEN, Pick, Program};

use super::driver::{Driver, DriverError};
use crate::device::Settings;

/// Results of the last run.
pub(super) struct Rows {
    /// True if the device must not pick tokens.
    picks_on_host: bool,
    /// Rows of logits with the same stride as on the device.
    logits: Vec<f32>,
    /// The picked token of each row, [`NO_TOKEN`] if `logits` has the row instead; empty if the run picked no tokens.
    tokens: Vec<i32>,
}

impl Rows {
    /// Allocates buffers for the largest run of the program.
    pub(super) fn new(program: &Program, picks_on_host: bool) -> Rows {
        let most = |of: fn(&Entry) -> u64| program.entries.iter().map(of).max().unwrap_or(0) as usize;
        Rows {
            picks_on_host,
            logits: vec![0.0; most(|entry| elements(entry.logits, entry.max_outputs))],
            tokens: Vec::with_capacity(most(|entry| entry.max_outputs)),
        }
    }

    /// How the device picks tokens: by drawing if any row draws; not at all if no row has a setting.
    pub(super) fn pick(&self, entry: &Entry, settings: Settings<'_>) -> Option<Pick> {
        entry.picks.filter(|_| !self.picks_on_host)?;
        let pick = |temperature: f32| if temperature > 0.0 { Pick::Drawn } else { Pick::Likeliest };
        settings.iter().flatten().map(|setting| pick(setting.temperature)).max()
    }

    /// Downloads the results of `n` rows from the arena: all rows if no tokens were picked; otherwise the tokens, and the rows
    /// that have no setting or no finite largest logit.
    pub(super) fn bring(
        &mut self,
        driver: &mut dyn Driver,
        (arena, entry): (u64, &Entry),
        n: u64,
        (pick, settings): (Option<Pick>, Settings<'_>),
    ) -> Result<(), DriverError> {
        self.tokens.clear();
        let (from, stride) = (arena + entry.logits.offset, entry.logits.row_stride);
        let (Some(pick), Some(picks)) = (pick, entry.picks) else {
            let rows = &mut self.logits[..elements(entry.logits, n) as usize];
            return if n > 0 { driver.download(from, bytemuck::cast_slice_mut(rows)) } else { Ok(()) };
        };
        self.tokens.resize(n as usize, NO_TOKEN);
        driver.download(arena + picks.tokens(pick), bytemuck::cast_slice_mut(&mut self.tokens))?;
        for ((row, token), setting) in (0..).zip(&mut self.tokens).zip(settings) {
            if setting.is_none() || *token < 0 {
                *token = NO_TOKEN;
                let begin = (row * stride / 4) as usize;
                let logits = &mut self.logits[begin..begin + entry.logits.n as usize];
                driver.download(from + row * stride, bytemuck::cast_slice_mut(logits))?;
            }
        }
        Ok(())
    }

    /// A downloaded row.
    pub(super) fn logits(&self, logits: Logits, row: u64) -> &[f32] {
        let begin = (row * logits.row_stride / 4) as usize;
        &self.logits[begin..begin + logits.n as usize]
    }

    /// The token that the device picked from a row, if any.
    pub(super) fn token(&self, row: u64) -> Option<u32> {
        self.tokens.get(row as usize).and_then(|&token| u32::try_from(token).ok())
    }
}

/// Number of f32 from the start of the first of `n` rows to the end of the last.
fn elements(logits: Logits, n: u64) -> u64 {
    n.checked_sub(1).map_or(0, |last| last * logits.row_stride / 4 + logits.n)
}
