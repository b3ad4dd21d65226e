//! The kernel body of a product of many rows.
//!
//! 1. initialize the ring's barriers, load the experts' offsets
//! 2. producer: for each tile of the block and each 64 inputs, wait for an empty stage, copy weights and rows of x
//! 3. consumers: for each tile, wait for full stages and multiply; then finish and store ([`super::super::epilogue`])
//!
//! bf16 weights are read from shared memory: the products of a stage are awaited one stage later, and then the stage is
//! released. Weights of one byte go through registers: while the products of a stage run, the weights of the next stage are
//! loaded. The registers are not overwritten before the products that read them are complete.

use super::{INPUTS, OUTPUTS, STAGING_BYTES, Shared};
use crate::cpu::builder::{Num, Type, Value};
use crate::hopper::Builder;
use crate::hopper::facts::{SWIZZLE_BYTES, VECTOR_BYTES};
use crate::hopper::fragment::BLOCK;
use crate::hopper::matmul::epilogue::{Consumer, Epilogue};
use crate::hopper::matmul::tiles::Tiles;
use crate::hopper::matmul::{Product, TileRows, widened};
use crate::hopper::ring::{Ring, Slot};
use crate::hopper::roles::Role;
use crate::hopper::weight::BLOCK_ROWS;
use crate::kernel::Elem;

/// Warps that arrive when a stage is released.
const CONSUMER_WARPS: u32 = 8;

/// Inputs per wgmma.
const STEP: usize = 16;

/// Bytes of these inputs in a bf16 row. Descriptors advance inside swizzled rows as if they were not swizzled.
const STEP_BYTES: usize = 2 * STEP;

/// State shared by both roles.
struct Kernel<'a, 'm> {
    b: &'a Builder<'m>,
    product: &'a Product,
    rows: TileRows,
    shared: Shared,
    ring: Ring,
    tiles: Tiles<'a, 'm>,
}

pub(crate) fn emit(b: &Builder, product: &Product, rows: TileRows) {
    let shared = Shared::of(product, rows);
    let ring = Ring { barriers: b.shared_at(shared.barriers), stages: shared.stages };
    let role = Role::of(b);
    // 1. barriers, offsets
    b.if_(b.thread().eq(0), || ring.init(b, CONSUMER_WARPS));
    let tiles = Tiles::new(b, product, [OUTPUTS, rows.number()], b.shared_at(shared.offsets));
    b.sync();

    let kernel = Kernel { b, product, rows, shared, ring, tiles };
    let produce = || b.if_(b.thread().eq(0), || kernel.produce());
    role.run(b, produce, |consumer| kernel.consume(consumer));
}

impl Kernel<'_, '_> {
    /// Number of steps of 64 inputs.
    fn n_steps(&self) -> usize {
        self.product.k.div_ceil(INPUTS)
    }

    fn stage(&self, slot: Slot) -> Value {
        self.b.at(self.b.shared(), slot.stage * self.shared.stage_bytes)
    }

    /// 2. Producer: one thread starts the copies.
    fn produce(&self) {
        let (b, ring) = (self.b, &self.ring);
        let (weight_map, x_map) = (b.tensor_map("weight_map"), b.tensor_map("x_map"));
        b.prefetch_tensor_map(weight_map);
        b.prefetch_tensor_map(x_map);
        self.tiles.list.for_each(b, ring.first(b), |at, slot| {
            let tile = self.tiles.tile(at);
            let weight_row = tile.weight_row + tile.outputs * OUTPUTS;
            let n_steps = b.i32(self.n_steps() as i32);
            let copied = b.for_range(b.i32(0), n_steps, 1, slot.values(), |step, slot| {
                let slot = Slot::of(&slot);
                ring.wait_empty(b, slot);
                let (full, to, col) = (ring.full(b, slot), self.stage(slot), step * INPUTS);
                b.mbarrier_arrive_expect_tx(full, b.i32(self.shared.stage_bytes as i32));
                b.cp_async_bulk_tensor_2d(to, weight_map, [weight_row, col], full);
                let x = b.at_byte(to, self.shared.weight_bytes);
                b.cp_async_bulk_tensor_2d(x, x_map, [tile.first_row, col], full);
                ring.next(slot).values()
            });
            Slot::of(&copied)
        });
    }

    /// 3. Consumer.
    fn consume(&self, consumer: Value) {
        let b = self.b;
        let consumer = Consumer::new(b, consumer, b.shared_at(self.shared.staging), STAGING_BYTES);
        let epilogue = Epilogue::new(self.product, self.rows.number(), STAGING_BYTES);
        self.tiles.list.for_each(b, self.ring.first(b), |at, slot| {
            let tile = self.tiles.tile(at);
            let block = tile.outputs * (OUTPUTS / BLOCK_ROWS) + consumer.number;
            // Loaded before the products to hide the latency.
            let factors = epilogue.factors(b, &consumer, &tile, block);
            let (slot, sums) = match self.product.format {
                Elem::I8 | Elem::F8 => self.multiply_widened(&consumer, slot),
                _ => self.multiply(&consumer, slot),
            };
            epilogue.store(b, &consumer, (&tile, block), &factors, sums);
            slot
        });
    }

