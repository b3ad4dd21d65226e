//! Attention on CPUs. The query heads of a token that share a KV head form tiles of up to six, so that a page is read and
//! widened once per tile. Up to 16 consecutive tokens of a sequence form a block: all tokens read a few pages before the
//! next few, so that a page is fetched from memory once per block. The tiles of a block are assigned to the threads in
//! turn, block after block; later blocks have more work. The arithmetic of a head at a token depends on neither tile nor
//! block.
//!
//! 1. find the step's blocks: each starts at a multiple of their length, or at a sequence's start; clear the sums
//! 2. for each few pages, for each token of the block: steps 3 and 4, with maxima and sums kept on the stack in between
//! 3. for each page (the token's last page is masked): scores of its 16 keys, their maximum, probabilities
//! 4. add the values, weighted by probability, to the sums
//! 5. divide and store
//!
//! If the kernel appends, the first tile of a KV head writes the token's key and value to the cache, and every tile reads
//! them from `k` and `v`, in the lane and order of their page. No thread reads data that another one writes.
//!
//! The scale of the scores includes log₂(e), so that probabilities are computed by exp2.
//!
//! Measured on a Zen 3 core of a busy machine: decoding over 4096 tokens of 8 KV heads by 128 reads 12 to 16 GB/s of 30;
//! prefilling 256 tokens runs at 50 to 58 GFLOP/s of 109.

use super::Spec;
use crate::cpu::builder::{Buffer, Builder, Num, Value};
use crate::cpu::math;
use crate::kernel::{Elem, LANES, padded};
use crate::kv_append::{self, PAGE_TOKENS, head_elements};
use std::f64::consts::LOG2_E;

/// Maximum query heads per tile: six heads with two registers of scores each leave room for a key and a query in sixteen
/// registers.
const MAX_ROWS: usize = 6;

/// Minimum number of vectors of sums side by side, if there are as many: with fewer, multiply-adds stall on each other.
const MIN_SUMS: usize = 4;

/// Maximum tokens per block: each page is fetched from memory once for all of them.
const BLOCK_TOKENS: usize = 16;

/// Pages that all tokens of a block read before the next ones: few enough to stay in the first cache levels.
const GROUP_PAGES: usize = 4;

/// Minimum shares of a step per thread, below which blocks become smaller: later tokens have more work.
const MIN_SHARES: usize = 4;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let queries_per_key = spec.n_heads / spec.n_kv_heads;
    let rows = (1..=MAX_ROWS).rev().find(|rows| queries_per_key.is_multiple_of(*rows)).unwrap_or(1);
    let block_tokens = if spec.appends { 1 } else { BLOCK_TOKENS };
    let attention = Attention {
        b,
        spec,
        rows,
        sums: b.stack(Num::F32, &[block_tokens, rows, padded(spec.d_head)]),
        maxima: b.stack(Num::F32, &[block_tokens, rows]),
        totals: b.stack(Num::F32, &[block_tokens, rows, LANES]),
        probabilities: b.stack(Num::F32, &[rows, LANES]),
    };
    let tiles = b.index(spec.n_heads / rows);
    // Process as many neighbouring tiles at a time as distribute one block's tiles over all threads.
    let share = tiles.div_ceil(b.n_threads());
    let shares = tiles.div_ceil(share);
    let even = b.scalar("tokens") * shares / (b.n_threads() * MIN_SHARES);
    let block_tokens = even.min(block_tokens).max(1);
    // 1. the blocks
    b.for_range(0, b.scalar("tokens"), 1, b.index(0), |t, dealt| {
        let s = attention.table("sequence_of", t);
        let multiple = t - t % block_tokens;
        let is_first = t.eq(multiple.max(attention.table("starts", s)));
        b.if_(is_first, || {
            let end = (multiple + block_tokens).min(attention.table("starts", s + 1));
            let turn = (b.thread() + b.n_threads() - dealt) % b.n_threads();
            let first = turn * share;
            b.for_each(first, (first + share).min(tiles), 1, |tile| {
                attention.block(s, t, end - t, tile * rows);
            });
        });
        is_first.select((dealt + shares) % b.n_threads(), dealt)
    });
}

