//! Attention on a CPU: the query heads of a token that share a KV head go together, a tile of up to six, page after page,
//! so that a page is read and widened once for the tile. Tiles are dealt to the threads in turn: later tokens have more to
//! do. A head's arithmetic is its own, the tile's size is no part of it.
//!
//! 1. find the token's position, clear the sums
//! 2. for each page, the last one masked: scores of its 16 keys; their maximum; probabilities
//! 3. values, weighted by probability, into the sums
//! 4. divide and store
//!
//! Where it appends, the first tile of a KV head writes the token's key and value to the cache, and every tile takes them from
//! `k` and `v`, in the lane and in the turn that they have in their page: no thread reads what another writes.
//!
//! Scores are scaled by log₂(e) too, so that probabilities are exp2.
//!
//! On a Zen 3 core with a busy machine around it: decoding over 4096 tokens of 8 KV heads by 128 reads 12 to 16 GB/s of 30,
//! prefilling 256 tokens does 50 to 58 GFLOP/s of 109.

use super::Spec;
use crate::builder::{Buffer, Builder, Compare, Num, Value};
use crate::kernel::{Elem, LANES, padded};
use crate::kv_append::{self, PAGE_TOKENS, head_elements};
use crate::math;
use std::f64::consts::LOG2_E;

/// Query heads of a tile at most: six by two registers of scores leave room for a key and a query in sixteen.
const MAX_ROWS: usize = 6;

/// Vectors summed into side by side, as far as there are any: fewer leave multiply-adds waiting for each other.
const MIN_SUMS: usize = 4;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let queries_per_key = spec.n_heads / spec.n_kv_heads;
    let rows = (1..=MAX_ROWS).rev().find(|rows| queries_per_key.is_multiple_of(*rows)).unwrap_or(1);
    let attention = Attention {
        b,
        spec,
        rows,
        sums: b.stack(Num::F32, &[rows, padded(spec.d_head)]),
        probabilities: b.stack(Num::F32, &[rows, LANES]),
    };
    let tiles = b.index(spec.n_heads / rows);
    let total = b.mul(b.scalar("tokens"), tiles);
    // As many neighbouring tiles at a time as spread one token's over all threads.
    let share = b.ceil_div(tiles, b.n_threads());
    let stride = b.mul(share, b.n_threads());
    b.for_each(b.index(0), b.ceil_div(total, stride), 1, |round| {
        let first = b.add(b.mul(round, stride), b.mul(share, b.thread()));
        b.for_each(first, b.min(b.add(first, share), total), 1, |unit| {
            attention.tile(b.div(unit, tiles), b.mul(b.rem(unit, tiles), b.index(rows)));
        });
    });
}

struct Attention<'a, 'm> {
    b: &'a Builder<'m>,
    spec: &'a Spec,
    /// Query heads of a tile.
    rows: usize,
    /// Weighted sums of values, `[rows, padded(d_head)]`.
    sums: Buffer,
    /// Probabilities of a page's keys, `[rows, 16]`.
    probabilities: Buffer,
}

/// The key and value of the token itself, which joins the cache in this step.
struct Own {
    /// The token.
    t: Value,
    /// First column of its KV head.
    column: Value,
    /// True in the lane of its key.
    lane: Value,
}

