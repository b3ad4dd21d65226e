//! The kernel body; steps as in [`super`].

use super::{ROWS, Shared, Spec, WARPS};
use crate::attention::hopper::softmax::{Row, Update};
use crate::attention::hopper::split::Splits;
use crate::attention::hopper::{factor, page};
use crate::cpu::builder::{Num, Type, Value};
use crate::hopper::facts::MBARRIER_BYTES;
use crate::hopper::fragment::{self, Addressed, BLOCK, Fragment, column_of, half_of};
use crate::hopper::ring::{Ring, Slot};
use crate::hopper::work::WorkList;
use crate::hopper::{Builder, WARP, row_stride};
use crate::kernel::Elem;
use crate::kv_append::PAGE_TOKENS;
use crate::kv_append::hopper::{BLOCK_BYTES, MAX_D_HEAD, blocks, group_bytes, head_bytes};

/// Bytes of a row of a block of keys or values.
const ROW_BYTES: usize = BLOCK_BYTES / BLOCK;

/// Bytes of a row of an 8 × 8 ldmatrix matrix.
const PART_BYTES: usize = 16;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    assert!(spec.d_head <= MAX_D_HEAD, "heads of {} dimensions", spec.d_head);
    let shared = spec.shared();
    let warp = b.uniform_warp();
    let barriers = b.at(b.shared_at(shared.barriers), warp * (2 * shared.stages * MBARRIER_BYTES));
    let decode = Decode {
        b,
        spec,
        warp,
        ring: Ring { barriers, stages: shared.stages },
        stages: b.at(b.shared(), warp * (shared.stages * head_bytes(spec.d_head))),
        is_first_lane: b.lane().eq(0),
        fragment: Fragment::of(b),
        shared,
    };
    b.if_(decode.is_first_lane, || decode.ring.init(b, 1));
    b.sync_warp();
    let tiles = b.i32((spec.n_kv_heads * spec.tiles()) as i32);
    let length = |s| b.entry("past", s) + 1;
    let pieces = |s| Splits::of(spec.max_splits(), length(s)).count * tiles;
    WorkList::of_groups(b.count("sequences"), pieces).for_each(b, decode.ring.first(b), |at, slot| {
        let (s, number) = (at.group, at.in_group());
        let (nth, tile) = (number / tiles, number % tiles);
        decode.split(&Piece { sequence: s, length: length(s), nth, tile }, slot)
    });
}

struct Decode<'a, 'm> {
    b: &'a Builder<'m>,
    spec: &'a Spec,
    shared: Shared,
    warp: Value,
    /// The warp's private ring of pages, and the start of its stages.
    ring: Ring,
    stages: Value,
    is_first_lane: Value,
    fragment: Fragment,
}

/// A split of a sequence for a tile of heads; i32.
struct Piece {
    sequence: Value,
    /// Tokens of the sequence.
    length: Value,
    /// Index of the split.
    nth: Value,
    /// Index of the tile among those of all KV heads.
    tile: Value,
}

/// The pages of a split that a warp takes; i32.
struct Pages {
    sequence: Value,
    kv_head: Value,
    /// The warp's first page; it takes every fourth page from there.
    first: Value,
    count: Value,
}

/// The query heads of a tile; i32.
struct Heads {
    kv_head: Value,
    /// The first query head, relative to the KV head.
    first: Value,
}

/// A thread's running sums.
struct Sums {
    /// Softmax state of the thread's rows that are query heads.
    rows: Vec<Row>,
    /// Weighted sums of values, [columns by 8][rows][2].
    values: Vec<Value>,
}

impl Sums {
    fn all(&self) -> Vec<Value> {
        let rows: Vec<Value> = self.rows.iter().flat_map(|row| [row.maximum, row.total]).collect();
        [rows, self.values.clone()].concat()
    }

    fn of(halves: usize, all: &[Value]) -> Sums {
        let (rows, values) = all.split_at(2 * halves);
        let rows = rows.as_chunks().0.iter().map(|&[maximum, total]| Row { maximum, total });
        Sums { rows: rows.collect(), values: values.to_vec() }
    }
}

