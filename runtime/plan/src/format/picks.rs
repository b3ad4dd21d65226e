//! Tokens that a GPU picks, so that rows of logits need not travel to the host.

use serde::{Deserialize, Serialize};

use super::{Entry, Step};

/// Where the steps of an entry that pick tokens from its logits leave them: one i32 for each row, [`NO_TOKEN`] where none of
/// its logits is largest and finite. A run makes one of these steps, or none where the host picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picks {
    /// The likeliest tokens; bytes from the start of the arena.
    pub likeliest: u64,
    /// Tokens drawn by the table of settings; bytes from the start of the arena.
    pub drawn: u64,
}

/// How a GPU picks the tokens of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Pick {
    /// The likeliest of each row.
    Likeliest,
    /// As the [`Setting`] of each row says.
    Drawn,
}

impl Picks {
    /// Where a pick leaves its tokens; bytes from the start of the arena.
    pub fn tokens(self, pick: Pick) -> u64 {
        match pick {
            Pick::Likeliest => self.likeliest,
            Pick::Drawn => self.drawn,
        }
    }
}

impl Entry {
    /// The steps of a run with this pick, with their indices: all but those that pick otherwise.
    pub fn steps_of(&self, pick: Option<Pick>) -> impl Iterator<Item = (usize, &Step)> {
        self.steps.iter().enumerate().filter(move |(_, step)| step.pick.is_none() || step.pick == pick)
    }
}

/// The token of a row that has no finite largest logit; the host's sampler refuses such a row.
pub const NO_TOKEN: i32 = -1;

/// How the token of one row is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// 0 takes the likeliest.
    pub temperature: f32,
    /// Tokens that may be drawn at most; 0 is all.
    pub top_k: u32,
    /// Share of the weight that the likeliest together reach; 1 is all.
    pub top_p: f32,
    /// Weight at least, relative to the likeliest token's; 0 is all.
    pub min_p: f32,
    /// 64 random bits, of which the upper 53 count.
    pub draw: u64,
}

impl Setting {
    /// Takes the likeliest token.
    pub const LIKELIEST: Setting = Setting { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, draw: 0 };

    /// i32 of a setting in the table; those without a name below are 0.
    pub const WORDS: usize = 8;

    /// The word of the temperature, f32.
    pub const TEMPERATURE: usize = 0;

    /// The word of top-k, i32.
    pub const TOP_K: usize = 1;

    /// The word of top-p, f32.
    pub const TOP_P: usize = 2;

    /// The word of min-p, f32.
    pub const MIN_P: usize = 3;

    /// The words of the draw's low and high half.
    pub const DRAW: [usize; 2] = [4, 5];

    /// A row of the table.
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
