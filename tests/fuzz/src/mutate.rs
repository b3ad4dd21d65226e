//! Mutations of inputs, determined by a seed: bits, bytes, interesting numbers, parts that are cut, doubled, moved or taken from another
//! input, and words of the formats.

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{RngCore, SeedableRng};

/// Longest input.
const MOST_BYTES: usize = 1 << 16;

/// Words that parsers look for.
const WORDS: [&str; 32] = [
    "null",
    "true",
    "-1",
    "0",
    "1e400",
    "0.1",
    "18446744073709551615",
    "4294967296",
    "2147483647",
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "{{",
    "}}",
    "{%",
    "%}",
    "{% for i in range(9) %}",
    "{% endfor %}",
    "\\u0000",
    "\\ud800",
    "\u{fffd}",
    "ü",
    "(a|b)*",
    "{1,1000}",
    "$ref",
    "type",
    "\n",
    ".reg .b32 %r<9>;",
];

/// Numbers at the edges of their types.
const NUMBERS: [u64; 12] =
    [0, 1, 2, 7, 127, 255, 256, 65535, i32::MAX as u64, u32::MAX as u64, i64::MAX as u64, u64::MAX];

/// A source of mutated inputs.
pub struct Mutator {
    random: Pcg64Mcg,
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    /// Mutations of these inputs.
    pub fn new(seeds: Vec<Vec<u8>>, seed: u64) -> Mutator {
        Mutator { random: Pcg64Mcg::seed_from_u64(seed), seeds }
    }

    fn below(&mut self, n: usize) -> usize {
        (self.random.next_u64() % n.max(1) as u64) as usize
    }

    fn seed(&mut self) -> Vec<u8> {
        let at = self.below(self.seeds.len());
        self.seeds.get(at).cloned().unwrap_or_default()
    }

    /// The next input: a seed with one to eight mutations.
    pub fn input(&mut self) -> Vec<u8> {
        let mut bytes = self.seed();
        for _ in 0..=self.below(8) {
            self.mutate(&mut bytes);
            bytes.truncate(MOST_BYTES);
        }
        bytes
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let end = at + self.below((bytes.len() - at).min(64) + 1);
        match self.below(10) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = self.random.next_u32() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let part = bytes[at..end].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, part);
            }
            4 => {
                let word = WORDS[self.below(WORDS.len())];
                bytes.splice(at..end.min(at + 8), word.bytes());
            }
            5 | 6 => {
                let number =
                    NUMBERS[self.below(NUMBERS.len())].wrapping_add(self.random.next_u64() % 3).wrapping_sub(1);
                let wide = [1, 2, 4, 8][self.below(4)].min(bytes.len() - at);
                bytes[at..at + wide].copy_from_slice(&number.to_le_bytes()[..wide]);
            }
            7 => {
                let other = self.seed();
                let from = self.below(other.len() + 1);
                let to = from + self.below(other.len() - from + 1).min(256);
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            8 => {
                // A decimal number in a text.
                let Some(begin) = (at..bytes.len()).find(|&at| bytes[at].is_ascii_digit()) else { return };
                let end = (begin..bytes.len()).find(|&at| !bytes[at].is_ascii_digit()).unwrap_or(bytes.len());
                let number = NUMBERS[self.below(NUMBERS.len())].to_string();
                bytes.splice(begin..end, number.bytes());
            }
            _ => {
                let n = self.below(16) + 1;
                let more: Vec<u8> = (0..n).map(|_| self.random.next_u32() as u8).collect();
                bytes.splice(at..at, more);
            }
        }
    }
}

/// Reads an input as a list of edits: a place (u32), how to choose a number (u8), and the number (u64), 13 bytes each.
pub(crate) fn edits(data: &[u8]) -> impl Iterator<Item = (usize, u64)> {
    data.chunks_exact(13).take(16).map(|edit| {
        let place = u32::from_le_bytes([edit[0], edit[1], edit[2], edit[3]]) as usize;
        let number = u64::from_le_bytes(edit[5..13].try_into().unwrap_or_default());
        match edit[4] {
            chosen if (chosen as usize) < NUMBERS.len() => (place, NUMBERS[chosen as usize]),
            chosen if chosen < 128 => (place, number % 4096),
            _ => (place, number),
        }
    })
}
