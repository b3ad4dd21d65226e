//! The products of a warpgroup. A product starts when all four warps have reached it, and runs at a random time or when a wait
//! forces it.
//!
//! Operands are read when the product runs: registers, which the warps must not access before the wait, and shared memory, by an
//! agent of the warpgroup with the clocks that all four warps had in common when the product started.

use std::collections::VecDeque;
use std::sync::Arc;

use super::job::Haste;
use super::warp::Wait;
use super::{Block, Env};
use crate::fault::{FaultKind, Place, Run, Trouble};
use crate::isa::Op;
use crate::isa::mma::accumulate;
use crate::isa::number::Number;
use crate::isa::wgmma::{Product, Source, Wgmma};
use crate::memory::order::Knowledge;
use crate::memory::shared::{Access, Agent};
use crate::registers::LANES;
use crate::tensor_map::Swizzle;

/// Warps of a warpgroup.
const WARPS: usize = 4;
/// Bytes of K per product.
const K_BYTES: usize = 32;

#[derive(Debug)]
struct Started {
    number: u32,
    pc: u32,
    a: Option<u64>,
    b: u64,
    accumulate: bool,
    knows: Arc<Knowledge>,
}

/// Products in flight of a warpgroup.
#[derive(Debug, Default)]
pub(crate) struct Warpgroup {
    queue: VecDeque<Started>,
    issued: u32,
}

fn product_at<'a>(env: &Env<'a>, pc: u32) -> Option<&'a Product> {
    match &env.program.code.get(pc as usize)?.op {
        Op::Wgmma(Wgmma::Product(product)) => Some(product),
        _ => None,
    }
}

impl Block {
    /// After a slice of a warp: starts its product or ends its wait. True if there was progress.
    pub fn settle(&mut self, env: &Env, w: usize) -> Run<bool> {
        match self.warps[w].wait {
            Wait::Warpgroup => {
                let first = w / WARPS * WARPS;
                let Some(group) = self.warps.get(first..first + WARPS) else {
                    return Err(Trouble::warp(FaultKind::Divergence, "wgmma in a warpgroup of less than four warps"));
                };
                if group.iter().any(|warp| warp.wait != Wait::Warpgroup) {
                    return Ok(false);
                }
                if group.iter().any(|warp| warp.pc != group[0].pc) {
                    let what = "the warps of a warpgroup stand at different wgmma";
                    return Err(Trouble::warp(FaultKind::Divergence, what));
                }
                self.start_product(env, w / WARPS)?;
                Ok(true)
            }
            Wait::Products(number) => {
                let group = w / WARPS;
                while self.tensor[group].queue.front().is_some_and(|product| product.number <= number) {
                    self.run_product(env, group)?;
                }
                let agent = self.shared.agent(Agent::Tensor(group as u32))?;
                let stamp = self.time + number;
                let warp = &mut self.warps[w];
                warp.tensor.release(number, |pc| product_at(env, pc));
                warp.knows.learn(agent, stamp);
                warp.wait = Wait::None;
                warp.pc += 1;
                Ok(true)
            }
            Wait::None | Wait::Barrier(..) => Ok(false),
        }
    }

    fn start_product(&mut self, env: &Env, group: usize) -> Run {
        let first = group * WARPS;
        let pc = self.warps[first].pc;
        let Some(product) = product_at(env, pc) else { return Ok(()) };
        let mut knows = self.warps[first].knows.clone();
        for warp in &self.warps[first + 1..first + WARPS] {
            knows.meet(&warp.knows);
        }
        let a = match &product.a {
            Source::Shared(slot) => Some(self.descriptor(first, *slot)?),
            Source::Registers(_) => None,
        };
        let b = self.descriptor(first, product.b)?;
        let mut accumulates = [false; WARPS];
        for (i, accumulates) in accumulates.iter_mut().enumerate() {
            let (bits, poison) = product.accumulate.lanes(&self.warps[first + i].regs);
            if poison != 0 || bits != 0 && bits != u32::MAX {
                return Err(Trouble::warp(FaultKind::Operand, "scale-d is not the same in all lanes"));
            }
            *accumulates = bits != 0;
        }
        if accumulates != [accumulates[0]; WARPS] {
            return Err(Trouble::warp(FaultKind::Operand, "scale-d is not the same in all warps"));
        }
        self.tensor[group].issued += 1;
        let number = self.tensor[group].issued;
        for warp in &mut self.warps[first..first + WARPS] {
            warp.tensor.start(number, pc, product);
            warp.wait = Wait::None;
            warp.pc += 1;
            warp.advance();
        }
        let accumulate = accumulates[0];
        self.tensor[group].queue.push_back(Started { number, pc, a, b, accumulate, knows: Arc::new(knows) });
        let now = self.haste == Haste::AtOnce || self.haste == Haste::Sometime && self.rng.one_in(3);
        while now && !self.tensor[group].queue.is_empty() {
            self.run_product(env, group)?;
        }
        Ok(())
    }

