//! The body: see the steps of [`super`].

use super::{ROWS, Shared, Spec, WARPS};
use crate::attention::hopper::split::Splits;
use crate::attention::hopper::{entry, factor, fragment, page, work};
use crate::cpu::builder::{Compare, Num, Type, Value};
use crate::hopper::{Builder, WARP, row_stride};
use crate::kernel::Elem;
use crate::kv_append::PAGE_TOKENS;
use crate::kv_append::hopper::{BLOCK_BYTES, BLOCK_COLUMNS, MAX_D_HEAD, blocks, group_bytes, head_bytes};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    assert!(spec.d_head <= MAX_D_HEAD, "heads of {} dimensions", spec.d_head);
    let shared = spec.shared();
    let warp = b.uniform_warp();
    let in_warp = b.scaled(warp, shared.stages * 8);
    let decode = Decode {
        b,
        spec,
        warp,
        ring: b.at(b.shared(), b.scaled(warp, shared.stages * head_bytes(spec.d_head))),
        barriers: b.at(b.shared_at(shared.barriers), in_warp),
        is_first_lane: b.cmp(Compare::Eq, b.lane(), b.i32(0)),
        row: b.shr(b.lane(), 2),
        quad: b.scaled(b.and(b.lane(), b.i32(3)), 2),
        shared,
    };
    b.if_(decode.is_first_lane, || {
        (0..decode.shared.stages).for_each(|stage| b.mbarrier_init(b.at_byte(decode.barriers, 8 * stage), 1));
        b.fence_mbarrier_init();
    });
    b.sync_warp();
    let tiles = b.i32((spec.n_kv_heads * spec.tiles()) as i32);
    let length = |s| b.add(entry(b, "past", s), b.i32(1));
    let pieces = |s| b.mul(Splits::of(b, spec.max_splits(), length(s)).count, tiles);
    work::deal(b, pieces, &[b.i32(0)], |s, piece, copied| {
        let (nth, tile) = (b.div(piece, tiles), b.rem(piece, tiles));
        vec![decode.split(s, length(s), nth, tile, copied[0])]
    });
}

struct Decode<'a, 'm> {
    b: &'a Builder<'m>,
    spec: &'a Spec,
    shared: Shared,
    warp: Value,
    /// The warp's ring of pages.
    ring: Value,
    /// The barriers of its places.
    barriers: Value,
    is_first_lane: Value,
    /// The lane's first row of a product.
    row: Value,
    /// The lane's first column of each 8.
    quad: Value,
}

/// The pages of a split that a warp takes.
struct Pages {
    sequence: Value,
    kv_head: Value,
    /// The first; every fourth follows.
    first: Value,
    count: Value,
    /// Copies that the warp has started before these.
    copied: Value,
}

/// What a thread has summed so far.
struct Sums {
    /// Greatest score of each of its rows.
    maxima: Vec<Value>,
    /// Sum of probabilities of its columns, of each of its rows.
    totals: Vec<Value>,
    /// Weighted sums of values, [columns by 8][rows][2].
    values: Vec<Value>,
}

impl Sums {
    fn all(&self) -> Vec<Value> {
        [&self.maxima[..], &self.totals, &self.values].concat()
    }

    fn of(halves: usize, all: &[Value]) -> Sums {
        let (maxima, rest) = all.split_at(halves);
        let (totals, values) = rest.split_at(halves);
        Sums { maxima: maxima.to_vec(), totals: totals.to_vec(), values: values.to_vec() }
    }
}