impl Decode<'_, '_> {
    /// Processes one piece; returns the slot after its last page.
    fn split(&self, piece: &Piece, slot: Slot) -> Slot {
        let &Decode { b, spec, ring, .. } = self;
        let splits = Splits::of(spec.max_splits(), piece.length);
        let first = piece.nth * splits.per_split;
        let end = (first + splits.per_split).min(splits.pages);
        let of_warp = end + (WARPS - 1) - first - self.warp;
        let tiles = b.i32(spec.tiles() as i32);
        let heads = Heads { kv_head: piece.tile / tiles, first: piece.tile % tiles * spec.tile_heads() };
        let pages = Pages {
            sequence: piece.sequence,
            kv_head: heads.kv_head,
            first: first + self.warp,
            count: of_warp / WARPS,
        };

        // 1. queries, and the first pages
        let queries = self.queries(piece.sequence, &heads);
        let mut filled = slot;
        for nth in 0..ring.stages {
            self.copy(&pages, b.i32(nth as i32), filled);
            filled = ring.next(filled);
        }
        // No lane may wait for a page before the first lane has started its copy.
        b.sync_warp();

        // 2. pages
        let halves = spec.halves();
        let none = Sums { rows: vec![Row::empty(b); halves], values: vec![b.f32(0.0); spec.sums()] };
        let init = [&slot.values()[..], &none.all()].concat();
        let carried = b.for_range_vec(b.i32(0), pages.count, 1, &init, |nth, carried| {
            let slot = Slot::of(carried);
            ring.wait_full(b, slot);
            let page = pages.first + nth * WARPS;
            let visible = piece.length - page * PAGE_TOKENS;
            let sums = self.page(&queries, b.address(self.stage(slot)), visible, Sums::of(halves, &carried[2..]));
            // All lanes have read the stage before the copy overwrites it.
            ring.release(b, slot.stage);
            self.copy(&pages, nth + ring.stages, Slot { parity: slot.parity ^ 1, ..slot });
            [&ring.next(slot).values()[..], &sums.all()].concat()
        });
        let sums = self.join(Sums::of(halves, &carried[2..]));

        // 4. store
        b.if_(self.warp.eq(0), || self.store(piece, &heads, &sums));
        Slot::of(&carried)
    }

    /// Loads the lane's rows of the queries; rows beyond the last head repeat the last head.
    fn queries(&self, sequence: Value, heads: &Heads) -> Vec<[Value; 4]> {
        let &Decode { b, spec, .. } = self;
        let q = b.row(b.pointer("q"), sequence, 2 * row_stride(Elem::Bf16, spec.n_heads * spec.d_head));
        let row = |half: usize| {
            let head = self.head(heads, half).min(self.group() - 1);
            let head = heads.kv_head * self.group() + head;
            b.at(q, head * (2 * spec.d_head))
        };
        let rows: Vec<Value> = (0..spec.halves()).map(row).collect();
        fragment::load(b, spec.d_head, &rows)
    }

    /// Query heads of a KV head.
    fn group(&self) -> usize {
        self.spec.n_heads / self.spec.n_kv_heads
    }

    /// The query head, relative to the KV head, of the lane's row in a half; may be beyond the last.
    fn head(&self, heads: &Heads, half: usize) -> Value {
        heads.first + self.fragment.row_in(half)
    }

    fn stage(&self, slot: Slot) -> Value {
        self.b.at(self.stages, slot.stage * head_bytes(self.spec.d_head))
    }

    /// Starts the copy of the warp's page `nth` into an empty stage, if the page exists.
    fn copy(&self, pages: &Pages, nth: Value, slot: Slot) {
        let &Decode { b, spec, ring, .. } = self;
        b.if_(self.is_first_lane & nth.lt(pages.count), || {
            ring.wait_empty(b, slot);
            let full = ring.full(b, slot);
            let bytes = b.i32(head_bytes(spec.d_head) as i32);
            let nth = pages.first + nth * WARPS;
            b.mbarrier_arrive_expect_tx(full, bytes);
            let from = page(b, spec.d_head, pages.sequence, nth, pages.kv_head);
            b.cp_async_bulk(self.stage(slot), from, bytes, full);
        });
    }

