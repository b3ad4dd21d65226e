//! `mma.sync`, `ldmatrix`, `stmatrix`.
//!
//! Fragments of lane l, with g = l / 4, t = l mod 4 and e elements per register:
//! register i of A holds row g + 8 (i mod 2), elements from t·e + 4e·(i / 2); register i of B holds column g, elements from
//! t·e + 4e·i; register i of C and D holds row g + 8 (i / 2), column 2t + i mod 2.

use super::access::{Address, at_lane, misplaced};
use super::number::Number;
use crate::decode::{Call, Decoder};
use crate::exec::{Block, Warp};
use crate::fault::{ParseError, Run};
use crate::memory::shared::Access;
use crate::memory::{Chunk, SHARED_WINDOW, byte_bits};
use crate::registers::{Halves, LANES, Registers, Slot};

/// `mma.sync` m16n8k(8 | 16 | 32)
#[derive(Debug)]
pub(crate) struct Mma {
    a_type: Number,
    b_type: Number,
    d: Box<[Slot]>,
    a: Box<[Slot]>,
    b: Box<[Slot]>,
    c: Box<[Slot]>,
}

/// `ldmatrix` or `stmatrix`: 8 × 8 matrices of 16-bit elements.
#[derive(Debug)]
pub(crate) struct Matrix {
    store: bool,
    transposed: bool,
    slots: Box<[Slot]>,
    address: Address,
}

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Mma, ParseError> {
    let ["mma", "sync", "aligned", shape, "row", "col", rest @ ..] = &call.parts[..] else { return d.unknown() };
    let rest: Vec<&str> = rest.iter().copied().filter(|part| *part != "satfinite").collect();
    let [d_type, a_type, b_type, c_type] = rest[..] else { return d.unknown() };
    let (Some(a_type), Some(b_type)) = (Number::named(a_type), Number::named(b_type)) else { return d.unknown() };
    let sum = if a_type.is_integer() { "s32" } else { "f32" };
    if d_type != sum || c_type != sum || a_type.is_integer() != b_type.is_integer() {
        return d.unknown();
    }
    let k: usize = shape.strip_prefix("m16n8k").and_then(|k| k.parse().ok()).unwrap_or(0);
    let n_b = k * a_type.bytes() / 16;
    if !matches!((k, a_type.bytes()), (8 | 16, 2) | (16 | 32, 1)) {
        return d.unknown();
    }
    d.count(call, 4..=4)?;
    let op = Mma {
        a_type,
        b_type,
        d: d.word_targets(&call.operands[0])?,
        a: d.words(&call.operands[1])?,
        b: d.words(&call.operands[2])?,
        c: d.words(&call.operands[3])?,
    };
    if op.d.len() != 4 || op.a.len() != 2 * n_b || op.b.len() != n_b || op.c.len() != 4 {
        return d.fail("the wrong number of registers");
    }
    Ok(op)
}

pub(super) fn decode_matrix(d: &mut Decoder, call: &Call) -> Result<Matrix, ParseError> {
    let store = call.parts[0] == "stmatrix";
    for part in &call.parts[1..] {
        if !["sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta", "b16"].contains(part) {
            return d.unknown();
        }
    }
    d.count(call, 2..=2)?;
    let (address, data) = if store { (0, 1) } else { (1, 0) };
    let data = &call.operands[data];
    let slots = if store { d.words(data)? } else { d.word_targets(data)? };
    let n = if call.has("x4") {
        4
    } else if call.has("x2") {
        2
    } else {
        1
    };
    if slots.len() != n {
        return d.fail(format!("{} registers for {n} pieces", slots.len()));
    }
    let address = Address::decode(d, &call.operands[address])?;
    Ok(Matrix { store, transposed: call.has("trans"), slots, address })
}

