//! Global memory, shared memory, and the order of accesses.

pub(crate) mod global;
pub(crate) mod order;
pub(crate) mod shared;

/// First generic address of shared memory.
pub(crate) const SHARED_WINDOW: u64 = 0x7f00_0000_0000;
/// First generic address of the kernel parameters, below shared memory.
pub(crate) const PARAMETER_WINDOW: u64 = 0x7e00_0000_0000;

/// Up to 16 bytes as little-endian words, with a bit for each written byte.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub words: [u32; 4],
    pub written: u16,
}

impl Chunk {
    pub fn bytes(&self) -> [u8; 16] {
        let mut out = [0; 16];
        for (i, word) in self.words.iter().enumerate() {
            out[4 * i..4 * i + 4].copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    pub fn from_bytes(bytes: &[u8; 16], written: u16) -> Chunk {
        let mut words = [0; 4];
        for (i, word) in words.iter_mut().enumerate() {
            *word = u32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]);
        }
        Chunk { words, written }
    }
}

/// A bit for each of `n` bytes.
pub(crate) fn byte_bits(n: usize) -> u16 {
    (u32::MAX >> (32 - n)) as u16
}
