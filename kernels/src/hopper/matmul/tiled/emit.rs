//! The body of a product of many rows.
//!
//! 1. barriers of the ring, offsets of the experts
//! 2. producer: for each of the block's tiles and each 64 inputs, wait for an empty stage, copy weights and rows of x
//! 3. consumers: for each tile, wait for full stages and multiply; then finish and store ([`super::super::epilogue`])
//!
//! Weights are read from shared memory where they are bf16: products of a stage are awaited one stage later, and the stage before
//! is released then. int8 weights go through registers: while a stage's products run, the next stage's weights are loaded;
//! the registers are not written before the products that read them are complete.

use super::{INPUTS, OUTPUTS, STAGING_BYTES, Shared, THREADS};
use crate::cpu::builder::{Compare, Num, Type, Value};
use crate::hopper::Builder;
use crate::hopper::matmul::epilogue::{Consumer, Epilogue};
use crate::hopper::matmul::work::Work;
use crate::hopper::matmul::{Product, TileRows, integer};
use crate::hopper::ring::{Ring, Slot};
use crate::hopper::weight::BLOCK_ROWS;
use crate::kernel::Elem;

/// Registers of a thread, by role: 128 · 40 + 256 · 232 is a multiprocessor's all.
const PRODUCER_REGISTERS: u32 = 40;
const CONSUMER_REGISTERS: u32 = 232;

/// Warps that release a stage.
const CONSUMER_WARPS: u32 = 8;

/// Inputs of one wgmma.
const STEP: usize = 16;

/// What both roles know.
struct Kernel<'a, 'm> {
    b: &'a Builder<'m>,
    product: &'a Product,
    rows: TileRows,
    shared: Shared,
    ring: Ring,
    work: Work,
}

pub(crate) fn emit(b: &Builder, product: &Product, rows: TileRows) {
    let shared = Shared::of(product, rows);
    let ring = Ring { barriers: b.shared_at(shared.barriers), stages: shared.stages };
    let warpgroup = b.shr(b.uniform_warp(), 2);
    // 1. barriers, offsets
    b.if_(b.cmp(Compare::Eq, b.thread(), b.i32(0)), || ring.init(b, CONSUMER_WARPS));
    let work = Work::new(b, product, OUTPUTS, rows.number(), b.shared_at(shared.offsets));
    b.sync();

    let kernel = Kernel { b, product, rows, shared, ring, work };
    let produce = || {
        b.setmaxnreg_dec(PRODUCER_REGISTERS);
        b.if_(b.cmp(Compare::Eq, b.thread(), b.i32(0)), || kernel.produce());
        []
    };
    let consume = || {
        b.setmaxnreg_inc(CONSUMER_REGISTERS);
        kernel.consume(b.sub(warpgroup, b.i32(1)));
        []
    };
    b.if_else(b.cmp(Compare::Eq, warpgroup, b.i32(0)), produce, consume);
    const { assert!(PRODUCER_REGISTERS * 128 + CONSUMER_REGISTERS * 256 <= 65536 && THREADS == 384) };
}

impl Kernel<'_, '_> {
    /// Sums of 64 inputs.
    fn n_steps(&self) -> usize {
        self.product.k.div_ceil(INPUTS)
    }

    fn stage(&self, slot: Slot) -> Value {
        self.b.at(self.b.shared(), self.b.scaled(slot.stage, self.shared.stage_bytes))
    }

    /// 2. One thread's part: the copies.
    fn produce(&self) {
        let (b, ring) = (self.b, &self.ring);
        let (weight_map, x_map) = (b.pointer("weight_map"), b.pointer("x_map"));
        b.prefetch_tensor_map(weight_map);
        b.prefetch_tensor_map(x_map);
        self.work.for_each_tile(b, ring.first(b), |tile, slot| {
            let weight_row = b.add(tile.weight_row, b.scaled(tile.outputs, OUTPUTS));
            let n_steps = b.i32(self.n_steps() as i32);
            let copied = b.for_range(b.i32(0), n_steps, 1, [slot.stage, slot.parity], |step, [stage, parity]| {
                let slot = Slot { stage, parity };
                ring.wait_empty(b, slot);
                let (full, to, col) = (ring.full(b, slot), self.stage(slot), b.scaled(step, INPUTS));
                b.mbarrier_arrive_expect_tx(full, b.i32(self.shared.stage_bytes as i32));
                b.cp_async_bulk_tensor_2d(to, weight_map, [weight_row, col], full);
                let x = b.at_byte(to, self.shared.weight_bytes);
                b.cp_async_bulk_tensor_2d(x, x_map, [tile.first_row, col], full);
                let next = ring.next(b, slot);
                [next.stage, next.parity]
            });
            Slot { stage: copied[0], parity: copied[1] }
        });
    }

    /// 3. A consumer's part.
    fn consume(&self, consumer: Value) {
        let b = self.b;
        let consumer = Consumer::new(b, consumer, b.shared_at(self.shared.staging), STAGING_BYTES);
        let epilogue = Epilogue::new(self.product, self.rows.number(), STAGING_BYTES);
        self.work.for_each_tile(b, self.ring.first(b), |tile, slot| {
            let block = b.add(b.scaled(tile.outputs, OUTPUTS / BLOCK_ROWS), consumer.number);
            // Read before the products, so that they are there after.
            let factors = epilogue.factors(b, &consumer, &tile, block);
            let (slot, sums) = match self.product.format {
                Elem::I8 => self.multiply_integers(&consumer, slot),
                _ => self.multiply(&consumer, slot),
            };
            epilogue.store(b, &consumer, (&tile, block), &factors, sums);
            slot
        });
    }