    /// Zero accumulators.
    fn zeros(&self) -> Vec<Value> {
        self.b.wgmma_zeros(self.rows.number())
    }

    /// wgmma descriptor of the rows of a stage from `rows` on, aligned to [`SWIZZLE_BYTES`].
    fn descriptor(&self, rows: Value) -> Value {
        // Rows are exactly as wide as the swizzle: there is no second block of columns.
        self.b.descriptor(rows, 0, SWIZZLE_BYTES)
    }

    /// wgmma descriptor of a stage's rows of x.
    fn x_descriptor(&self, slot: Slot) -> Value {
        self.descriptor(self.b.at_byte(self.stage(slot), self.shared.weight_bytes))
    }

    /// Multiplies with weights from shared memory.
    fn multiply(&self, consumer: &Consumer, slot: Slot) -> (Slot, Vec<Value>) {
        let (b, ring) = (self.b, &self.ring);
        let init = [&slot.values()[..], &[slot.stage], &self.zeros()].concat();
        let block = consumer.number * (BLOCK_ROWS * INPUTS * Elem::Bf16.bytes());
        let sums = b.for_range_vec(b.i32(0), b.i32(self.n_steps() as i32), 1, &init, |step, carried| {
            let (slot, before) = (Slot::of(carried), carried[2]);
            ring.wait_full(b, slot);
            let weights = self.descriptor(b.at(self.stage(slot), block));
            let x = self.x_descriptor(slot);
            b.wgmma_fence();
            let mut sums = carried[3..].to_vec();
            for step in 0..INPUTS / STEP {
                let advance = |descriptor| b.descriptor_at(descriptor, step * STEP_BYTES);
                sums = b.wgmma_ss(&sums, advance(weights), advance(x), b.i32(1));
            }
            b.wgmma_commit();
            b.wgmma_wait(1);
            b.if_(step.ne(0), || ring.release(b, before));
            [&ring.next(slot).values()[..], &[slot.stage], &sums].concat()
        });
        b.wgmma_wait(0);
        ring.release(b, sums[2]);
        (Slot::of(&sums), sums[3..].to_vec())
    }

    /// The weights of a stage as fragments for its four steps.
    fn fragments(&self, consumer: &Consumer, slot: Slot) -> Vec<Value> {
        let b = self.b;
        let row = consumer.number * BLOCK_ROWS + consumer.row;
        let bytes = row * INPUTS + consumer.quad * VECTOR_BYTES;
        let upper = b.at(self.stage(slot), bytes);
        let words = |at: Value| {
            let row = b.load(at, Type::vector(Num::I32, 4));
            [0, 1, 2, 3].map(|word| row.lane(word))
        };
        widened::fragments(b, self.product.format, words(upper), words(b.at_byte(upper, BLOCK * INPUTS))).concat()
    }

    fn multiply_fragments(&self, slot: Slot, fragments: &[Value], sums: &[Value]) -> Vec<Value> {
        let b = self.b;
        let x = self.x_descriptor(slot);
        b.wgmma_fence();
        let mut sums = sums.to_vec();
        for (step, fragment) in fragments.as_chunks::<4>().0.iter().enumerate() {
            sums = b.wgmma_rs(&sums, *fragment, b.descriptor_at(x, step * STEP_BYTES), b.i32(1));
        }
        b.wgmma_commit();
        sums
    }

    /// Waits for the products in flight, which read the registers of `fragments`, then releases the stage.
    fn await_products(&self, fragments: &[Value], stage: Value) {
        self.b.wgmma_wait(0);
        // Emits no instruction; keeps its operands alive up to here.
        self.b.asm0("", fragments);
        self.ring.release(self.b, stage);
    }

    /// Multiplies with weights of one byte from registers.
    fn multiply_widened(&self, consumer: &Consumer, slot: Slot) -> (Slot, Vec<Value>) {
        let (b, ring) = (self.b, &self.ring);
        ring.wait_full(b, slot);
        let fragments = self.fragments(consumer, slot);
        let n_fragments = fragments.len();
        let init = [&slot.values()[..], &fragments, &self.zeros()].concat();
        let carried = b.for_range_vec(b.i32(1), b.i32(self.n_steps() as i32), 1, &init, |_, carried| {
            let slot = Slot::of(carried);
            let (fragments, sums) = carried[2..].split_at(n_fragments);
            let sums = self.multiply_fragments(slot, fragments, sums);
            let next = ring.next(slot);
            ring.wait_full(b, next);
            let following = self.fragments(consumer, next);
            ring.retest_full(b, next);
            self.await_products(fragments, slot.stage);
            [&next.values()[..], &following, &sums].concat()
        });
        let slot = Slot::of(&carried);
        let (fragments, sums) = carried[2..].split_at(n_fragments);
        let sums = self.multiply_fragments(slot, fragments, sums);
        self.await_products(fragments, slot.stage);
        (ring.next(slot), sums)
    }
}
