//! Keys and values into pages on a CPU: each thread takes a range of (token, KV head).
//!
//! 1. for each token and head: find its page and its place there
//! 2. keys: one element after the other, each into the row of its dimension
//! 3. values: whole vectors into the token's row; the last one no further than the head

use super::{PAGE_TOKENS, Spec, head_elements};
use crate::cpu::builder::{Builder, Value};
use crate::kernel::{Elem, LANES, padded};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let heads = b.index(spec.n_kv_heads);
    let (start, end) = b.thread_range(b.mul(b.scalar("tokens"), heads));
    b.for_each(start, end, 1, |unit| append(b, spec, b.div(unit, heads), b.rem(unit, heads)));
}

/// The key and value of one KV head of token t.
pub(crate) fn append(b: &Builder, spec: &Spec, t: Value, head: Value) {
    let (k, v, cache) = (b.buffer("k"), b.buffer("v"), b.buffer("cache"));
    let round = |x: Value| if spec.format == Elem::Bf16 { b.to_bf16(x) } else { x };
    // 1. find
    let table = |name, at| b.to_index(b.load(b.buffer(name), &[at]));
    let s = table("sequence_of", t);
    let position = b.sub(b.add(table("past", s), t), table("starts", s));
    let tokens = b.index(PAGE_TOKENS);
    let (nth, place) = (b.div(position, tokens), b.rem(position, tokens));
    let page = table("pages", b.add(b.mul(s, b.scalar("pages_per_sequence")), nth));
    let keys = b.mul(head, b.index(head_elements(spec.d_head)));
    let keys = b.add(b.mul(page, b.scalar("page_stride")), keys);
    let column = b.mul(head, b.index(spec.d_head));

    // 2. keys
    let key = b.add(keys, place);
    b.for_each(b.index(0), b.index(spec.d_head), 1, |e| {
        let x = b.load(k, &[t, b.add(column, e)]);
        b.store(round(x), cache, &[b.add(key, b.mul(e, tokens))]);
    });

    // 3. values
    let row = b.add(b.index(PAGE_TOKENS * spec.d_head), b.mul(place, b.index(padded(spec.d_head))));
    let row = b.add(keys, row);
    let whole = spec.d_head - spec.d_head % LANES;
    let vector = |e: Value| round(b.load_vector(v, &[t, b.add(column, e)], LANES));
    b.for_each(b.index(0), b.index(whole), LANES, |e| {
        b.store(vector(e), cache, &[b.add(row, e)]);
    });
    if whole < spec.d_head {
        let e = b.index(whole);
        b.store_partial(vector(e), cache, &[b.add(row, e)], b.index(spec.d_head - whole));
    }
}