impl Decode<'_, '_> {
    /// Split `nth` of sequence s for a tile of heads; gives the copies that the warp has started after it.
    fn split(&self, s: Value, length: Value, nth: Value, tile: Value, copied: Value) -> Value {
        let &Decode { b, spec, .. } = self;
        let splits = Splits::of(b, spec.max_splits(), length);
        let first = b.mul(nth, splits.per_split);
        let end = b.min(b.add(first, splits.per_split), splits.pages);
        let of_warp = b.sub(b.sub(b.add(end, b.i32(WARPS as i32 - 1)), first), self.warp);
        let tiles = b.i32(spec.tiles() as i32);
        let (kv_head, tile) = (b.div(tile, tiles), b.rem(tile, tiles));
        let pages = Pages {
            sequence: s,
            kv_head,
            first: b.add(first, self.warp),
            count: b.div(of_warp, b.i32(WARPS as i32)),
            copied,
        };

        // 1. queries; the last head stands in for those beyond
        let head_0 = b.scaled(tile, spec.tile_heads());
        let group = spec.n_heads / spec.n_kv_heads;
        let q = b.row(b.pointer("q"), s, 2 * row_stride(Elem::Bf16, spec.n_heads * spec.d_head));
        let head = |half: usize| b.add(head_0, b.add(self.row, b.i32(8 * half as i32)));
        let row = |half: usize| {
            let head = b.min(head(half), b.i32(group as i32 - 1));
            let head = b.add(b.scaled(kv_head, group), head);
            b.at(q, b.scaled(head, 2 * spec.d_head))
        };
        let rows: Vec<Value> = (0..spec.halves()).map(row).collect();
        let queries = fragment::load(b, spec.d_head, &rows);
        for nth in 0..self.shared.stages {
            self.copy(&pages, b.i32(nth as i32));
        }
        // No lane waits for a page before the first lane has asked for it.
        b.sync_warp();

        // 2. pages
        let halves = spec.halves();
        let none = Sums {
            maxima: vec![b.f32(f32::NEG_INFINITY); halves],
            totals: vec![b.f32(0.0); halves],
            values: vec![b.f32(0.0); spec.sums()],
        };
        let sums = b.for_range_vec(b.i32(0), pages.count, 1, &none.all(), |nth, sums| {
            let [stage, barrier, parity] = self.place(&pages, nth);
            b.mbarrier_wait(barrier, parity);
            let page = b.add(pages.first, b.scaled(nth, WARPS));
            let visible = b.sub(length, b.scaled(page, PAGE_TOKENS));
            let sums = self.page(&queries, b.address(stage), visible, Sums::of(halves, sums));
            b.sync_warp();
            self.copy(&pages, b.add(nth, b.i32(self.shared.stages as i32)));
            sums.all()
        });
        let sums = self.join(Sums::of(halves, &sums));

        // 4. store
        b.if_(b.cmp(Compare::Eq, self.warp, b.i32(0)), || {
            for half in 0..halves {
                let is_row =
                    b.cmp(Compare::Lt, b.add(self.row, b.i32(8 * half as i32)), b.i32(spec.tile_heads() as i32));
                let is_head = b.cmp(Compare::Lt, head(half), b.i32(group as i32));
                b.if_(b.and(is_row, is_head), || {
                    let head = b.add(b.scaled(kv_head, group), head(half));
                    let row = b.add(b.scaled(b.add(b.scaled(s, spec.n_heads), head), spec.max_splits()), nth);
                    self.store(&sums, half, b.row(b.pointer("partials"), row, 4 * spec.partial_stride()));
                });
            }
        });
        b.add(copied, pages.count)
    }

    /// Where page `nth` of the warp lies in the ring, its barrier, and the parity of the phase that it is copied in.
    fn place(&self, pages: &Pages, nth: Value) -> [Value; 3] {
        let &Decode { b, spec, .. } = self;
        let number = b.add(pages.copied, nth);
        let stages = b.i32(self.shared.stages as i32);
        let stage = b.rem(number, stages);
        let parity = b.and(b.div(number, stages), b.i32(1));
        let place = b.at(self.ring, b.scaled(stage, head_bytes(spec.d_head)));
        [place, b.at(self.barriers, b.scaled(stage, 8)), parity]
    }

    /// Starts the copy of page `nth` of the warp, if there is one.
    fn copy(&self, pages: &Pages, nth: Value) {
        let &Decode { b, spec, .. } = self;
        b.if_(b.and(self.is_first_lane, b.cmp(Compare::Lt, nth, pages.count)), || {
            let [stage, barrier, _] = self.place(pages, nth);
            let bytes = b.i32(head_bytes(spec.d_head) as i32);
            let nth = b.add(pages.first, b.scaled(nth, WARPS));
            b.mbarrier_arrive_expect_tx(barrier, bytes);
            b.cp_async_bulk(stage, page(b, spec.d_head, pages.sequence, nth, pages.kv_head), bytes, barrier);
        });
    }