struct Attention<'a, 'm> {
    b: &'a Builder<'m>,
    spec: &'a Spec,
    /// Query heads per tile.
    rows: usize,
    /// Weighted sums of values, `[tokens of a block, rows, padded(d_head)]`.
    sums: Buffer,
    /// Running maxima of the scores, `[tokens of a block, rows]`.
    maxima: Buffer,
    /// Sums of probabilities, `[tokens of a block, rows, 16]`.
    totals: Buffer,
    /// Probabilities of a page's keys, `[rows, 16]`.
    probabilities: Buffer,
}

/// Consecutive tokens of one sequence, and a tile of heads.
struct Block {
    first: Value,
    /// Number of keys that the first token sees.
    visible: Value,
    /// Index of the sequence's first page in the table.
    pages: Value,
    /// Number of pages that the last token sees.
    n_pages: Value,
    head: Value,
    kv_head: Value,
}

/// A token of a block.
struct Token {
    /// Its index in the block.
    place: Value,
    /// Its row in the step.
    t: Value,
    /// First column of its queries.
    column: Value,
}

/// The key and value of the token itself, which are appended to the cache in this step.
struct Own {
    /// First column of its KV head.
    column: Value,
    /// A mask that is true in the lane of its key.
    lane: Value,
}

impl Attention<'_, '_> {
    /// Computes the query heads from `head` on, for `count` tokens of sequence s from `first` on.
    fn block(&self, s: Value, first: Value, count: Value, head: Value) {
        let &Attention { b, spec, .. } = self;
        let visible = self.table("past", s) + first - self.table("starts", s) + 1;
        let block = Block {
            first,
            visible,
            pages: s * b.scalar("pages_per_sequence"),
            n_pages: (visible + (count - 1)).div_ceil(PAGE_TOKENS),
            head,
            kv_head: head / (spec.n_heads / spec.n_kv_heads),
        };
        b.for_each(0, count, 1, |place| self.clear(place));
        if spec.appends {
            self.append(&block);
        }

        // 2. a single token has nothing to share
        let group = count.eq(1).select(block.n_pages, GROUP_PAGES);
        b.for_each(0, block.n_pages.div_ceil(group), 1, |nth| {
            let from = nth * group;
            let to = (from + group).min(block.n_pages);
            b.for_each(0, count, 1, |place| self.pages(&block, &self.token(&block, place), from, to));
        });

        // 5. divide and store
        b.for_each(0, count, 1, |place| self.store(&self.token(&block, place)));
    }

    fn token(&self, block: &Block, place: Value) -> Token {
        Token { place, t: block.first + place, column: block.head * self.spec.d_head }
    }

    /// Resets the maxima and sums of a token.
    fn clear(&self, place: Value) {
        let &Attention { b, spec, rows, .. } = self;
        let zero = b.splat(0.0, LANES);
        for row in 0..rows {
            b.store(f32::NEG_INFINITY, self.maxima, (place, row));
            b.store(zero, self.totals, (place, row, 0));
            b.for_each(0, padded(spec.d_head), LANES, |e| b.store(zero, self.sums, (place, row, e)));
        }
    }

    /// Steps 3 and 4 for one token, over the pages in `from..to` that it sees.
    fn pages(&self, block: &Block, token: &Token, from: Value, to: Value) {
        let &Attention { b, spec, rows, maxima, totals, .. } = self;
        let visible = block.visible + token.place;
        let own = spec.appends.then(|| self.own(block));
        let in_page = block.kv_head * head_elements(spec.d_head);
        let last = block.n_pages - 1;
        let page = |nth: Value, in_use: Option<Value>, softmax: Vec<Value>| {
            let keys = |nth| self.table("pages", block.pages + nth) * b.scalar("page_stride") + in_page;
            let next = keys((nth + 1).min(last));
            let keys = keys(nth);
            let values = keys + PAGE_TOKENS * spec.d_head;
            let own = own.as_ref().filter(|_| in_use.is_some());
            let scores = self.scores(token, keys, next, own);
            let (softmax, rescale) = self.probabilities(&scores, in_use, &softmax);
            self.add_values(token, values, in_use.unwrap_or(b.index(PAGE_TOKENS)), &rescale, next, own);
            softmax
        };
        let older = |row| [b.load(maxima, (token.place, row)), b.load_vector(totals, (token.place, row, 0), LANES)];
        let softmax: Vec<Value> = (0..rows).flat_map(older).collect();
        // The token's own key is in the last page, which is therefore masked even if it is full.
        let whole = (if spec.appends { visible - 1 } else { visible }) / PAGE_TOKENS;
        let softmax = b.for_range(from, to.min(whole), 1, softmax, |nth, softmax| page(nth, None, softmax));
        let rest = visible - whole * PAGE_TOKENS;
        let end = to.min(visible.div_ceil(PAGE_TOKENS));
        let masked = from.max(whole);
        let softmax = b.for_range(masked, end, 1, softmax, |nth, softmax| page(nth, Some(rest), softmax));
        for (row, softmax) in softmax.chunks(2).enumerate() {
            b.store(softmax[0], maxima, (token.place, row));
            b.store(softmax[1], totals, (token.place, row, 0));
        }
    }

