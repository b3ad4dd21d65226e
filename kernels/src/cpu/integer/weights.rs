//! Loads of packed integer weights on CPUs: a vector register of i16 holds two inputs of each of its outputs.

use super::{GROUP, activation_group, padded_inputs};
use crate::cpu::builder::{Buffer, Builder, Num, Range, Value};
use crate::kernel::{Elem, LANES};
use crate::target::CpuTarget;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Words that hold a group of int3, of each output and each of a pair's inputs.
pub(super) const INT3_WORDS: usize = 3;

/// Pairs of inputs in a word of int3.
pub(super) const INT3_PAIRS: usize = 5;

/// Packed weights with their scales.
#[derive(Clone, Copy)]
pub(crate) struct Integers {
    /// Inputs.
    pub(super) k: usize,
    /// I8, I4 or I3.
    pub(super) format: Elem,
    pub(super) panels: Buffer,
    /// The panels' scales.
    scales: Buffer,
}

impl Integers {
    /// The slots `weight` and `scales` of a kernel, if the format is an integer format.
    pub(in crate::cpu) fn of(b: &Builder, format: Elem, k: usize) -> Option<Integers> {
        let is_integer = matches!(format, Elem::I8 | Elem::I4 | Elem::I3);
        is_integer.then(|| Integers { k, format, panels: b.buffer("weight"), scales: b.buffer("scales") })
    }

    /// Number of input groups for the quantization of x.
    pub(super) fn n_groups(&self) -> usize {
        padded_inputs(self.k).div_ceil(activation_group(self.format))
    }

    /// Chunks of a group within its panel; the last group may be shorter.
    pub(super) fn group_chunks(&self, group: Value) -> Range {
        let (chunks, in_group) = (self.chunks(), activation_group(self.format) / self.chunk_inputs());
        let start = group * in_group;
        let end = start + in_group;
        Range { start, end: if chunks.is_multiple_of(in_group) { end } else { end.min(chunks) } }
    }

    /// Chunks of a panel.
    pub(super) fn chunks(&self) -> usize {
        self.panel_bytes() / self.chunk_bytes()
    }

    /// Bytes of a chunk: whole lines that hold whole pairs of inputs of a panel.
    pub(super) fn chunk_bytes(&self) -> usize {
        if self.format == Elem::I3 { INT3_WORDS * LINE } else { LINE }
    }

    /// Pairs of inputs per chunk.
    pub(super) fn chunk_pairs(&self) -> usize {
        self.chunk_inputs() / 2
    }

    /// The pairs of each part of a chunk. A part is loaded into few registers.
    pub(super) fn parts(&self) -> Vec<std::ops::Range<usize>> {
        match self.format {
            Elem::I8 => vec![0..1, 1..2],
            Elem::I4 => vec![0..2, 2..4],
            _ => {
                (0..self.chunk_pairs()).step_by(INT3_PAIRS).map(|p| p..self.chunk_pairs().min(p + INT3_PAIRS)).collect()
            }
        }
    }

    /// Prefetches the chunk at a byte of the panels.
    pub(super) fn prefetch(&self, b: &Builder, at: Value) {
        (0..self.chunk_bytes()).step_by(LINE).for_each(|line| b.prefetch(self.panels, at + line));
    }

    /// Byte offset of a panel.
    pub(super) fn panel(&self, panel: Value) -> Value {
        panel * self.panel_bytes()
    }

    /// The weights of part `part` of the chunk at byte `chunk`, indexed by pair of inputs and register of outputs.
    pub(super) fn load_part(&self, b: &Builder, chunk: Value, part: usize) -> Vec<Vec<Value>> {
        let in_register = 2 * lanes(b.target());
        let registers = (0..2 * LANES).step_by(in_register);
        if self.format == Elem::I3 {
            let words = |word: usize| self.int3_words(b, chunk, word);
            if part < INT3_WORDS {
                let words = words(part);
                return (0..INT3_PAIRS).map(|pair| words.iter().map(|&word| int3_pair(word, pair)).collect()).collect();
            }
            let [low, middle, high] = [0, 1, 2].map(words);
            return vec![(0..low.len()).map(|at| int3_last_pair([low[at], middle[at], high[at]])).collect()];
        }
        let load = |register: usize| {
            let at = chunk + (2 * LANES * part + register);
            b.load_vector(self.panels, at, in_register).to_i16()
        };
        let bytes: Vec<Value> = registers.map(load).collect();
        if self.format == Elem::I8 {
            return vec![bytes];
        }
        let low = bytes.iter().map(|&bytes| (bytes << 12).shr_signed(12)).collect();
        let high = bytes.iter().map(|&bytes| bytes.shr_signed(4)).collect();
        vec![low, high]
    }

    /// Word `word` of the chunk of int3 at byte `chunk`, per register of outputs.
    pub(super) fn int3_words(&self, b: &Builder, chunk: Value, word: usize) -> Vec<Value> {
        let bytes = b.target().vector_bytes();
        let load = |at: usize| b.load_vector(self.panels, chunk + (LINE * word + at), bytes).reinterpret(Num::I16);
        (0..LINE).step_by(bytes).map(load).collect()
    }

    /// Factors of a group's integer sums, per register of a panel's lanes; `None` means 1.
    pub(super) fn group_scales(&self, b: &Builder, panel: Value, group: Value) -> Option<Vec<Value>> {
        (self.format != Elem::I8).then(|| {
            let first = (panel * (padded_inputs(self.k) / GROUP) + group) * LANES;
            let registers = (0..LANES).step_by(lanes(b.target()));
            registers.map(|lane| b.load_vector(self.scales, first + lane, lanes(b.target())).to_f32()).collect()
        })
    }

    /// A panel's results from its sums over all groups.
    pub(super) fn scale_channels(&self, b: &Builder, panel: Value, sums: Value) -> Value {
        match self.format {
            Elem::I8 => sums * b.load_vector(self.scales, panel * LANES, LANES),
            _ => sums,
        }
    }

    /// Inputs of a panel per chunk.
    pub(super) fn chunk_inputs(&self) -> usize {
        8 * self.chunk_bytes() / self.format.bits() / LANES
    }

    fn panel_bytes(&self) -> usize {
        LANES * padded_inputs(self.k) * self.format.bits() / 8
    }
}

/// Pair `pair` of a word of int3.
pub(super) fn int3_pair(word: Value, pair: usize) -> Value {
    (word << (13 - 3 * pair)).shr_signed(13)
}

/// The pair of which each word has a bit.
pub(super) fn int3_last_pair([low, middle, high]: [Value; INT3_WORDS]) -> Value {
    let [low, middle, high] = [low, middle, high].map(|word| word.shr_signed(15));
    (high << 2) | (middle & 2) | (low & 1)
}

/// i32 lanes per vector register.
pub(super) fn lanes(target: CpuTarget) -> usize {
    target.vector_bytes() / Num::I32.bytes()
}