    /// A descriptor, which must be the same in all lanes of all four warps.
    fn descriptor(&self, first: usize, slot: u32) -> Run<u64> {
        let value = self.warps[first].regs.d.get(slot)[0];
        for warp in &self.warps[first..first + WARPS] {
            if warp.regs.d.poison(slot) != 0 {
                return Err(Trouble::warp(FaultKind::Poison, "a descriptor was computed from unwritten memory"));
            }
            if warp.regs.d.get(slot).iter().any(|other| *other != value) {
                return Err(Trouble::warp(FaultKind::Operand, "a descriptor differs between the lanes of a warpgroup"));
            }
        }
        Ok(value)
    }

    /// Runs the next product of a random warpgroup. False if there is none.
    pub fn run_any_product(&mut self, env: &Env) -> Run<bool> {
        let waiting: Vec<usize> = (0..self.tensor.len()).filter(|g| !self.tensor[*g].queue.is_empty()).collect();
        if waiting.is_empty() {
            return Ok(false);
        }
        let group = waiting[self.rng.below(waiting.len())];
        self.run_product(env, group)?;
        Ok(true)
    }

    fn run_product(&mut self, env: &Env, group: usize) -> Run {
        let Some(started) = self.tensor[group].queue.pop_front() else { return Ok(()) };
        let place = Place { warp: (group * WARPS) as u32, lane: 0, pc: started.pc };
        self.multiply(env, group, &started).map_err(|mut trouble| {
            trouble.place = Some(place);
            trouble
        })
    }

    fn multiply(&mut self, env: &Env, group: usize, started: &Started) -> Run {
        let Some(product) = product_at(env, started.pc) else { return Ok(()) };
        let agent = self.shared.agent(Agent::Tensor(group as u32))?;
        let by = Access { agent, stamp: self.time + started.number, knows: &started.knows };
        let first = group * WARPS;
        let k = K_BYTES / product.a_type.bytes();
        let a = match (&product.a, started.a) {
            (Source::Shared(_), Some(descriptor)) => {
                self.operand(&by, descriptor, 64, product.a_type, product.outer_a, product.negate_a)?
            }
            (Source::Registers(slots), _) => self.fragments(first, slots, product),
            (Source::Shared(_), None) => return Ok(()),
        };
        let b = self.operand(&by, started.b, product.n, product.b_type, product.outer_b, product.negate_b)?;
        let mut columns = vec![0f32; k * product.n];
        for n in 0..product.n {
            for i in 0..k {
                columns[i * product.n + n] = b.values[n * k + i];
            }
        }
        let mut sums = vec![0f32; 64 * product.n];
        for (m, sums) in sums.chunks_exact_mut(product.n).enumerate() {
            for (x, column) in a.values[m * k..][..k].iter().zip(columns.chunks_exact(product.n)) {
                for (sum, y) in sums.iter_mut().zip(column) {
                    *sum += x * y;
                }
            }
        }
        for w in 0..WARPS {
            let regs = &mut self.warps[first + w].regs.r;
            for (i, slot) in product.d.iter().enumerate() {
                let (mut out, mut poison) = (*regs.get(*slot), regs.poison(*slot));
                if !started.accumulate {
                    (out, poison) = ([0; LANES], 0);
                }
                for (lane, out) in out.iter_mut().enumerate() {
                    let m = 16 * w + lane / 4 + 8 * (i % 4 / 2);
                    let n = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
                    *out = accumulate(product.a_type, *out, sums[m * product.n + n]);
                    poison |= u32::from(a.poison[m] || b.poison[n]) << lane;
                }
                regs.put(*slot, &out, poison, u32::MAX);
            }
        }
        Ok(())
    }