impl Attention<'_, '_> {
    /// The query heads from `head` on, at token t.
    fn tile(&self, t: Value, head: Value) {
        let &Attention { b, spec, rows, sums, .. } = self;
        // 1. position
        let table = |name, at| b.to_index(b.load(b.buffer(name), &[at]));
        let s = table("sequence_of", t);
        let visible = b.add(b.sub(b.add(table("past", s), t), table("starts", s)), b.index(1));
        let pages = b.mul(s, b.scalar("pages_per_sequence"));
        let kv_head = b.div(head, b.index(spec.n_heads / spec.n_kv_heads));
        let in_page = b.mul(kv_head, b.index(head_elements(spec.d_head)));
        let column = b.mul(head, b.index(spec.d_head));
        for row in 0..rows {
            b.for_each(b.index(0), b.index(padded(spec.d_head)), LANES, |e| {
                b.store(b.splat(0.0, LANES), sums, &[b.index(row), e]);
            });
        }

        let own = self.spec.appends.then(|| self.append(t, head, kv_head, visible));

        // 2. and 3.
        let tokens = b.index(PAGE_TOKENS);
        let end = b.ceil_div(visible, tokens);
        let last = b.sub(end, b.index(1));
        let page = |nth: Value, in_use: Option<Value>, softmax: &[Value]| {
            let keys = |nth| {
                let page = b.mul(table("pages", b.add(pages, nth)), b.scalar("page_stride"));
                b.add(page, in_page)
            };
            let next = keys(b.min(b.add(nth, b.index(1)), last));
            let keys = keys(nth);
            let values = b.add(keys, b.index(PAGE_TOKENS * spec.d_head));
            let own = own.as_ref().filter(|_| in_use.is_some());
            let scores = self.scores(t, column, keys, values, own);
            let (softmax, rescale) = self.probabilities(&scores, in_use, softmax);
            self.add_values(values, in_use.unwrap_or(b.index(PAGE_TOKENS)), &rescale, next, own);
            softmax
        };
        let start: Vec<Value> = (0..rows).flat_map(|_| [b.f32(f32::NEG_INFINITY), b.splat(0.0, LANES)]).collect();
        // The token's own key is in the last page, which is masked then even where it is full.
        let whole = b.div(if spec.appends { b.sub(visible, b.index(1)) } else { visible }, tokens);
        let softmax = b.for_range_vec(b.index(0), whole, 1, &start, |nth, softmax| page(nth, None, softmax));
        let rest = b.sub(visible, b.mul(whole, tokens));
        let softmax = b.for_range_vec(whole, end, 1, &softmax, |nth, softmax| page(nth, Some(rest), softmax));

        // 4. divide and store
        for (row, softmax) in softmax.chunks(2).enumerate() {
            let total = b.broadcast(b.reduce_add(softmax[1]), LANES);
            let column = b.add(column, b.index(row * spec.d_head));
            let divided = |e| b.div(b.load_vector(sums, &[b.index(row), e], LANES), total);
            let whole = spec.d_head - spec.d_head % LANES;
            b.for_each(b.index(0), b.index(whole), LANES, |e| {
                b.store(divided(e), b.buffer("out"), &[t, b.add(column, e)]);
            });
            if whole < spec.d_head {
                let (e, rest) = (b.index(whole), b.index(spec.d_head - whole));
                // The next columns are another head's.
                b.store_partial(divided(e), b.buffer("out"), &[t, b.add(column, e)], rest);
            }
        }
    }

    /// Writes the key and value of token t to the cache, for the first tile of the KV head; they are the last of `visible`.
    fn append(&self, t: Value, head: Value, kv_head: Value, visible: Value) -> Own {
        let &Attention { b, spec, .. } = self;
        let &Spec { n_heads, n_kv_heads, d_head, format, .. } = spec;
        let of_head = b.rem(head, b.index(n_heads / n_kv_heads));
        b.if_(b.cmp(Compare::Eq, of_head, b.index(0)), || {
            kv_append::cpu::append(b, &kv_append::Spec { n_kv_heads, d_head, format }, t, kv_head);
        });
        let place = b.broadcast(b.to_i32(b.rem(b.sub(visible, b.index(1)), b.index(PAGE_TOKENS))), LANES);
        Own { t, column: b.mul(kv_head, b.index(d_head)), lane: b.cmp(Compare::Eq, b.iota(LANES), place) }
    }

    /// q · k of each row with a page's 16 keys, one vector a row; the token's own key is not in the cache. Has what is at
    /// `ahead` fetched meanwhile.
    fn scores(&self, t: Value, column: Value, keys: Value, ahead: Value, own: Option<&Own>) -> Vec<Value> {
        let &Attention { b, spec, rows, .. } = self;
        // Dimensions e, e + 1, … of one head go to sums of their own where the tile alone has too few.
        let per_row = MIN_SUMS.div_ceil(rows);
        let queries: Vec<Value> = (0..rows).map(|row| b.add(column, b.index(row * spec.d_head))).collect();
        let add_products = |e: Value, count: usize, sums: &[Value]| {
            let mut sums = sums.to_vec();
            for k in 0..count {
                let e = b.add(e, b.index(k));
                let offset = b.mul(e, b.index(PAGE_TOKENS));
                b.prefetch(b.buffer("cache"), &[b.add(ahead, offset)]);
                let mut key = self.load_cache(b.add(keys, offset));
                if let Some(own) = own {
                    let x = b.load(b.buffer("k"), &[own.t, b.add(own.column, e)]);
                    key = b.select(own.lane, b.broadcast(self.round(x), LANES), key);
                }
                for (row, &query) in queries.iter().enumerate() {
                    let query = b.load(b.buffer("q"), &[t, b.add(query, e)]);
                    let sum = &mut sums[row * per_row + k];
                    *sum = b.fma(b.broadcast(query, LANES), key, *sum);
                }
            }
            sums
        };
        let whole = spec.d_head - spec.d_head % per_row;
        let zeros = vec![b.splat(0.0, LANES); rows * per_row];
        let sums =
            b.for_range_vec(b.index(0), b.index(whole), per_row, &zeros, |e, sums| add_products(e, per_row, sums));
        let sums = add_products(b.index(whole), spec.d_head - whole, &sums);
        let scale = b.splat((spec.scale * LOG2_E) as f32, LANES);
        sums.chunks(per_row)
            .map(|sums| b.mul(sums.iter().copied().reduce(|x, y| b.add(x, y)).expect("a sum per row"), scale))
            .collect()
    }

