//! Sequences divided into steps. The bits of each token's result must not depend on the division.

use jambac_harness::Conditions;

/// Tokens of a few sequences. Operands and results have one row per token, sequence after sequence.
pub struct Batch {
    /// Tokens of each sequence.
    pub lengths: Vec<usize>,
}

/// The division of a batch into steps.
#[derive(Clone, Copy, Debug)]
pub enum Division {
    /// All in one step.
    Whole,
    /// At most this many tokens of each unfinished sequence per step.
    Chunks(usize),
    /// One sequence after the other, each in one step.
    OneByOne,
}

impl Division {
    /// All divisions, the undivided one first.
    pub const ALL: [Division; 5] =
        [Division::Whole, Division::Chunks(1), Division::Chunks(5), Division::Chunks(16), Division::OneByOne];

    /// The conditions of a step. On CPUs the undivided batch runs with several numbers of threads; a divided one runs with two
    /// threads and is compared with the undivided one.
    pub fn conditions(self, of_batch: &Conditions) -> Conditions {
        match (self, of_batch) {
            (Division::Whole, _) | (_, Conditions::Seed(_) | Conditions::Device(_)) => of_batch.clone(),
            _ => Conditions::Threads(2),
        }
    }
}

/// One step, by sequences that take part.
pub struct Step {
    /// Indices of the sequences.
    pub sequences: Vec<usize>,
    /// Tokens of each sequence before the step.
    pub past: Vec<usize>,
    /// Tokens of each sequence in the step.
    pub lengths: Vec<usize>,
    /// Row in the batch of each token.
    rows: Vec<usize>,
}

impl Batch {
    pub fn n_tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    pub fn steps(&self, division: Division) -> Vec<Step> {
        let n = self.lengths.len();
        let all: Vec<usize> = (0..n).collect();
        match division {
            Division::Whole => vec![self.step(all, vec![0; n], self.lengths.clone())],
            Division::OneByOne => all.iter().map(|&s| self.step(vec![s], vec![0], vec![self.lengths[s]])).collect(),
            Division::Chunks(chunk) => {
                let longest = self.lengths.iter().copied().max().unwrap_or(0);
                let step = |past: usize| {
                    let left: Vec<usize> = all.iter().copied().filter(|&s| self.lengths[s] > past).collect();
                    let lengths = left.iter().map(|&s| chunk.min(self.lengths[s] - past)).collect();
                    self.step(left.clone(), vec![past; left.len()], lengths)
                };
                (0..longest).step_by(chunk).map(step).collect()
            }
        }
    }

    /// A step of some sequences, with their previous and current numbers of tokens.
    pub fn step(&self, sequences: Vec<usize>, past: Vec<usize>, lengths: Vec<usize>) -> Step {
        let first = |s: usize| self.lengths[..s].iter().sum::<usize>();
        let places = sequences.iter().zip(&past).zip(&lengths);
        let rows = places.flat_map(|((&s, &past), &length)| first(s) + past..first(s) + past + length).collect();
        Step { sequences, past, lengths, rows }
    }
}

impl Step {
    pub fn n_tokens(&self) -> usize {
        self.rows.len()
    }

    /// The table `starts`.
    pub fn starts(&self) -> Vec<i32> {
        let mut starts = vec![0];
        starts.extend(self.lengths.iter().scan(0, |end, &length| {
            *end += length as i32;
            Some(*end)
        }));
        starts
    }

    /// The table `sequence_of`.
    pub fn sequence_of(&self) -> Vec<i32> {
        self.lengths.iter().enumerate().flat_map(|(s, &length)| vec![s as i32; length]).collect()
    }

    /// The step's rows of an operand.
    pub fn gather(&self, cols: usize, operand: &[f32]) -> Vec<f32> {
        self.rows.iter().flat_map(|row| &operand[row * cols..][..cols]).copied().collect()
    }

    /// Stores the step's result rows at their rows of the batch.
    pub fn scatter(&self, cols: usize, found: &[f32], result: &mut [f32]) {
        for (row, found) in self.rows.iter().zip(found.chunks_exact(cols)) {
            result[row * cols..][..cols].copy_from_slice(found);
        }
    }
}