impl Mma {
    pub fn run(&self, regs: &mut Registers) {
        let per_word = 4 / self.a_type.bytes();
        let k = per_word * 4 * self.b.len();
        let (mut a, mut b) = ([[0f32; 32]; 16], [[0f32; 8]; 32]);
        let (mut a_poison, mut b_poison) = ([false; 16], [false; 8]);
        for (i, slot) in self.a.iter().enumerate() {
            let (words, poison) = (regs.r.get(*slot), regs.r.poison(*slot));
            for (lane, word) in words.iter().enumerate() {
                let row = lane / 4 + 8 * (i % 2);
                let first = lane % 4 * per_word + 4 * per_word * (i / 2);
                (0..per_word).for_each(|j| a[row][first + j] = self.a_type.of_word(*word, j));
                a_poison[row] |= poison >> lane & 1 == 1;
            }
        }
        for (i, slot) in self.b.iter().enumerate() {
            let (words, poison) = (regs.r.get(*slot), regs.r.poison(*slot));
            for (lane, word) in words.iter().enumerate() {
                let first = lane % 4 * per_word + 4 * per_word * i;
                (0..per_word).for_each(|j| b[first + j][lane / 4] = self.b_type.of_word(*word, j));
                b_poison[lane / 4] |= poison >> lane & 1 == 1;
            }
        }
        let mut sums = [[0f32; 8]; 16];
        for (sums, a) in sums.iter_mut().zip(&a) {
            for (a, b) in a[..k].iter().zip(&b) {
                (0..8).for_each(|n| sums[n] += a * b[n]);
            }
        }
        let mut out = [[0; LANES]; 4];
        let mut poison = [0; 4];
        for i in 0..4 {
            let (c, c_poison) = (regs.r.get(self.c[i]), regs.r.poison(self.c[i]));
            for lane in 0..LANES {
                let (m, n) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
                out[i][lane] = accumulate(self.a_type, c[lane], sums[m][n]);
                poison[i] |= u32::from(a_poison[m] || b_poison[n]) << lane;
            }
            poison[i] |= c_poison;
        }
        for i in 0..4 {
            regs.r.put(self.d[i], &out[i], poison[i], u32::MAX);
        }
    }
}

/// c + sum, in f32 or in i32.
#[inline]
pub(crate) fn accumulate(number: Number, c: u32, sum: f32) -> u32 {
    if number.is_integer() { c.wrapping_add(sum as i32 as u32) } else { (f32::from_bits(c) + sum).to_bits() }
}

impl Matrix {
    pub fn run(&self, warp: &mut Warp, block: &mut Block) -> Run {
        let n = self.slots.len();
        let needed = if n == 4 { u32::MAX } else { (1 << (8 * n)) - 1 };
        let addresses = self.address.lanes(warp, needed)?;
        let by = Access { agent: warp.agent, stamp: warp.stamp(), knows: &warp.knows };
        let news = block.shared.news(&by);
        let mut loaded = Vec::with_capacity(n);
        for i in 0..n {
            let mut rows = [(0, Chunk::default()); 8];
            for (row, out) in rows.iter_mut().enumerate() {
                let lane = 8 * i + row;
                let address = addresses[lane];
                let address = if address >= SHARED_WINDOW { address - SHARED_WINDOW } else { address };
                let at = block.shared.place(address, 16).map_err(misplaced(lane))?;
                if self.store {
                    block.shared.note_write(&by, news, at, 16).map_err(at_lane(lane))?;
                    *out = (at, Chunk::default());
                } else {
                    block.shared.note_read(&by, news, at, 16).map_err(at_lane(lane))?;
                    *out = (at, block.shared.load(at, 16));
                }
            }
            loaded.push(rows);
        }
        for (slot, mut rows) in self.slots.iter().zip(loaded) {
            if self.store {
                self.scatter(warp, *slot, &mut rows);
                for (at, chunk) in &rows {
                    block.shared.store(*at, 16, chunk);
                }
            } else {
                self.gather(warp, *slot, &rows);
            }
        }
        Ok(())
    }

    /// Row and column of half `j` of a lane.
    fn place(&self, lane: usize, j: usize) -> (usize, usize) {
        let (row, column) = (lane / 4, 2 * (lane % 4) + j);
        if self.transposed { (column, row) } else { (row, column) }
    }

    fn gather(&self, warp: &mut Warp, slot: Slot, rows: &[(usize, Chunk); 8]) {
        let (mut out, mut poison) = ([0; LANES], Halves::default());
        for (lane, out) in out.iter_mut().enumerate() {
            for j in 0..2 {
                let (row, column) = self.place(lane, j);
                let chunk = &rows[row].1;
                *out |= (chunk.words[column / 2] >> (16 * (column % 2)) & 0xffff) << (16 * j);
                let half = if j == 0 { &mut poison.low } else { &mut poison.high };
                *half |= u32::from(chunk.written >> (2 * column) & 3 != 3) << lane;
            }
        }
        warp.regs.r.put_halves(slot, &out, poison, u32::MAX);
    }

    fn scatter(&self, warp: &Warp, slot: Slot, rows: &mut [(usize, Chunk); 8]) {
        let (words, poison) = (warp.regs.r.get(slot), warp.regs.r.halves(slot));
        for (lane, word) in words.iter().enumerate() {
            for j in 0..2 {
                let poison = if j == 0 { poison.low } else { poison.high };
                let (row, column) = self.place(lane, j);
                let chunk = &mut rows[row].1;
                chunk.words[column / 2] |= (word >> (16 * j) & 0xffff) << (16 * (column % 2));
                if poison >> lane & 1 == 0 {
                    chunk.written |= byte_bits(2) << (2 * column);
                }
            }
        }
    }
}