    /// A from registers: 16 rows per warp, in the layout of `mma.sync`.
    fn fragments(&self, first: usize, slots: &[u32], product: &Product) -> Operand {
        let number = product.a_type;
        let (k, per_word) = (K_BYTES / number.bytes(), 4 / number.bytes());
        let mut out = Operand { values: vec![0.0; 64 * k], poison: vec![false; 64] };
        for w in 0..WARPS {
            let regs = &self.warps[first + w].regs.r;
            for (i, slot) in slots.iter().enumerate() {
                for lane in 0..LANES {
                    let row = 16 * w + lane / 4 + 8 * (i % 2);
                    let at = lane % 4 * per_word + 4 * per_word * (i / 2);
                    for j in 0..per_word {
                        let value = number.of_word(regs.get(*slot)[lane], j);
                        out.values[row * k + at + j] = if product.negate_a { -value } else { value };
                    }
                    out.poison[row] |= regs.poison(*slot) >> lane & 1 == 1;
                }
            }
        }
        out
    }

    /// An operand from shared memory.
    fn operand(
        &mut self,
        by: &Access,
        descriptor: u64,
        rows: usize,
        number: Number,
        outer: bool,
        negate: bool,
    ) -> Run<Operand> {
        let layout = Layout::new(descriptor)?;
        let (k, per_chunk) = (K_BYTES / number.bytes(), 16 / number.bytes());
        let mut out = Operand { values: vec![0.0; rows * k], poison: vec![false; rows] };
        // A chunk is 16 bytes along the contiguous dimension.
        let (n_lines, n_chunks) = if outer { (k, rows / per_chunk) } else { (rows, 2) };
        for line in 0..n_lines {
            for c in 0..n_chunks {
                let at = if outer { layout.outer_chunk(line, c) } else { layout.inner_chunk(line, c) };
                let chunk = self.read_async(by, at, 16)?;
                for e in 0..per_chunk {
                    let value = number.of_word(chunk.words[e * number.bytes() / 4], e % (4 / number.bytes()));
                    let value = if negate { -value } else { value };
                    let (row, i) = if outer { (c * per_chunk + e, line) } else { (line, c * per_chunk + e) };
                    out.values[row * k + i] = value;
                    let bits = ((1u32 << number.bytes()) - 1) << (e * number.bytes());
                    out.poison[row] |= u32::from(chunk.written) & bits != bits;
                }
            }
        }
        Ok(out)
    }
}

/// The values of a matrix operand, and its poisoned rows.
struct Operand {
    values: Vec<f32>,
    poison: Vec<bool>,
}

/// A decoded matrix descriptor.
struct Layout {
    start: usize,
    leading: usize,
    stride: usize,
    swizzle: Swizzle,
}

impl Layout {
    fn new(descriptor: u64) -> Run<Layout> {
        let field = |at: u32| ((descriptor >> at & 0x3fff) << 4) as usize;
        let swizzle = [Swizzle::None, Swizzle::Bytes128, Swizzle::Bytes64, Swizzle::Bytes32];
        if descriptor >> 49 & 7 != 0 {
            let what = format!("descriptor {descriptor:#x} has a base offset; patterns must start where addresses say");
            return Err(Trouble::warp(FaultKind::Operand, what));
        }
        let swizzle = swizzle[(descriptor >> 62) as usize];
        Ok(Layout { start: field(0), leading: field(16), stride: field(32), swizzle })
    }

    /// K contiguous: address of chunk `c` of a row.
    fn inner_chunk(&self, row: usize, c: usize) -> usize {
        let (group, row) = (row / 8 * self.stride, row % 8);
        match self.swizzle.span() {
            None => self.start + group + c * self.leading + row * 16,
            Some(span) => self.swizzle.apply(self.start + group + row * span + c * 16),
        }
    }

    /// Rows contiguous: address of chunk `c` along the rows, at index `k`.
    fn outer_chunk(&self, k: usize, c: usize) -> usize {
        match self.swizzle.span() {
            None => self.start + c * self.stride + k / 8 * self.leading + k % 8 * 16,
            Some(span) => {
                let per_span = span / 16;
                let at = c % per_span * 16 + c / per_span * self.leading + k % 8 * span + k / 8 * self.stride;
                self.swizzle.apply(self.start + at)
            }
        }
    }
}