    /// One page's part of the softmax, of each row: stores the probabilities relative to the maximum so far. `softmax` is
    /// that maximum and 16 sums of probabilities, of each row; gives the next, and what to multiply older sums by.
    fn probabilities(&self, scores: &[Value], in_use: Option<Value>, softmax: &[Value]) -> (Vec<Value>, Vec<Value>) {
        let b = self.b;
        let is_key = in_use.map(|count| {
            let count = b.broadcast(b.to_i32(count), LANES);
            b.cmp(Compare::Lt, b.iota(LANES), count)
        });
        // Places without a key hold anything, NaN too.
        let mask = |x: Value, other: f32| is_key.map_or(x, |is_key| b.select(is_key, x, b.splat(other, LANES)));
        let (mut next, mut rescale) = (Vec::new(), Vec::new());
        for (row, (&scores, softmax)) in scores.iter().zip(softmax.chunks(2)).enumerate() {
            let scores = mask(scores, f32::NEG_INFINITY);
            let max = b.max(softmax[0], b.reduce_max(scores));
            let older = math::exp2(b, b.broadcast(b.sub(softmax[0], max), LANES));
            let p = mask(math::exp2(b, b.sub(scores, b.broadcast(max, LANES))), 0.0);
            b.store(p, self.probabilities, &[b.index(row), b.index(0)]);
            next.extend([max, b.fma(softmax[1], older, p)]);
            rescale.push(older);
        }
        (next, rescale)
    }

    /// sums = sums · rescale + Σⱼ pⱼ · value[j], j below `count`, of each row; the token's own value, the last, is not in the
    /// cache. Has what is at `ahead` fetched meanwhile.
    fn add_values(&self, values: Value, count: Value, rescale: &[Value], ahead: Value, own: Option<&Own>) {
        let &Attention { b, spec, rows, .. } = self;
        let stride = padded(spec.d_head);
        let n_vectors = (MIN_SUMS.div_ceil(rows)).min(stride / LANES);
        let whole = stride - stride % (n_vectors * LANES);
        let columns = |first: Value, n_vectors: usize| {
            let column = |k: usize| b.add(first, b.index(k * LANES));
            let places: Vec<(usize, usize)> = (0..rows).flat_map(|row| (0..n_vectors).map(move |k| (row, k))).collect();
            let older = |&(row, k): &(usize, usize)| {
                b.mul(b.load_vector(self.sums, &[b.index(row), column(k)], LANES), rescale[row])
            };
            let older: Vec<Value> = places.iter().map(older).collect();
            let add = |j: Value, sums: &[Value], value: &dyn Fn(usize) -> Value| -> Vec<Value> {
                let value: Vec<Value> = (0..n_vectors).map(value).collect();
                let weight = |row| b.broadcast(b.load(self.probabilities, &[b.index(row), j]), LANES);
                let weights: Vec<Value> = (0..rows).map(weight).collect();
                let add = |(&(row, k), &sum): (&(usize, usize), &Value)| b.fma(weights[row], value[k], sum);
                places.iter().zip(sums).map(add).collect()
            };
            let cached = if own.is_some() { b.sub(count, b.index(1)) } else { count };
            let mut newer = b.for_range_vec(b.index(0), cached, 1, &older, |j, sums| {
                add(j, sums, &|k| {
                    // One vector after the other, which is not the order of the values.
                    let ahead = b.add(ahead, b.mul(b.add(column(k), j), b.index(LANES)));
                    b.prefetch(b.buffer("cache"), &[ahead]);
                    self.load_cache(b.add(values, b.add(b.mul(j, b.index(stride)), column(k))))
                })
            });
            if let Some(own) = own {
                newer = add(cached, &newer, &|k| {
                    let at = [own.t, b.add(own.column, column(k))];
                    self.round(b.load_vector(b.buffer("v"), &at, LANES))
                });
            }
            for (&(row, k), &sum) in places.iter().zip(&newer) {
                b.store(sum, self.sums, &[b.index(row), column(k)]);
            }
        };
        b.for_each(b.index(0), b.index(whole), n_vectors * LANES, |first| columns(first, n_vectors));
        if whole < stride {
            columns(b.index(whole), (stride - whole) / LANES);
        }
    }

    /// What the cache makes of an f32.
    fn round(&self, x: Value) -> Value {
        if self.spec.format == Elem::Bf16 { self.b.to_f32(self.b.to_bf16(x)) } else { x }
    }

    /// 16 elements of the cache, as f32.
    fn load_cache(&self, at: Value) -> Value {
        self.b.to_f32(self.b.load_vector(self.b.buffer("cache"), &[at], LANES))
    }
}