    /// The page at `stage`, whose first `visible` tokens the token sees.
    fn page(&self, queries: &[[Value; 4]], stage: Value, visible: Value, sums: Sums) -> Sums {
        let &Decode { b, spec, quad, .. } = self;
        let halves = spec.halves();
        let scores = self.scores(queries, stage);
        let c = b.f32(factor(spec.scale));
        let (mut next, mut rescale, mut probabilities) = (Vec::new(), Vec::new(), Vec::new());
        for half in 0..halves {
            let masked = |place: usize| {
                // Two neighbours of tokens 0 … 7, then two of 8 … 15.
                let token = b.add(quad, b.i32((place / 2 * 8 + place % 2) as i32));
                let score = scores[place / 2][2 * half + place % 2];
                b.select(b.cmp(Compare::Lt, token, visible), score, b.f32(f32::NEG_INFINITY))
            };
            let scores: [Value; 4] = std::array::from_fn(masked);
            let greatest = scores.iter().copied().reduce(|x, y| b.greater(x, y)).expect("four scores");
            let greatest = [1, 2].into_iter().fold(greatest, |x, mask| b.greater(x, b.shuffle_xor(x, mask)));
            let max = b.greater(sums.maxima[half], greatest);
            let below = b.neg(b.mul(max, c));
            let older = b.exp2(b.fma(sums.maxima[half], c, below));
            let p = scores.map(|score| b.exp2(b.fma(score, c, below)));
            let total = b.add(b.add(p[0], p[1]), b.add(p[2], p[3]));
            next.push((max, b.fma(sums.totals[half], older, total)));
            rescale.push(older);
            probabilities.push([b.pack_bf16(p[0], p[1]), b.pack_bf16(p[2], p[3])]);
        }
        let zero = b.i32(0);
        let p = |register: usize| probabilities.get(register % 2).map_or(zero, |pairs| pairs[register / 2]);
        let values = self.add_values(std::array::from_fn(p), stage, &rescale, &sums.values);
        let (maxima, totals) = next.into_iter().unzip();
        Sums { maxima, totals, values }
    }

    /// Scores of 16 keys, eight after the other: rows by pairs of tokens.
    fn scores(&self, queries: &[[Value; 4]], stage: Value) -> [[Value; 4]; 2] {
        let &Decode { b, spec, .. } = self;
        // Lane l gives row l mod 8 of part l / 8 of four parts: two steps of 16 columns.
        let row = b.and(b.lane(), b.i32(7));
        let part = b.xor(b.shr(b.lane(), 3), row);
        let at = b.add(stage, b.add(b.scaled(row, 2 * BLOCK_COLUMNS), b.scaled(part, 16)));
        [0, 1].map(|group| {
            let mut sums = [b.f32(0.0); 4];
            for (nth, steps) in queries.chunks(2).enumerate() {
                let at = if nth % 2 == 0 { at } else { b.xor(at, b.i32(64)) };
                let block = group * group_bytes(spec.d_head) + nth / 2 * BLOCK_BYTES;
                let keys = b.ldmatrix_x4(b.add(at, b.i32(block as i32)));
                for (query, key) in steps.iter().zip(keys.chunks(2)) {
                    sums = b.mma_m16n8k16(*query, [key[0], key[1]], sums);
                }
            }
            sums
        })
    }

    /// values · rescale + probabilities · the page's values.
    fn add_values(&self, p: [Value; 4], stage: Value, rescale: &[Value], values: &[Value]) -> Vec<Value> {
        let &Decode { b, spec, .. } = self;
        let halves = spec.halves();
        // Lane l gives row l mod 8 of group l / 8 mod 2 of part l / 16 of two parts.
        let row = b.and(b.lane(), b.i32(7));
        let group = b.and(b.shr(b.lane(), 3), b.i32(1));
        let part = b.xor(b.shr(b.lane(), 4), row);
        let in_row = b.add(b.scaled(row, 2 * BLOCK_COLUMNS), b.scaled(part, 16));
        let at = b.add(stage, b.add(b.scaled(group, group_bytes(spec.d_head)), in_row));
        let mut next = Vec::new();
        for (nth, pair) in values.chunks(2 * 2 * halves).enumerate() {
            let at = b.xor(at, b.i32((nth % 4 * 32) as i32));
            let block = (blocks(spec.d_head) + nth / 4) * BLOCK_BYTES;
            let matrices = b.ldmatrix_x4_trans(b.add(at, b.i32(block as i32)));
            for (older, value) in pair.chunks(2 * halves).zip(matrices.chunks(2)) {
                let zero = b.f32(0.0);
                let older = |register: usize| match rescale.get(register / 2) {
                    Some(&rescale) => b.mul(older[register], rescale),
                    None => zero,
                };
                let sums = b.mma_m16n8k16(p, [value[0], value[1]], std::array::from_fn(older));
                next.extend(&sums[..2 * halves]);
            }
        }
        next
    }

