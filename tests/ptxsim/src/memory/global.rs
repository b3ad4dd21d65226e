//! Global memory: allocations with guard space between them, and two bits per byte: whether it was written, and whether the running
//! grid has stored it.
//!
//! Words are relaxed atomics, since blocks run on several threads. As on the hardware, a race gives one value or the other.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed};

use super::{Chunk, byte_bits};
use crate::fault::FaultKind;

/// First address. Addresses truncated to 32 bits are outside every allocation.
const FIRST: u64 = 0x10_0000_0000;
/// Least distance between allocations, in bytes.
const GUARD: u64 = 4096;
/// Alignment of allocations.
const ALIGN: u64 = 256;

#[derive(Debug)]
struct Allocation {
    name: String,
    base: u64,
    bytes: u64,
    words: Vec<AtomicU32>,
    /// One bit per byte; 16 bytes per entry.
    written: Vec<AtomicU16>,
    /// Bytes that the running grid has stored, likewise.
    stored: Vec<AtomicU16>,
}

/// All allocations, by address.
#[derive(Debug)]
pub(crate) struct Global {
    allocations: Vec<Allocation>,
    next: u64,
}

#[derive(Debug)]
pub(crate) struct Bad {
    pub kind: FaultKind,
    pub what: String,
}

impl Global {
    pub fn new() -> Global {
        Global { allocations: Vec::new(), next: FIRST }
    }

    pub fn allocate(&mut self, name: &str, bytes: u64) -> u64 {
        let base = self.next;
        let n_chunks = bytes.div_ceil(16) as usize;
        self.allocations.push(Allocation {
            name: name.to_owned(),
            base,
            bytes,
            words: (0..4 * n_chunks).map(|_| AtomicU32::new(0x7fff_dead)).collect(),
            written: (0..n_chunks).map(|_| AtomicU16::new(0)).collect(),
            stored: (0..n_chunks).map(|_| AtomicU16::new(0)).collect(),
        });
        self.next = (base + bytes + GUARD).next_multiple_of(ALIGN);
        base
    }

    /// Frees an allocation. Its addresses are not reused.
    pub fn free(&mut self, base: u64) -> Result<(), Bad> {
        match self.allocations.iter().position(|allocation| allocation.base == base) {
            Some(index) => {
                self.allocations.remove(index);
                Ok(())
            }
            None => Err(Bad { kind: FaultKind::OutOfBounds, what: format!("{base:#x} is no allocation's address") }),
        }
    }

    /// A grid begins: it has stored nothing.
    pub fn begin_grid(&mut self) {
        self.allocations.iter_mut().flat_map(|allocation| &mut allocation.stored).for_each(|bits| *bits.get_mut() = 0);
    }

    /// Whether the running grid has stored one of `n` bytes. False outside allocations.
    pub fn has_stored(&self, hint: &mut usize, address: u64, n: usize) -> bool {
        let Ok((allocation, offset)) = self.find(hint, address, n as u64) else { return false };
        let of_chunk = |chunk: usize| {
            let bytes = offset.max(16 * chunk)..(offset + n).min(16 * chunk + 16);
            allocation.stored[chunk].load(Relaxed) >> (bytes.start % 16) & byte_bits(bytes.len()) != 0
        };
        (offset / 16..(offset + n).div_ceil(16)).any(of_chunk)
    }

    /// The allocation with `n` bytes from `address`, and the offset. `hint` caches the last one.
    #[inline]
    fn find(&self, hint: &mut usize, address: u64, n: u64) -> Result<(&Allocation, usize), Bad> {
        if let Some(allocation) = self.allocations.get(*hint) {
            let offset = address.wrapping_sub(allocation.base);
            if offset < allocation.bytes && offset + n <= allocation.bytes {
                return Ok((allocation, offset as usize));
            }
        }
        let index = self.allocations.partition_point(|allocation| allocation.base <= address);
        if index > 0 {
            let allocation = &self.allocations[index - 1];
            let offset = address - allocation.base;
            if offset < allocation.bytes && offset + n <= allocation.bytes {
                *hint = index - 1;
                return Ok((allocation, offset as usize));
            }
        }
        Err(self.outside(index, address, n))
    }

    fn outside(&self, index: usize, address: u64, n: u64) -> Bad {
        let near = match index.checked_sub(1).map(|index| &self.allocations[index]) {
            Some(a) => format!("{} bytes into `{}` of {} bytes", address - a.base, a.name, a.bytes),
            None => "below every allocation".to_owned(),
        };
        Bad { kind: FaultKind::OutOfBounds, what: format!("{n} bytes at {address:#x}: {near}") }
    }

