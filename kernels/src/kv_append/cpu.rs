//! Writes keys and values into pages on CPUs: each thread processes a range of (token, KV head).
//!
//! 1. for each token and head: find its page and its place in the page
//! 2. keys: element by element, each into the row of its dimension
//! 3. values: whole vectors into the token's row; the last store ends at the head's last column

use super::{PAGE_TOKENS, Spec, head_elements};
use crate::cpu::builder::{Builder, Value};
use crate::kernel::{Elem, LANES, padded};

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    let heads = spec.n_kv_heads;
    b.parallel_for(b.scalar("tokens") * heads, |unit| append(b, spec, unit / heads, unit % heads));
}

/// Appends the key and value of one KV head of token t.
pub(crate) fn append(b: &Builder, spec: &Spec, t: Value, head: Value) {
    let (k, v, cache) = (b.buffer("k"), b.buffer("v"), b.buffer("cache"));
    let round = |x: Value| if spec.format == Elem::Bf16 { x.to_bf16() } else { x };
    // 1. find
    let table = |name, at| b.load(b.buffer(name), at).to_index();
    let s = table("sequence_of", t);
    let position = table("past", s) + t - table("starts", s);
    let (nth, place) = (position / PAGE_TOKENS, position % PAGE_TOKENS);
    let page = table("pages", s * b.scalar("pages_per_sequence") + nth);
    let in_page = head * head_elements(spec.d_head);
    let keys = page * b.scalar("page_stride") + in_page;
    let column = head * spec.d_head;

    // 2. keys
    let key = keys + place;
    b.for_each(0, spec.d_head, 1, |e| {
        let x = b.load(k, (t, column + e));
        b.store(round(x), cache, key + e * PAGE_TOKENS);
    });

    // 3. values
    let row = keys + (PAGE_TOKENS * spec.d_head + place * padded(spec.d_head));
    let whole = spec.d_head - spec.d_head % LANES;
    let vector = |e: Value| round(b.load_vector(v, (t, column + e), LANES));
    b.for_each(0, whole, LANES, |e| {
        b.store(vector(e), cache, row + e);
    });
    if whole < spec.d_head {
        let e = b.index(whole);
        b.store_partial(vector(e), cache, row + e, spec.d_head - whole);
    }
}
