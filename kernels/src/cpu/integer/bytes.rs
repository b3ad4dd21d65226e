//! Integer panels on Arm, whose instructions multiply bytes: an input's 16 bits q are two of them,
//!
//! ```text
//! q = 256 · h + l + 128                h = q >> 8,  l = (q & 255) − 128
//! Σ w · q = 256 · Σ w · h + Σ w · l + 128 · Σ w
//! ```
//!
//! exactly. The last sum belongs to the weights alone: many rows share it.
//!
//! Eight inputs of a row, an octet, are one register: eight h, then eight l. Eight inputs of a panel are eight registers: on
//! `aarch64` four inputs of four outputs each, multiplied with four h and with four l (sdot); with int8 matrix instructions
//! eight inputs of two outputs each, multiplied with eight h and eight l at once (smmla).

use super::weights::{INT3_PAIRS, INT3_WORDS, Integers, int3_last_pair, int3_pair};
use crate::cpu::builder::{Buffer, Builder, Num, Value};
use crate::kernel::{Elem, LANES};
use crate::target::ArmLevel;

/// Inputs of an octet.
pub(super) const OCTET: usize = 8;

/// i32 lanes of a register.
const LANES_OF_I32: usize = 4;

/// Registers of a panel's 16 outputs.
const OUTPUTS: usize = LANES / LANES_OF_I32;

/// Registers that an octet of a row and a panel is summed in: those of h and those of l.
const SUMS: usize = 2 * OUTPUTS;

/// Prefetch distance of weights, in bytes.
const AHEAD: usize = 2048;

/// 16 inputs as i16, as the octets of two registers: i32 lanes.
pub(super) fn octets(inputs: Value) -> Value {
    let [h, l] = [1, 0].map(|byte| move |octet: usize| (0..OCTET).map(move |i| 2 * (OCTET * octet + i) + byte));
    let order: Vec<usize> = [0, 1].into_iter().flat_map(|octet| h(octet).chain(l(octet))).collect();
    // With its highest bit inverted, an unsigned byte is a signed one less 128.
    let bytes = (inputs ^ 0x80).reinterpret(Num::I8);
    bytes.shuffle(bytes, &order).reinterpret(Num::I32)
}

/// Packed weights, read by octets of inputs.
pub(super) struct Octets<'a, 'm> {
    pub(super) b: &'a Builder<'m>,
    pub(super) weights: &'a Integers,
    pub(super) level: ArmLevel,
}

/// The weights of an octet of inputs.
struct Octet {
    /// What a row's octet is multiplied with.
    registers: Vec<Value>,
    /// The same weights, four inputs of four outputs in each register: those of the first four inputs, then the others.
    quads: Vec<Value>,
}

impl Octets<'_, '_> {
    /// Chunks that hold whole octets of a panel.
    fn chunks(&self) -> usize {
        OCTET / self.weights.chunk_inputs().min(OCTET)
    }

    /// Octets in these chunks.
    fn octets(&self) -> usize {
        self.chunks() * self.weights.chunk_inputs() / OCTET
    }

    fn zeros(&self, n: usize) -> Vec<Value> {
        vec![self.b.splat_i32(0, LANES_OF_I32); n]
    }

    /// Octet `octet` of the chunks at a byte of the panels.
    fn load(&self, at: Value, octet: usize) -> Octet {
        let load = |register: usize| self.b.load_vector(self.weights.panels, at + LANES * register, LANES);
        // Two inputs of eight outputs in each register.
        let pairs: Vec<[Value; 2]> = match self.weights.format {
            Elem::I8 => (0..4).map(|pair| [load(2 * pair), load(2 * pair + 1)]).collect(),
            Elem::I3 => (0..4).map(|pair| self.int3_pair(at, 4 * octet + pair)).collect(),
            _ => {
                let nibbles =
                    |[x, y]: [Value; 2]| [[x, y].map(|x| (x << 4).shr_signed(4)), [x, y].map(|x| x.shr_signed(4))];
                (0..2).flat_map(|quad| nibbles([load(2 * quad), load(2 * quad + 1)])).collect()
            }
        };
        let quad = |pairs: &[[Value; 2]]| -> Vec<Value> {
            (0..2).flat_map(|half| zip(pairs[0][half], pairs[1][half], Num::I16)).collect()
        };
        let [first, second] = [quad(&pairs[..2]), quad(&pairs[2..])];
        let registers = match self.level {
            ArmLevel::V82 => [&first[..], &second].concat(),
            ArmLevel::I8mm => first.iter().zip(&second).flat_map(|(&x, &y)| zip(x, y, Num::I32)).collect(),
        };
        Octet { registers, quads: [first, second].concat() }
    }

