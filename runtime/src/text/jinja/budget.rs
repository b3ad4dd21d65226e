//! What a template has made and looked at so far, so that none fills the memory or works for minutes.
//!
//! A template renders on a thread of its own, which counts: bytes of texts and items of collections when they are made, however short
//! they live, and an eighth of a text whenever an expression or a filter takes it. The interpreter compares the sum with the limit at
//! each instruction, and a single one adds little.

use std::cell::Cell;

use super::value::{Result, Value, error};

/// Most bytes. The templates of published models make a few times the text of the chat.
const MOST: usize = 1 << 30;

/// Bytes that an item counts for.
const ITEM_BYTES: usize = 32;

thread_local! {
    static SPENT: Cell<usize> = const { Cell::new(0) };
}

/// Counts bytes of a text.
pub(super) fn made(bytes: usize) {
    SPENT.with(|spent| spent.set(spent.get().saturating_add(bytes)));
}

/// Counts items of a collection.
pub(super) fn made_items(n: usize) {
    made(n.saturating_mul(ITEM_BYTES));
}

/// Counts a value that is looked at.
pub(super) fn used(value: &Value) -> Result<()> {
    made(value.as_text().map_or(0, |text| text.len() / 8));
    check()
}

/// Refuses to go on beyond the limit.
pub(super) fn check() -> Result<()> {
    match SPENT.with(Cell::get) {
        spent if spent > MOST => error(format!("its texts and lists have taken more than {MOST} bytes")),
        _ => Ok(()),
    }
}