    /// Processes the page at `stage` (an address); the token sees its first `visible` tokens.
    fn page(&self, queries: &[[Value; 4]], stage: Value, visible: Value, sums: Sums) -> Sums {
        let &Decode { b, spec, fragment, .. } = self;
        let scores = self.scores(queries, stage).concat();
        let update = |(half, row): (usize, Row)| {
            let masked = |i: usize| {
                let sees = fragment.column(i).lt(visible);
                sees.select(scores[i], f32::NEG_INFINITY)
            };
            let of_row: Vec<Value> = (0..scores.len()).filter(|&i| half_of(i) == half).map(masked).collect();
            let Update { row, rescale, probabilities } = row.update(b, factor(spec.scale), &of_row);
            (row, (rescale, fragment::pack(b, &probabilities)))
        };
        let (rows, factors): (Vec<_>, Vec<_>) = sums.rows.into_iter().enumerate().map(update).unzip();
        let (rescale, pairs): (Vec<_>, Vec<_>) = factors.into_iter().unzip();
        let zero = b.i32(0);
        // A half without query heads is zero.
        let p = |register: usize| {
            pairs.get(half_of(2 * register)).map_or(zero, |pairs| pairs[column_of(2 * register) / BLOCK])
        };
        let values = self.add_values(std::array::from_fn(p), stage, &rescale, &sums.values);
        Sums { rows, values }
    }

    /// Scores of the page's two groups of keys.
    fn scores(&self, queries: &[[Value; 4]], stage: Value) -> [[Value; 4]; 2] {
        let &Decode { b, spec, .. } = self;
        // Four parts of a row: two steps of 16 columns.
        let Addressed { block, row } = self.fragment.addressed();
        let at = stage + self.place(row, block);
        [0, 1].map(|group| {
            let mut sums = [b.f32(0.0); 4];
            for (nth, steps) in queries.chunks(2).enumerate() {
                let at = if nth % 2 == 0 { at } else { at ^ (4 * PART_BYTES as i32) };
                let of_block = group * group_bytes(spec.d_head) + nth / 2 * BLOCK_BYTES;
                let keys = b.ldmatrix_x4(at + of_block);
                for (&query, &key) in steps.iter().zip(keys.as_chunks().0) {
                    sums = b.mma_m16n8k16(query, key, sums);
                }
            }
            sums
        })
    }

    /// Byte offset of part `part` of row `row` in a block; parts are permuted by the row.
    fn place(&self, row: Value, part: Value) -> Value {
        row * ROW_BYTES + (part ^ row) * PART_BYTES
    }

    /// values · rescale + probabilities · the page's values.
    fn add_values(&self, p: [Value; 4], stage: Value, rescale: &[Value], values: &[Value]) -> Vec<Value> {
        let &Decode { b, spec, .. } = self;
        let halves = spec.halves();
        // Two parts of a row, each for two groups of tokens.
        let Addressed { block, row } = self.fragment.addressed();
        let (group, part) = (block & 1, block >> 1);
        let at = stage + (group * group_bytes(spec.d_head) + self.place(row, part));
        let mut next = Vec::new();
        for (nth, pair) in values.chunks(2 * 2 * halves).enumerate() {
            let at = at ^ (nth % 4 * 2 * PART_BYTES);
            let of_block = (blocks(spec.d_head) + nth / 4) * BLOCK_BYTES;
            let matrices = b.ldmatrix_x4_trans(at + of_block);
            for (older, &value) in pair.chunks(2 * halves).zip(matrices.as_chunks().0) {
                let zero = b.f32(0.0);
                let older = |i: usize| match rescale.get(half_of(i)) {
                    Some(&rescale) => older[i] * rescale,
                    None => zero,
                };
                let sums = b.mma_m16n8k16(p, value, std::array::from_fn(older));
                next.extend(&sums[..2 * halves]);
            }
        }
        next
    }