    /// A pair of inputs of the chunk of int3 at a byte of the panels, eight outputs in each register.
    fn int3_pair(&self, at: Value, pair: usize) -> [Value; 2] {
        let words = |word: usize| self.weights.int3_words(self.b, at, word);
        let registers: Vec<Value> = match pair / INT3_PAIRS {
            INT3_WORDS.. => {
                let [low, middle, high] = [0, 1, 2].map(words);
                (0..low.len()).map(|at| int3_last_pair([low[at], middle[at], high[at]])).collect()
            }
            word => words(word).into_iter().map(|word| int3_pair(word, pair % INT3_PAIRS)).collect(),
        };
        let low_bytes: Vec<usize> = (0..LANES).map(|byte| 2 * byte).collect();
        [0, 2].map(|first| {
            let [x, y] = [first, first + 1].map(|at| registers[at].reinterpret(Num::I8));
            x.shuffle(y, &low_bytes)
        })
    }

    /// Adds the products of a row's octet with the panel's register of a number.
    fn add(&self, x: Value, number: usize, weights: Value, sums: &mut [Value]) {
        match self.level {
            ArmLevel::V82 => {
                let (quad, outputs) = (number / OUTPUTS, number % OUTPUTS);
                for half in 0..2 {
                    let x = x.shuffle(x, &[2 * half + quad; LANES_OF_I32]).reinterpret(Num::I8);
                    let sum = &mut sums[OUTPUTS * half + outputs];
                    *sum = self.b.dot_bytes(*sum, weights, x);
                }
            }
            ArmLevel::I8mm => sums[number] = self.b.matmul_bytes(sums[number], x.reinterpret(Num::I8), weights),
        }
    }

    /// Adds the weights of an octet.
    fn add_weights(&self, octet: &Octet, sums: &mut [Value]) {
        let ones = self.b.splat_i32(0x0101_0101, LANES_OF_I32).reinterpret(Num::I8);
        for quad in octet.quads.chunks_exact(OUTPUTS) {
            sums.iter_mut().zip(quad).for_each(|(sum, &w)| *sum = self.b.dot_bytes(*sum, w, ones));
        }
    }

    /// The sums of a row and a panel per register of outputs, from those of [`add`](Self::add) and the weights' own.
    fn finish(&self, sums: &[Value], of_weights: &[Value]) -> Vec<Value> {
        let (h, l): (Vec<Value>, Vec<Value>) = match self.level {
            ArmLevel::V82 => (sums[..OUTPUTS].to_vec(), sums[OUTPUTS..].to_vec()),
            ArmLevel::I8mm => {
                let half = |lanes: [usize; 4]| move |pair: &[Value]| pair[0].shuffle(pair[1], &lanes);
                let pairs = || sums.chunks_exact(2);
                (pairs().map(half([0, 1, 4, 5])).collect(), pairs().map(half([2, 3, 6, 7])).collect())
            }
        };
        h.iter().zip(&l).zip(of_weights).map(|((&h, &l), &w)| (h << 8) + l + (w << 7)).collect()
    }