    /// Loads `n` ≤ 16 bytes; `n` is a power of two and the alignment.
    #[inline]
    pub fn load(&self, hint: &mut usize, address: u64, n: usize) -> Result<Chunk, Bad> {
        aligned(address, n)?;
        let (allocation, offset) = self.find(hint, address, n as u64)?;
        let mut chunk = Chunk::default();
        let word = offset / 4;
        if n >= 4 {
            for i in 0..n / 4 {
                chunk.words[i] = allocation.words[word + i].load(Relaxed);
            }
        } else {
            chunk.words[0] = allocation.words[word].load(Relaxed) >> (8 * (offset % 4)) & (u32::MAX >> (32 - 8 * n));
        }
        chunk.written = allocation.written[offset / 16].load(Relaxed) >> (offset % 16) & byte_bits(n);
        Ok(chunk)
    }

    /// Stores `n` bytes, as [`Global::load`]. Bytes without a bit in `written` become unwritten.
    #[inline]
    pub fn store(&self, hint: &mut usize, address: u64, n: usize, chunk: &Chunk) -> Result<(), Bad> {
        aligned(address, n)?;
        let (allocation, offset) = self.find(hint, address, n as u64)?;
        let word = offset / 4;
        if n >= 4 {
            for i in 0..n / 4 {
                allocation.words[word + i].store(chunk.words[i], Relaxed);
            }
        } else {
            let (shift, ones) = (8 * (offset % 4), u32::MAX >> (32 - 8 * n));
            let merge = |old: u32| Some(old & !(ones << shift) | (chunk.words[0] & ones) << shift);
            let _ = allocation.words[word].fetch_update(Relaxed, Relaxed, merge);
        }
        allocation.mark(offset, byte_bits(n), chunk.written);
        allocation.note_store(offset, byte_bits(n));
        Ok(())
    }

    /// Fast path: loads up to 512 bytes. Less than a word is in the low bits. Returns false, without effects, if a byte is
    /// unwritten or out of bounds.
    #[inline]
    pub fn load_row(&self, hint: &mut usize, address: u64, n: usize, words: &mut [u32]) -> bool {
        let Ok((allocation, offset)) = self.find(hint, address, n as u64) else { return false };
        if !allocation.is_written(offset, n) {
            return false;
        }
        let first = offset / 4;
        if n < 4 {
            words[0] = allocation.words[first].load(Relaxed) >> (8 * (offset % 4)) & (u32::MAX >> (32 - 8 * n));
            return true;
        }
        for (word, held) in words.iter_mut().zip(&allocation.words[first..first + n / 4]) {
            *word = held.load(Relaxed);
        }
        true
    }

    /// Fast path: stores words to an aligned address. Returns false, without effects, if one is out of bounds.
    #[inline]
    pub fn store_row(&self, hint: &mut usize, address: u64, words: &[u32]) -> bool {
        let Ok((allocation, offset)) = self.find(hint, address, 4 * words.len() as u64) else { return false };
        for (word, held) in words.iter().zip(&allocation.words[offset / 4..]) {
            held.store(*word, Relaxed);
        }
        let mut at = offset;
        let end = offset + 4 * words.len();
        while at < end {
            let n = (16 - at % 16).min(end - at);
            allocation.mark(at, byte_bits(n), byte_bits(n));
            allocation.note_store(at, byte_bits(n));
            at += n;
        }
        true
    }

    /// Applies `f` to an aligned value of 4 or 8 bytes. Returns the old value, and whether it was written.
    pub fn update(&self, hint: &mut usize, address: u64, n: usize, f: impl Fn(u64) -> u64) -> Result<(u64, bool), Bad> {
        aligned(address, n)?;
        let (allocation, offset) = self.find(hint, address, n as u64)?;
        let written = allocation.written[offset / 16].load(Relaxed) >> (offset % 16) & byte_bits(n);
        let old = if n == 4 {
            let word = &allocation.words[offset / 4];
            u64::from(word.fetch_update(Relaxed, Relaxed, |old| Some(f(u64::from(old)) as u32)).unwrap_or(0))
        } else {
            // Kernels with atomics run on one thread, so the two halves need not be one atomic.
            let words = &allocation.words[offset / 4..offset / 4 + 2];
            let old = u64::from(words[0].load(Relaxed)) | u64::from(words[1].load(Relaxed)) << 32;
            let new = f(old);
            words[0].store(new as u32, Relaxed);
            words[1].store((new >> 32) as u32, Relaxed);
            old
        };
        allocation.mark(offset, byte_bits(n), byte_bits(n));
        allocation.note_store(offset, byte_bits(n));
        Ok((old, written == byte_bits(n)))
    }

