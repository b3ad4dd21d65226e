//! The kernel body of the copy into pages.

use super::{BLOCK_BYTES, BLOCK_COLUMNS, GROUP_TOKENS, LINE_BYTES, MAX_D_HEAD, PART, Spec, THREADS, parts};
use super::{blocks, group_bytes, head_bytes};
use crate::cpu::builder::{Num, Type, Value};
use crate::hopper::{Builder, row_stride};
use crate::kernel::Elem;
use crate::kv_append::PAGE_TOKENS;

pub(crate) fn emit(b: &Builder, spec: &Spec) {
    assert!(spec.d_head <= MAX_D_HEAD, "heads of {} dimensions", spec.d_head);
    let thread = b.block() * THREADS as usize + b.thread();
    let t = thread / parts(spec);
    b.if_(t.lt(b.count("tokens")), || append(b, spec, t, thread % parts(spec)));
}

/// Byte offset of page `nth` of sequence s in the cache.
#[track_caller]
pub(crate) fn page_offset(b: &Builder, s: Value, nth: Value) -> Value {
    let entry = s.to_i64() * b.scalar("pages_per_sequence").to_i64() + nth.to_i64();
    let page = b.load(b.at(b.pointer("pages"), entry << 2), Type::scalar(Num::I32));
    (page.to_i64() * b.scalar("page_stride").to_i64()) << 1
}

/// Appends part `part` of token t.
fn append(b: &Builder, spec: &Spec, t: Value, part: Value) {
    let d_head = spec.d_head;
    let per_head = blocks(d_head) * BLOCK_COLUMNS / PART;
    let per_side = spec.n_kv_heads * per_head;
    let is_value = part.ge(per_side);
    let of_side = part % per_side;
    let (head, of_head) = (of_side / per_head, of_side % per_head);

    // 1. load
    let stride = 2 * row_stride(Elem::Bf16, spec.n_kv_heads * d_head);
    let row = is_value.select(b.row(b.pointer("v"), t, stride), b.row(b.pointer("k"), t, stride));
    let column = of_head * PART;
    let x = load(b, spec, b.at(row, (head * d_head + column) * 2), column);

    // 2. store
    let s = b.entry("sequence_of", t);
    let past = b.entry("past", s);
    let position = past + t - b.entry("starts", s);
    let (nth, row) = (position / PAGE_TOKENS, position % PAGE_TOKENS);
    let page = page_offset(b, s, nth);
    let side = is_value.select(b.i32((blocks(d_head) * BLOCK_BYTES) as i32), 0);
    let in_head = side + column / BLOCK_COLUMNS * BLOCK_BYTES;
    let head = b.at(b.at(b.pointer("cache"), page), head * head_bytes(d_head) + in_head);
    let place = of_head & (BLOCK_COLUMNS / PART - 1);
    let put = |x: Value, row: Value| {
        let in_group = row & (GROUP_TOKENS - 1);
        let group = (row >> GROUP_TOKENS.ilog2()) * group_bytes(d_head);
        let in_row = (place ^ in_group) * (2 * PART);
        b.store(x, b.at(head, group + (in_group * LINE_BYTES + in_row)));
    };
    put(x, row);

    // 3. zeros
    let is_last = (t + 1).eq(b.entry("starts", s + 1));
    let opens = (position - row).ge(past);
    b.if_(is_last & opens, || b.for_each(row + 1, PAGE_TOKENS, 1, |row| put(b.splat_i32(0, PART / 2), row)));
}

/// Loads 16 bytes of a head from column `column` on, at `from`.
fn load(b: &Builder, spec: &Spec, from: Value, column: Value) -> Value {
    let (d_head, quad) = (spec.d_head, Type::vector(Num::I32, PART / 2));
    if d_head.is_multiple_of(BLOCK_COLUMNS) {
        return b.load(from, quad);
    }
    let inside = |e: usize| (column + e).lt(d_head);
    if d_head.is_multiple_of(PART) {
        return b.if_else(inside(0), || b.load(from, quad), || b.splat_i32(0, PART / 2));
    }
    // Heads are not 16-byte aligned.
    let element = |e: usize| {
        let load = || b.load(b.at_byte(from, 2 * e), Type::scalar(Num::I16)).to_i32();
        b.if_else(inside(e), load, || b.i32(0)) & 0xffff
    };
    (0..PART / 2)
        .fold(b.splat_i32(0, PART / 2), |x, pair| x.with_lane(pair, element(2 * pair) | (element(2 * pair + 1) << 16)))
}