    /// Stores the sums of values divided by the sums of probabilities.
    fn store(&self, token: &Token) {
        let &Attention { b, spec, rows, .. } = self;
        for row in 0..rows {
            let total = b.load_vector(self.totals, (token.place, row, 0), LANES);
            let total = total.reduce_add().broadcast(LANES);
            let column = token.column + row * spec.d_head;
            let divided = |e| b.load_vector(self.sums, (token.place, row, e), LANES) / total;
            let whole = spec.d_head - spec.d_head % LANES;
            b.for_each(0, whole, LANES, |e| b.store(divided(e), b.buffer("out"), (token.t, column + e)));
            if whole < spec.d_head {
                let (e, rest) = (b.index(whole), b.index(spec.d_head - whole));
                // The next columns belong to another head.
                b.store_partial(divided(e), b.buffer("out"), (token.t, column + e), rest);
            }
        }
    }

    /// Writes the key and value of the block's only token to the cache, in the first tile of the KV head.
    fn append(&self, block: &Block) {
        let &Attention { b, spec, .. } = self;
        let &Spec { n_heads, n_kv_heads, d_head, format, .. } = spec;
        let of_head = block.head % (n_heads / n_kv_heads);
        b.if_(of_head.eq(0), || {
            let spec = kv_append::Spec { n_kv_heads, d_head, format };
            kv_append::cpu::append(b, &spec, block.first, block.kv_head);
        });
    }

    /// The key and value of the block's only token itself: the last ones that it sees.
    fn own(&self, block: &Block) -> Own {
        let b = self.b;
        let in_page = (block.visible - 1) % PAGE_TOKENS;
        let lane = b.iota(LANES).eq(in_page.to_i32().broadcast(LANES));
        Own { column: block.kv_head * self.spec.d_head, lane }
    }

    /// q · k of each row with a page's 16 keys, one vector per row; the token's own key is not read from the cache.
    /// Prefetches from `ahead` on.
    fn scores(&self, token: &Token, keys: Value, ahead: Value, own: Option<&Own>) -> Vec<Value> {
        let &Attention { b, spec, rows, .. } = self;
        // If the tile alone has too few sums, dimensions e, e + 1, … of a head go to separate sums.
        let per_row = MIN_SUMS.div_ceil(rows);
        let queries: Vec<Value> = (0..rows).map(|row| token.column + row * spec.d_head).collect();
        let add_products = |e: Value, count: usize, mut sums: Vec<Value>| {
            for k in 0..count {
                let e = e + k;
                let offset = e * PAGE_TOKENS;
                b.prefetch(b.buffer("cache"), ahead + offset);
                let mut key = self.load_cache(keys + offset);
                if let Some(own) = own {
                    let x = b.load(b.buffer("k"), (token.t, own.column + e));
                    key = own.lane.select(self.round(x).broadcast(LANES), key);
                }
                for (row, &query) in queries.iter().enumerate() {
                    let query = b.load(b.buffer("q"), (token.t, query + e));
                    let sum = &mut sums[row * per_row + k];
                    *sum = query.broadcast(LANES).mul_add(key, *sum);
                }
            }
            sums
        };
        let whole = spec.d_head - spec.d_head % per_row;
        let zeros = vec![b.splat(0.0, LANES); rows * per_row];
        let sums = b.for_range(0, whole, per_row, zeros, |e, sums| add_products(e, per_row, sums));
        let sums = add_products(b.index(whole), spec.d_head - whole, sums);
        let scale = b.splat((spec.scale * LOG2_E) as f32, LANES);
        sums.chunks(per_row)
            .map(|sums| sums.iter().copied().reduce(|x, y| x + y).expect("a sum per row") * scale)
            .collect()
    }