    /// 3. The four warps' sums, in warp 0: to one maximum, in units of exp2, and then those of warps 0 and 2 and of 1 and 3.
    fn join(&self, sums: Sums) -> Sums {
        let &Decode { b, spec, .. } = self;
        let totals = b.shared_at(self.shared.totals);
        let pair = Type::vector(Num::F32, 2);
        let of_row = |warp: usize, half: usize| b.at_byte(totals, 8 * (warp * ROWS + 8 * half));
        let is_first = b.cmp(Compare::Eq, self.quad, b.i32(0));
        let own: Vec<Value> = sums.totals.iter().map(|&total| b.group_sum(total, 4)).collect();
        let in_row = b.scaled(self.row, 8);
        b.if_(is_first, || {
            let in_warp = b.add(in_row, b.scaled(self.warp, 8 * ROWS));
            for (half, (&total, &max)) in own.iter().zip(&sums.maxima).enumerate() {
                let both = b.insert(total, b.broadcast(max, 2), 1);
                b.store(both, b.at(of_row(0, half), in_warp));
            }
        });
        b.sync();
        let c = b.f32(factor(spec.scale));
        let (mut maxima, mut joined, mut rescale) = (Vec::new(), Vec::new(), Vec::new());
        for (half, &own) in sums.maxima.iter().enumerate() {
            let warps = (0..WARPS).map(|warp| b.load(b.at(of_row(warp, half), in_row), pair));
            let warps: Vec<[Value; 2]> = warps.map(|both| [0, 1].map(|lane| b.extract(both, lane))).collect();
            let max = warps.iter().map(|[max, _]| *max).reduce(|x, y| b.greater(x, y)).expect("warps");
            let below = b.neg(b.mul(max, c));
            let weight = |max: Value| b.exp2(b.fma(max, c, below));
            let total = warps.iter().fold(b.f32(0.0), |sum, &[max, total]| b.fma(total, weight(max), sum));
            maxima.push(b.mul(max, c));
            joined.push(total);
            rescale.push(weight(own));
        }
        let scaled = |(at, &x): (usize, &Value)| b.mul(x, rescale[at / 2 % spec.halves()]);
        let values: Vec<Value> = sums.values.iter().enumerate().map(scaled).collect();
        let values = self.exchange(&values, 2, 0);
        let values = self.exchange(&values, 1, 1);
        Sums { maxima, totals: joined, values }
    }

    /// Warps from `lower` up to twice as many hand their sums to those below, which add them, through places from `first` on;
    /// what other warps get means nothing.
    fn exchange(&self, values: &[Value], lower: usize, first: usize) -> Vec<Value> {
        let &Decode { b, .. } = self;
        let place_bytes = values.len() * 4 * WARP as usize;
        let places = b.shared_at(self.shared.sums + first * place_bytes);
        let lane = b.at(places, b.scaled(b.lane(), 4));
        let at =
            |place: Value, nth: usize| b.at_byte(b.at(lane, b.scaled(place, place_bytes)), nth * 4 * WARP as usize);
        let is_upper = b.cmp(Compare::Eq, b.div(self.warp, b.i32(lower as i32)), b.i32(1));
        b.if_(is_upper, || {
            let to = b.sub(self.warp, b.i32(lower as i32));
            values.iter().enumerate().for_each(|(nth, &x)| b.store(x, at(to, nth)));
        });
        b.sync();
        let is_lower = b.cmp(Compare::Lt, self.warp, b.i32(lower as i32));
        let from = b.select(is_lower, self.warp, b.i32(0));
        let add = |(nth, &x): (usize, &Value)| b.add(x, b.load(at(from, nth), Type::scalar(Num::F32)));
        values.iter().enumerate().map(add).collect()
    }

    /// One row of the split.
    fn store(&self, sums: &Sums, half: usize, to: Value) {
        let &Decode { b, spec, .. } = self;
        let halves = spec.halves();
        let column = b.at(to, b.scaled(self.quad, 4));
        let pair = |low: Value, high: Value| b.insert(high, b.broadcast(low, 2), 1);
        for (nth, x) in sums.values.chunks(2 * halves).enumerate() {
            b.store(pair(x[2 * half], x[2 * half + 1]), b.at_byte(column, 4 * 8 * nth));
        }
        b.if_(b.cmp(Compare::Eq, self.quad, b.i32(0)), || {
            b.store(pair(sums.maxima[half], sums.totals[half]), b.at_byte(to, 4 * spec.partial_columns()));
        });
    }
}
