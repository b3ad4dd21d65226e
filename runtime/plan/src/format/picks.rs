//! Tokens picked on the GPU, which avoids copying logits to the host.

use serde::{Deserialize, Serialize};

use super::{Entry, Step};

/// Locations of the picked tokens: one i32 per row of logits, [`NO_TOKEN`] if a row has no finite maximum. A run executes one
/// of these steps, or none if the host picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picks {
    /// The most likely tokens: offset in bytes from the start of the arena.
    pub likeliest: u64,
    /// The tokens drawn according to [`Table::Settings`](super::Table::Settings): offset in bytes from the start of the arena.
    pub drawn: u64,
}

/// The way a GPU picks the tokens of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Pick {
    /// The most likely token of each row.
    Likeliest,
    /// A token drawn according to the [`Setting`] of each row.
    Drawn,
}

impl Picks {
    /// Location of the tokens of a pick: offset in bytes from the start of the arena.
    pub fn tokens(self, pick: Pick) -> u64 {
        match pick {
            Pick::Likeliest => self.likeliest,
            Pick::Drawn => self.drawn,
        }
    }
}

impl Entry {
    /// The steps that a run with this pick executes, with their indices: the steps of every run and those that make this pick.
    pub fn steps_of(&self, pick: Option<Pick>) -> impl Iterator<Item = (usize, &Step)> {
        self.steps.iter().enumerate().filter(move |(_, step)| step.pick.is_none() || step.pick == pick)
    }
}

/// Token of a row without a finite maximum. The host's sampler rejects such a row.
pub const NO_TOKEN: i32 = -1;

/// Sampler settings of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// Temperature; 0 selects the most likely token.
    pub temperature: f32,
    /// Number of candidates that top-k keeps; 0 keeps all.
    pub top_k: u32,
    /// Cumulative probability that top-p keeps; 1 keeps all.
    pub top_p: f32,
    /// Minimum probability relative to the most likely token; 0 keeps all.
    pub min_p: f32,
    /// 64 random bits; the draw uses the upper 53.
    pub draw: u64,
}

impl Setting {
    /// Selects the most likely token.
    pub const LIKELIEST: Setting = Setting { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, draw: 0 };

    /// Number of i32 words per setting in the table; words without a name below are 0.
    pub const WORDS: usize = 8;

    /// Index of the word with the temperature (f32).
    pub const TEMPERATURE: usize = 0;

    /// Index of the word with top-k (i32).
    pub const TOP_K: usize = 1;

    /// Index of the word with top-p (f32).
    pub const TOP_P: usize = 2;

    /// Index of the word with min-p (f32).
    pub const MIN_P: usize = 3;

    /// Indices of the words with the low and the high half of the draw.
    pub const DRAW: [usize; 2] = [4, 5];

    /// The setting encoded as a row of the table.
    pub fn words(&self) -> [i32; Setting::WORDS] {
        let mut words = [0; Setting::WORDS];
        words[Setting::TEMPERATURE] = self.temperature.to_bits() as i32;
        words[Setting::TOP_K] = self.top_k.min(i32::MAX as u32) as i32;
        words[Setting::TOP_P] = self.top_p.to_bits() as i32;
        words[Setting::MIN_P] = self.min_p.to_bits() as i32;
        words[Setting::DRAW[0]] = self.draw as i32;
        words[Setting::DRAW[1]] = (self.draw >> 32) as i32;
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn settings_are_words() {
        let setting =
            Setting { temperature: 1.0, top_k: u32::MAX, top_p: 0.5, min_p: 0.0, draw: 0x8000_0001_0000_0002 };
        assert_eq!(setting.words(), [0x3f80_0000, i32::MAX, 0x3f00_0000, 0, 2, i32::MIN + 1, 0, 0]);
    }

    #[test]
    fn a_run_makes_one_of_the_steps_that_pick() {
        let steps =
            |entry: &Entry, pick| entry.steps_of(pick).map(|(index, step)| (index, step.kernel)).collect::<Vec<_>>();
        let entry = &fixture::sm_90a::program().entries[0];
        assert_eq!(steps(entry, None), [(0, 0), (1, 1)]);
        assert_eq!(steps(entry, Some(Pick::Likeliest)), [(0, 0), (1, 1), (2, 2)]);
        assert_eq!(steps(entry, Some(Pick::Drawn)), [(0, 0), (1, 1), (3, 3)]);
        let on_a_cpu = &fixture::program().entries[0];
        assert_eq!(steps(on_a_cpu, None).len(), on_a_cpu.steps.len());
    }
}
