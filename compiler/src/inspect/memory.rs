//! The memory map of the arena: the bytes and the live range of every buffer.

use std::fmt::Write;

use jamba_plan::format::{Buffer, Entry, Program};

use super::work::columns;

/// The peak of live bytes, a lower bound on the size of the arena. A buffer written in place is counted once.
pub fn peak_live_bytes(entry: &Entry) -> u64 {
    live_bytes(entry).into_iter().max().unwrap_or(0)
}

/// Bytes that are live in each step.
pub fn live_bytes(entry: &Entry) -> Vec<u64> {
    let mut live = vec![0; entry.steps.len()];
    for buffer in &entry.buffers {
        let first = buffer.first as usize + usize::from(buffer.in_place_of.is_some());
        live.iter_mut().take(buffer.last as usize + 1).skip(first).for_each(|bytes| *bytes += buffer.bytes);
    }
    live
}

/// Bytes of arena that an entry uses.
pub fn arena_bytes(entry: &Entry) -> u64 {
    entry.buffers.iter().map(|buffer| buffer.offset + buffer.bytes).max().unwrap_or(0)
}

/// The content of a buffer: `out of layers.3.mamba`.
pub fn holds(entry: &Entry, buffer: &Buffer) -> String {
    format!("{} of {}", buffer.holds, entry.steps[buffer.first as usize].source)
}

/// The map of every entry as a table.
pub fn table(program: &Program) -> String {
    let mut text = String::new();
    for (index, entry) in program.entries.iter().enumerate() {
        let name = jamba_plan::text::entry_name(&program.entries, index);
        let (arena, peak) = (arena_bytes(entry), peak_live_bytes(entry));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{name}: {arena} bytes of arena, {peak} live at the peak");
        let head = ["buffer", "from", "to", "bytes", "first step", "last", "holds"].map(str::to_owned);
        let rows = entry.buffers.iter().enumerate().map(|(index, buffer)| {
            [
                buffer.in_place_of.map_or_else(|| format!("b{index}"), |other| format!("b{index}=b{other}")),
                buffer.offset.to_string(),
                (buffer.offset + buffer.bytes).to_string(),
                buffer.bytes.to_string(),
                buffer.first.to_string(),
                buffer.last.to_string(),
                holds(entry, buffer),
            ]
        });
        text += &columns(std::iter::once(head).chain(rows));
    }
    text
}
