//! What a template has made and looked at so far, so that none fills the memory or works for minutes.
//!
//! A template renders on a thread of its own, which counts: bytes of texts and items of collections when they are made, however short
//! they live, an eighth of a text whenever an expression or a filter takes it, and some bytes for each comparison. The interpreter
//! compares the sum with the limit at each instruction, and a single one adds little.

use std::cell::Cell;

use super::value::{Result, Value, error};

/// Most bytes. The templates of published models make a few times the text of the chat.
const MOST: usize = 512 << 20;

/// Bytes that an item counts for.
const ITEM_BYTES: usize = 64;

/// Bytes that a text counts for beside its own.
const TEXT_BYTES: usize = 32;

/// Bytes that a part of a text, from outside of the template, counts for.
const PART_BYTES: usize = 16;

/// Bytes that a scope or a namespace counts for.
const SCOPE_BYTES: usize = 1024;

/// Bytes that a comparison counts for.
const COMPARED_BYTES: usize = 64;

thread_local! {
    static SPENT: Cell<usize> = const { Cell::new(0) };
}

fn made(bytes: usize) {
    SPENT.with(|spent| spent.set(spent.get().saturating_add(bytes)));
}

fn is_over() -> bool {
    SPENT.with(Cell::get) > MOST
}

/// Counts a text of this many bytes and parts from outside.
pub(super) fn made_text(bytes: usize, parts: usize) {
    made(TEXT_BYTES.saturating_add(bytes).saturating_add(parts.saturating_mul(PART_BYTES)));
}

/// Counts a scope or a namespace that is kept until the end.
pub(super) fn kept_scope() {
    made(SCOPE_BYTES);
}

/// Counts a comparison of two values, a hash, or another visit of a value, which looks at this many bytes of text. Returns true beyond the
/// limit: what visits parts of values may stop, since the next instruction fails.
pub(super) fn compared(bytes: usize) -> bool {
    made(COMPARED_BYTES.saturating_add(bytes / 8));
    is_over()
}

/// Counts items of a collection.
pub(super) fn made_items(n: usize) {
    made(n.saturating_mul(ITEM_BYTES));
}

/// Counts a value that is looked at.
pub(super) fn used(value: &Value) -> Result<()> {
    let parts = if let Value::Text(text) | Value::Markup(text) = value { text.outside().len() } else { 0 };
    made(value.as_text().map_or(0, |text| text.len() / 8).saturating_add(parts.saturating_mul(2)));
    check()
}

/// Refuses to go on beyond the limit.
pub(super) fn check() -> Result<()> {
    if is_over() { error(format!("its texts and lists have taken more than {MOST} bytes")) } else { Ok(()) }
}