    /// One page's part of the softmax of each row: stores the probabilities relative to the running maximum. `softmax`
    /// holds that maximum and 16 sums of probabilities for each row. Returns its next value, and the factors that rescale
    /// older sums.
    fn probabilities(&self, scores: &[Value], in_use: Option<Value>, softmax: &[Value]) -> (Vec<Value>, Vec<Value>) {
        let b = self.b;
        let is_key = in_use.map(|count| b.iota(LANES).lt(count.to_i32().broadcast(LANES)));
        // Lanes without a key are unspecified and may be NaN.
        let mask = |x: Value, other: f32| is_key.map_or(x, |is_key| is_key.select(x, other));
        let (mut next, mut rescale) = (Vec::new(), Vec::new());
        for (row, (&scores, softmax)) in scores.iter().zip(softmax.chunks(2)).enumerate() {
            let scores = mask(scores, f32::NEG_INFINITY);
            let max = softmax[0].max(scores.reduce_max());
            let older = math::exp2((softmax[0] - max).broadcast(LANES));
            let p = mask(math::exp2(scores - max.broadcast(LANES)), 0.0);
            b.store(p, self.probabilities, (row, 0));
            next.extend([max, softmax[1].mul_add(older, p)]);
            rescale.push(older);
        }
        (next, rescale)
    }

    /// sums = sums · rescale + Σⱼ pⱼ · value[j] for j below `count`, for each row; the token's own value, the last one, is
    /// not read from the cache. Prefetches from `ahead` on.
    fn add_values(
        &self,
        token: &Token,
        values: Value,
        count: Value,
        rescale: &[Value],
        ahead: Value,
        own: Option<&Own>,
    ) {
        let &Attention { b, spec, rows, .. } = self;
        let stride = padded(spec.d_head);
        let n_vectors = (MIN_SUMS.div_ceil(rows)).min(stride / LANES);
        let whole = stride - stride % (n_vectors * LANES);
        let columns = |first: Value, n_vectors: usize| {
            let column = |k: usize| first + k * LANES;
            let places: Vec<(usize, usize)> = (0..rows).flat_map(|row| (0..n_vectors).map(move |k| (row, k))).collect();
            let older = |&(row, k): &(usize, usize)| {
                b.load_vector(self.sums, (token.place, row, column(k)), LANES) * rescale[row]
            };
            let older: Vec<Value> = places.iter().map(older).collect();
            let add = |j: Value, sums: &[Value], value: &dyn Fn(usize) -> Value| -> Vec<Value> {
                let value: Vec<Value> = (0..n_vectors).map(value).collect();
                let weight = |row| b.load(self.probabilities, (row, j)).broadcast(LANES);
                let weights: Vec<Value> = (0..rows).map(weight).collect();
                let add = |(&(row, k), &sum): (&(usize, usize), &Value)| weights[row].mul_add(value[k], sum);
                places.iter().zip(sums).map(add).collect()
            };
            let cached = if own.is_some() { count - 1 } else { count };
            let mut newer = b.for_range(0, cached, 1, older, |j, sums| {
                add(j, &sums, &|k| {
                    // Prefetches go vector by vector, which is not the order of the values.
                    let ahead = ahead + (column(k) + j) * LANES;
                    b.prefetch(b.buffer("cache"), ahead);
                    self.load_cache(values + (j * stride + column(k)))
                })
            });
            if let Some(own) = own {
                newer = add(cached, &newer, &|k| {
                    let at = [token.t, own.column + column(k)];
                    self.round(b.load_vector(b.buffer("v"), at, LANES))
                });
            }
            for (&(row, k), &sum) in places.iter().zip(&newer) {
                b.store(sum, self.sums, (token.place, row, column(k)));
            }
        };
        b.for_each(0, whole, n_vectors * LANES, |first| columns(first, n_vectors));
        if whole < stride {
            columns(b.index(whole), (stride - whole) / LANES);
        }
    }

    /// Loads an entry of a table.
    fn table(&self, name: &str, at: Value) -> Value {
        self.b.load(self.b.buffer(name), at).to_index()
    }

    /// Rounds an f32 to the cache's stored type.
    fn round(&self, x: Value) -> Value {
        if self.spec.format == Elem::Bf16 { x.to_bf16().to_f32() } else { x }
    }

    /// Loads 16 elements of the cache as f32.
    fn load_cache(&self, at: Value) -> Value {
        self.b.load_vector(self.b.buffer("cache"), at, LANES).to_f32()
    }
}