    /// Reads any number of bytes, and reports for each whether it was written.
    pub fn read(&self, address: u64, bytes: &mut [u8], mut written: impl FnMut(usize, bool)) -> Result<(), Bad> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.find(&mut 0, address, bytes.len() as u64)?;
        let mut at = 0;
        while at < bytes.len() {
            let here = offset + at;
            if here.is_multiple_of(16) && bytes.len() - at >= 16 {
                for (i, word) in bytes[at..at + 16].chunks_exact_mut(4).enumerate() {
                    word.copy_from_slice(&allocation.words[here / 4 + i].load(Relaxed).to_le_bytes());
                }
                let bits = allocation.written[here / 16].load(Relaxed);
                (0..16).for_each(|i| written(at + i, bits >> i & 1 == 1));
                at += 16;
                continue;
            }
            bytes[at] = (allocation.words[here / 4].load(Relaxed) >> (8 * (here % 4))) as u8;
            written(at, allocation.written[here / 16].load(Relaxed) >> (here % 16) & 1 == 1);
            at += 1;
        }
        Ok(())
    }

    /// Copies bytes that do not overlap, including which are unwritten.
    pub fn copy(&self, from: u64, to: u64, n: u64) -> Result<(), Bad> {
        if n == 0 {
            return Ok(());
        }
        if from.abs_diff(to) < n {
            let what = format!("a copy of {n} bytes from {from:#x} to {to:#x}, which overlap");
            return Err(Bad { kind: FaultKind::Operand, what });
        }
        let (mut bytes, mut unwritten) = (vec![0; n as usize], Vec::new());
        self.read(from, &mut bytes, |at, written| {
            if !written {
                unwritten.push(at as u64);
            }
        })?;
        self.write(to, &bytes)?;
        let (allocation, offset) = self.find(&mut 0, to, n)?;
        unwritten.iter().for_each(|at| allocation.mark(offset + *at as usize, 1, 0));
        Ok(())
    }

    /// Writes any number of bytes.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Bad> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.find(&mut 0, address, bytes.len() as u64)?;
        let mut at = 0;
        while at < bytes.len() {
            let here = offset + at;
            if here.is_multiple_of(16) && bytes.len() - at >= 16 {
                for i in 0..4 {
                    let word = [0, 1, 2, 3].map(|j| bytes[at + 4 * i + j]);
                    allocation.words[here / 4 + i].store(u32::from_le_bytes(word), Relaxed);
                }
                allocation.written[here / 16].store(u16::MAX, Relaxed);
                at += 16;
                continue;
            }
            let shift = 8 * (here % 4);
            let merge = |old: u32| Some(old & !(255 << shift) | u32::from(bytes[at]) << shift);
            let _ = allocation.words[here / 4].fetch_update(Relaxed, Relaxed, merge);
            allocation.mark(here, 1, 1);
            at += 1;
        }
        Ok(())
    }

    /// Marks `n` bytes as unwritten.
    pub fn forget(&self, address: u64, n: u64) -> Result<(), Bad> {
        if n == 0 {
            return Ok(());
        }
        let (allocation, offset) = self.find(&mut 0, address, n)?;
        for at in offset..offset + n as usize {
            allocation.mark(at, 1, 0);
        }
        Ok(())
    }

    /// Bytes from an address to the end of its allocation.
    pub fn extent(&self, address: u64) -> Result<u64, Bad> {
        self.find(&mut 0, address, 1).map(|(allocation, offset)| allocation.bytes - offset as u64)
    }

    /// Allocation and offset of an address, for messages.
    pub fn place(&self, address: u64) -> String {
        match self.find(&mut 0, address, 1) {
            Ok((allocation, offset)) => format!("`{}` + {offset}", allocation.name),
            Err(bad) => bad.what,
        }
    }
}

impl Allocation {
    /// Whether all bytes were written.
    #[inline]
    fn is_written(&self, offset: usize, n: usize) -> bool {
        let (first, last) = (offset / 16, (offset + n - 1) / 16);
        let head = u16::MAX << (offset % 16);
        let tail = u16::MAX >> (15 - (offset + n - 1) % 16);
        if first == last {
            let bits = head & tail;
            return self.written[first].load(Relaxed) & bits == bits;
        }
        let mut all = self.written[first].load(Relaxed) | !head;
        all &= self.written[last].load(Relaxed) | !tail;
        for chunk in &self.written[first + 1..last] {
            all &= chunk.load(Relaxed);
        }
        all == u16::MAX
    }

    /// Sets the stored bits of bytes in one entry.
    #[inline]
    fn note_store(&self, offset: usize, bytes: u16) {
        let (cell, bits) = (&self.stored[offset / 16], bytes << (offset % 16));
        if cell.load(Relaxed) & bits != bits {
            cell.fetch_or(bits, Relaxed);
        }
    }

    /// Sets the written bits of bytes in one entry.
    #[inline]
    fn mark(&self, offset: usize, bytes: u16, written: u16) {
        let shift = offset % 16;
        let cell = &self.written[offset / 16];
        let old = cell.load(Relaxed);
        let (set, clear) = ((bytes & written) << shift, (bytes & !written) << shift);
        if old & set != set {
            cell.fetch_or(set, Relaxed);
        }
        if old & clear != 0 {
            cell.fetch_and(!clear, Relaxed);
        }
    }
}

#[inline]
fn aligned(address: u64, n: usize) -> Result<(), Bad> {
    if address & (n as u64 - 1) != 0 {
        return Err(Bad { kind: FaultKind::Misaligned, what: format!("{n} bytes at {address:#x}") });
    }
    Ok(())
}