    /// 3. Joins the four warps' sums in warp 0: rescales them to one maximum (in units of exp2), then adds those of warps 0
    ///    and 2 and of 1 and 3, and then these two.
    fn join(&self, sums: Sums) -> Sums {
        let &Decode { b, spec, fragment, .. } = self;
        let totals = b.shared_at(self.shared.totals);
        let pair = Type::vector(Num::F32, 2);
        let of_row = |warp: usize, half: usize| b.at_byte(totals, 8 * (warp * ROWS + BLOCK * half));
        let is_first = fragment.first_column().eq(0);
        let own: Vec<Value> = sums.rows.iter().map(|row| fragment::quad_sum(b, row.total)).collect();
        let in_row = fragment.first_row() * 8;
        b.if_(is_first, || {
            let in_warp = in_row + self.warp * (8 * ROWS);
            for (half, (&total, row)) in own.iter().zip(&sums.rows).enumerate() {
                let both = row.maximum.broadcast(2).with_lane(1, total);
                b.store(both, b.at(of_row(0, half), in_warp));
            }
        });
        b.sync();
        let c = b.f32(factor(spec.scale));
        let (mut rows, mut rescale) = (Vec::new(), Vec::new());
        for (half, own) in sums.rows.iter().enumerate() {
            let warps = (0..WARPS).map(|warp| b.load(b.at(of_row(warp, half), in_row), pair));
            let warps: Vec<[Value; 2]> = warps.map(|both| [0, 1].map(|lane| both.lane(lane))).collect();
            let max = warps.iter().map(|[max, _]| *max).reduce(|x, y| b.greater(x, y)).expect("warps");
            let below = -(max * c);
            let weight = |max: Value| b.exp2(max.mul_add(c, below));
            let total = warps.iter().fold(b.f32(0.0), |sum, &[max, total]| total.mul_add(weight(max), sum));
            rows.push(Row { maximum: max * c, total });
            rescale.push(weight(own.maximum));
        }
        let scaled = |(at, &x): (usize, &Value)| x * rescale[at / 2 % spec.halves()];
        let values: Vec<Value> = sums.values.iter().enumerate().map(scaled).collect();
        let values = self.exchange(&values, 2, 0);
        let values = self.exchange(&values, 1, 1);
        Sums { rows, values }
    }

    /// Warps `lower` to `2 · lower − 1` pass their sums through shared memory, from place `first` on, to warps 0 to `lower
    /// − 1`, which add them. The results of the other warps are meaningless.
    fn exchange(&self, values: &[Value], lower: usize, first: usize) -> Vec<Value> {
        let &Decode { b, .. } = self;
        let place_bytes = values.len() * 4 * WARP as usize;
        let places = b.shared_at(self.shared.sums + first * place_bytes);
        let lane = b.at(places, b.lane() * 4);
        let at = |place: Value, nth: usize| b.at_byte(b.at(lane, place * place_bytes), nth * 4 * WARP as usize);
        let is_upper = (self.warp / lower).eq(1);
        b.if_(is_upper, || {
            let to = self.warp - lower;
            values.iter().enumerate().for_each(|(nth, &x)| b.store(x, at(to, nth)));
        });
        b.sync();
        let is_lower = self.warp.lt(lower);
        let from = is_lower.select(self.warp, 0);
        let add = |(nth, &x): (usize, &Value)| x + b.load(at(from, nth), Type::scalar(Num::F32));
        values.iter().enumerate().map(add).collect()
    }

    /// Stores the piece's rows of partial sums: the lane's rows that are query heads.
    fn store(&self, piece: &Piece, heads: &Heads, sums: &Sums) {
        let &Decode { b, spec, fragment, .. } = self;
        for half in 0..spec.halves() {
            let head = self.head(heads, half);
            let is_row = fragment.row_in(half).lt(spec.tile_heads());
            let is_head = head.lt(self.group());
            b.if_(is_row & is_head, || {
                let head = heads.kv_head * self.group() + head;
                let row = piece.sequence * spec.n_heads + head;
                let row = row * spec.max_splits() + piece.nth;
                self.store_row(sums, half, b.row(b.pointer("partials"), row, 4 * spec.partial_stride()));
            });
        }
    }

    /// Stores the sums of the lane's row in a half, followed by their maximum and total.
    fn store_row(&self, sums: &Sums, half: usize, to: Value) {
        let &Decode { b, spec, fragment, .. } = self;
        let column = b.at(to, fragment.first_column() * 4);
        let pair = |low: Value, high: Value| low.broadcast(2).with_lane(1, high);
        for (nth, x) in sums.values.chunks(2 * spec.halves()).enumerate() {
            b.store(pair(x[2 * half], x[2 * half + 1]), b.at_byte(column, 4 * BLOCK * nth));
        }
        b.if_(fragment.first_column().eq(0), || {
            let Row { maximum, total } = sums.rows[half];
            b.store(pair(maximum, total), b.at_byte(to, 4 * spec.partial_columns()));
        });
    }
}