    /// Sums before the first product.
    fn zeros(&self) -> Vec<Value> {
        self.b.wgmma_zeros(self.rows.number())
    }

    /// Rows of x of a stage, as wgmma takes them: from input 16 · `step` on.
    fn x_descriptor(&self, slot: Slot) -> Value {
        descriptor(self.b, self.b.at_byte(self.stage(slot), self.shared.weight_bytes))
    }

    /// Weights from shared memory.
    fn multiply(&self, consumer: &Consumer, slot: Slot) -> (Slot, Vec<Value>) {
        let (b, ring) = (self.b, &self.ring);
        let init = [&[slot.stage, slot.parity, slot.stage][..], &self.zeros()].concat();
        let block = b.scaled(consumer.number, BLOCK_ROWS * INPUTS * Elem::Bf16.bytes());
        let sums = b.for_range_vec(b.i32(0), b.i32(self.n_steps() as i32), 1, &init, |step, carried| {
            let (slot, before) = (Slot { stage: carried[0], parity: carried[1] }, carried[2]);
            ring.wait_full(b, slot);
            let weights = descriptor(b, b.at(self.stage(slot), block));
            let x = self.x_descriptor(slot);
            b.wgmma_fence();
            let mut sums = carried[3..].to_vec();
            for step in 0..INPUTS / STEP {
                sums = b.wgmma_ss(&sums, advance(b, weights, step), advance(b, x, step), b.i32(1));
            }
            b.wgmma_commit();
            b.wgmma_wait(1);
            b.if_(b.cmp(Compare::Ne, step, b.i32(0)), || ring.release(b, before));
            let next = ring.next(b, slot);
            [&[next.stage, next.parity, slot.stage][..], &sums].concat()
        });
        b.wgmma_wait(0);
        ring.release(b, sums[2]);
        (Slot { stage: sums[0], parity: sums[1] }, sums[3..].to_vec())
    }

    /// Weights of a stage as fragments of its four steps.
    fn fragments(&self, consumer: &Consumer, slot: Slot) -> Vec<Value> {
        let b = self.b;
        let row = b.add(b.scaled(consumer.number, BLOCK_ROWS), consumer.row);
        let bytes = b.add(b.scaled(row, INPUTS), b.scaled(consumer.column_pair, 16));
        let low = b.at(self.stage(slot), bytes);
        let words = |at: Value| {
            let row = b.load(at, Type::vector(Num::I32, 4));
            [0, 1, 2, 3].map(|word| b.extract(row, word))
        };
        integer::fragments(b, words(low), words(b.at_byte(low, 8 * INPUTS))).concat()
    }

    fn multiply_fragments(&self, slot: Slot, fragments: &[Value], sums: &[Value]) -> Vec<Value> {
        let b = self.b;
        let x = self.x_descriptor(slot);
        b.wgmma_fence();
        let mut sums = sums.to_vec();
        for (step, fragment) in fragments.as_chunks::<4>().0.iter().enumerate() {
            sums = b.wgmma_rs(&sums, *fragment, advance(b, x, step), b.i32(1));
        }
        b.wgmma_commit();
        sums
    }

    /// Products read their fragments until they are awaited: the registers are kept until then.
    fn await_products(&self, fragments: &[Value], stage: Value) {
        self.b.wgmma_wait(0);
        // No instruction: what it names is alive until here.
        self.b.asm0("", fragments);
        self.ring.release(self.b, stage);
    }

    /// Weights from registers.
    fn multiply_integers(&self, consumer: &Consumer, slot: Slot) -> (Slot, Vec<Value>) {
        let (b, ring) = (self.b, &self.ring);
        ring.wait_full(b, slot);
        let fragments = self.fragments(consumer, slot);
        let n_fragments = fragments.len();
        let init = [&[slot.stage, slot.parity][..], &fragments, &self.zeros()].concat();
        let carried = b.for_range_vec(b.i32(1), b.i32(self.n_steps() as i32), 1, &init, |_, carried| {
            let slot = Slot { stage: carried[0], parity: carried[1] };
            let (fragments, sums) = carried[2..].split_at(n_fragments);
            let sums = self.multiply_fragments(slot, fragments, sums);
            let next = ring.next(b, slot);
            ring.wait_full(b, next);
            let following = self.fragments(consumer, next);
            self.await_products(fragments, slot.stage);
            [&[next.stage, next.parity][..], &following, &sums].concat()
        });
        let slot = Slot { stage: carried[0], parity: carried[1] };
        let (fragments, sums) = carried[2..].split_at(n_fragments);
        let sums = self.multiply_fragments(slot, fragments, sums);
        self.await_products(fragments, slot.stage);
        (ring.next(b, slot), sums)
    }
}

/// wgmma's description of rows of 128 bytes, swizzled, from a multiple of 1024 bytes on: eight rows follow eight rows.
fn descriptor(b: &Builder, address: Value) -> Value {
    /// Bytes from eight rows to the next eight, in sixteens.
    const EIGHT_ROWS: i64 = (8 * 128) >> 4;
    /// The 128-byte swizzle.
    const SWIZZLE: i64 = 1;
    let address = b.and(b.shr(b.address(address), 4), b.i32(0x3fff));
    b.or(b.to_i64(address), b.i64((EIGHT_ROWS << 32) | (SWIZZLE << 62)))
}

/// A descriptor from input 16 · `step` on: inside the swizzled 128 bytes, addresses advance as if they were not.
fn advance(b: &Builder, descriptor: Value, step: usize) -> Value {
    b.add(descriptor, b.i64((step * STEP * Elem::Bf16.bytes() / 16) as i64))
}
