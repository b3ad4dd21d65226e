//! What every step of a run wrote.

use jamba_plan::format::{EntryKind, Program};
use jamba_runtime::StepObserver;

/// The marker of words that were not written: a finite f32 (7.8e-13) that no sum is likely to be.
const UNWRITTEN: u32 = 0x2b5a_c3e1;

/// Bytes of a word. Arenas on CPUs hold f32 and i32.
const WORD: usize = 4;

/// A buffer after the step that wrote it.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) entry: EntryKind,
    /// Index of the step in its entry.
    pub(super) step: usize,
    /// The step's kernel.
    pub(super) symbol: String,
    /// The step's place in the model.
    pub(super) source: String,
    /// The name of the buffer: `out`.
    pub(super) buffer: String,
    /// The words that were written, in order.
    pub(super) words: Vec<u32>,
}

/// The properties that two outputs must share to be compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key<'a> {
    source: &'a str,
    /// What the kernel computes: its symbol without the weight format.
    kernel: Vec<&'a str>,
    buffer: &'a str,
    n_words: usize,
}

impl Output {
    pub(super) fn key(&self) -> Key<'_> {
        let is_format = |word: &&str| ["f32", "f16", "bf16", "int8", "int4", "int3"].contains(word);
        Key {
            source: &self.source,
            kernel: self.symbol.split('_').filter(|word| !is_format(word)).collect(),
            buffer: &self.buffer,
            n_words: self.words.len(),
        }
    }

    /// Whether both outputs hold integers: words that would be tiny or no numbers as f32.
    pub(super) fn is_integer(&self, other: &Output) -> bool {
        let small = |&word: &u32| (word as i32).unsigned_abs() < 1 << 23;
        self.words.iter().chain(&other.words).all(small)
    }
}

/// The values of two outputs as f32; of integers the numbers, which f32 holds exactly.
pub(super) fn values(a: &Output, b: &Output) -> (Vec<f32>, Vec<f32>) {
    let integer = a.is_integer(b);
    let value = |&word: &u32| if integer { word as i32 as f32 } else { f32::from_bits(word) };
    (a.words.iter().map(value).collect(), b.words.iter().map(value).collect())
}

/// Keeps the outputs of every step.
pub(super) struct Recorder {
    program: Program,
    pub(super) outputs: Vec<Output>,
}

impl Recorder {
    pub(super) fn new(program: Program) -> Recorder {
        Recorder { program, outputs: Vec::new() }
    }
}

impl StepObserver for Recorder {
    fn before(&mut self, entry: usize, step: usize, arena: &mut [u8]) {
        let buffers = self.program.entries[entry].buffers.iter().filter(|buffer| buffer.first as usize == step);
        // A buffer written in place holds an operand, and keeps the marks of its own unwritten words.
        for buffer in buffers.filter(|buffer| buffer.in_place_of.is_none()) {
            let bytes = &mut arena[buffer.offset as usize..(buffer.offset + buffer.bytes) as usize];
            bytes.chunks_exact_mut(WORD).for_each(|word| word.copy_from_slice(&UNWRITTEN.to_ne_bytes()));
        }
    }

    fn after(&mut self, entry: usize, step: usize, arena: &[u8]) {
        let of_entry = &self.program.entries[entry];
        let record = &of_entry.steps[step];
        let kernel = &self.program.kernels[record.kernel as usize];
        for buffer in of_entry.buffers.iter().filter(|buffer| buffer.first as usize == step) {
            let bytes = &arena[buffer.offset as usize..(buffer.offset + buffer.bytes) as usize];
            let words = bytes.chunks_exact(WORD).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
            self.outputs.push(Output {
                entry: of_entry.kind,
                step,
                symbol: kernel.symbol.clone(),
                source: record.source.clone(),
                buffer: buffer.holds.clone(),
                words: words.filter(|&word| word != UNWRITTEN).collect(),
            });
        }
    }
}
