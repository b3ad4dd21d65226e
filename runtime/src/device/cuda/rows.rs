//! What a run leaves for the host of its rows of logits: the rows, or the tokens that were picked from them and the rows that the
//! host has to see.

use jamba_plan::format::{Entry, Logits, NO_TOKEN, Pick, Program};

use super::driver::{Driver, DriverError};
use crate::device::Settings;

/// The rows of the last run.
pub(super) struct Rows {
    /// Nothing is picked on the device.
    picks_on_host: bool,
    /// At the distance that they have on the device.
    logits: Vec<f32>,
    /// Of each row of a run that picked, [`NO_TOKEN`] where the row is here instead; else none.
    tokens: Vec<i32>,
}

impl Rows {
    /// Memory for the largest run of the program.
    pub(super) fn new(program: &Program, picks_on_host: bool) -> Rows {
        let most = |of: fn(&Entry) -> u64| program.entries.iter().map(of).max().unwrap_or(0) as usize;
        Rows {
            picks_on_host,
            logits: vec![0.0; most(|entry| elements(entry.logits, entry.max_outputs))],
            tokens: Vec::with_capacity(most(|entry| entry.max_outputs)),
        }
    }

    /// How tokens are picked on the device: drawn where any is; not at all where no row has a setting.
    pub(super) fn pick(&self, entry: &Entry, settings: Settings<'_>) -> Option<Pick> {
        entry.picks.filter(|_| !self.picks_on_host)?;
        let pick = |temperature: f32| if temperature > 0.0 { Pick::Drawn } else { Pick::Likeliest };
        settings.iter().flatten().map(|setting| pick(setting.temperature)).max()
    }

    /// Brings `n` rows from the arena at `arena`: all of them where nothing was picked; else their tokens, and those rows that have
    /// no setting or no finite largest logit.
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

    /// A row, where it was brought.
    pub(super) fn logits(&self, logits: Logits, row: u64) -> &[f32] {
        let begin = (row * logits.row_stride / 4) as usize;
        &self.logits[begin..begin + logits.n as usize]
    }

    /// The token that was picked from a row.
    pub(super) fn token(&self, row: u64) -> Option<u32> {
        self.tokens.get(row as usize).and_then(|&token| u32::try_from(token).ok())
    }
}

/// f32 from the first of `n` rows to the end of the last.
fn elements(logits: Logits, n: u64) -> u64 {
    n.checked_sub(1).map_or(0, |last| last * logits.row_stride / 4 + logits.n)
}