    /// Integer sums of a group for rows and panels, from the packed weights, indexed by row, panel and register of outputs. `x`
    /// loads the octet of a row with a number; `panels` are numbers of panels.
    pub(super) fn stream_group(
        &self,
        rows: &[Value],
        panels: &[Value],
        group: Value,
        x: &dyn Fn(Value, Value) -> Value,
    ) -> Vec<Value> {
        let (b, weights) = (self.b, self.weights);
        let starts: Vec<Value> = panels.iter().map(|&panel| weights.panel(panel)).collect();
        let chunks = weights.group_chunks(group);
        let n_sums = rows.len() * panels.len() * SUMS;
        let zeros = self.zeros(n_sums + panels.len() * OUTPUTS);
        let sums = b.for_range(chunks.start, chunks.end, self.chunks(), zeros, |chunk, mut sums| {
            let first_octet = (chunk - chunks.start) / self.chunks() * self.octets();
            let places: Vec<Value> = starts.iter().map(|&start| start + chunk * weights.chunk_bytes()).collect();
            for (&place, chunk) in places.iter().flat_map(|place| (0..self.chunks()).map(move |chunk| (place, chunk))) {
                weights.prefetch(b, place + (AHEAD + chunk * weights.chunk_bytes()));
            }
            let (sums_of_rows, sums_of_weights) = sums.split_at_mut(n_sums);
            for octet in 0..self.octets() {
                let x: Vec<Value> = rows.iter().map(|&row| x(row, first_octet + octet)).collect();
                for (p, &place) in places.iter().enumerate() {
                    let octet = self.load(place, octet);
                    self.add_weights(&octet, &mut sums_of_weights[p * OUTPUTS..][..OUTPUTS]);
                    for (number, &weights) in octet.registers.iter().enumerate() {
                        for (&x, sums) in x.iter().zip(sums_of_rows.chunks_exact_mut(panels.len() * SUMS)) {
                            self.add(x, number, weights, &mut sums[p * SUMS..][..SUMS]);
                        }
                    }
                }
            }
            sums
        });
        let (sums, of_weights) = sums.split_at(n_sums);
        let of_weights = of_weights.chunks_exact(OUTPUTS).cycle();
        sums.chunks_exact(SUMS).zip(of_weights).flat_map(|(sums, of_weights)| self.finish(sums, of_weights)).collect()
    }

    /// An array for a group of a panel: the sums of its weights in the first row, then a row per octet.
    pub(super) fn unpacked(b: &Builder, group: usize) -> Buffer {
        b.stack(Num::I32, &[1 + group / OCTET, 2 * LANES])
    }

    /// Unpacks a group of the panel with a number; returns its octets.
    pub(super) fn unpack(&self, panel: Value, group: Value, unpacked: Buffer) -> Value {
        let (b, weights) = (self.b, self.weights);
        let (start, chunks) = (weights.panel(panel), weights.group_chunks(group));
        let sums = b.for_range(chunks.start, chunks.end, self.chunks(), self.zeros(OUTPUTS), |chunk, mut sums| {
            let first_row = (chunk - chunks.start) / self.chunks() * self.octets() + 1;
            for octet in 0..self.octets() {
                let row = first_row + octet;
                let octet = self.load(start + chunk * weights.chunk_bytes(), octet);
                self.add_weights(&octet, &mut sums);
                for (register, weights) in octet.registers.iter().enumerate() {
                    b.store(weights.reinterpret(Num::I32), unpacked, (row, LANES_OF_I32 * register));
                }
            }
            sums
        });
        sums.iter().enumerate().for_each(|(register, &sum)| b.store(sum, unpacked, (0, LANES_OF_I32 * register)));
        chunks.count() / self.chunks() * self.octets()
    }

    /// Integer sums of a group for rows, from the unpacked weights, indexed by row and register of outputs.
    pub(super) fn pass_group(
        &self,
        rows: &[Value],
        n_octets: Value,
        unpacked: Buffer,
        x: &dyn Fn(Value, Value) -> Value,
    ) -> Vec<Value> {
        let b = self.b;
        let load = |row: Value, register: usize| b.load_vector(unpacked, (row, LANES_OF_I32 * register), LANES_OF_I32);
        let sums = b.for_range(0, n_octets, 1, self.zeros(rows.len() * SUMS), |octet, mut sums| {
            let x: Vec<Value> = rows.iter().map(|&row| x(row, octet)).collect();
            for number in 0..SUMS {
                let weights = load(octet + 1, number).reinterpret(Num::I8);
                for (&x, sums) in x.iter().zip(sums.chunks_exact_mut(SUMS)) {
                    self.add(x, number, weights, sums);
                }
            }
            sums
        });
        let of_weights: Vec<Value> = (0..OUTPUTS).map(|register| load(b.index(0), register)).collect();
        sums.chunks_exact(SUMS).flat_map(|sums| self.finish(sums, &of_weights)).collect()
    }
}

/// The lanes of x and y in turn, as registers of `lanes`: those of the lower halves, those of the upper halves.
fn zip(x: Value, y: Value, lanes: Num) -> [Value; 2] {
    let [x, y] = [x, y].map(|z| z.reinterpret(lanes));
    let n = x.lanes();
    [0, n / 2].map(|first| {
        let order: Vec<usize> = (first..first + n / 2).flat_map(|lane| [lane, n + lane]).collect();
        x.shuffle(y, &order).reinterpret(Num::I8)
    })
}
