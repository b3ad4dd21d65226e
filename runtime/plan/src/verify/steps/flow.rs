//! Data flow through the arena, step by step: which value is where, who reads it, and what has been touched since the last
//! barrier.

use std::collections::{BTreeMap, BTreeSet};

use super::{Pool, Range};
use crate::format::{Access, Elem, Shape};

/// Bytes that a step accesses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    pub(super) access: Access,
    pub(super) shape: Shape,
    pub(super) range: Range,
    /// Number of rows of a matrix: all rows of the value.
    pub(super) rows: Option<u64>,
}

impl Touch {
    fn writes(&self) -> bool {
        self.access != Access::Read
    }
}

/// A value that a step wrote.
#[derive(Clone, Copy, Debug)]
struct Value {
    first: u32,
    offset: u64,
    bytes: u64,
    last: u32,
    reads: u32,
    elem: Elem,
    row_bytes: u64,
}

/// The state after some steps of an entry.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// All values so far.
    values: Vec<Value>,
    /// Those that are whole, by offset, as indices of `values`. Their ranges are disjoint.
    whole: BTreeMap<u64, usize>,
    /// Ranges that steps have read and written since the last barrier.
    read: Ranges,
    written: Ranges,
}

impl Flow {
    /// Executes a step. The error is the slot and the expected property.
    pub(super) fn step(&mut self, step: u32, barrier: bool, touches: &[(usize, Touch)]) -> Result<(), (usize, String)> {
        if barrier {
            (self.read, self.written) = Default::default();
        }
        for (slot, touch) in touches {
            let in_arena = touch.range.pool == Pool::Arena;
            if in_arena && matches!(touch.access, Access::Read | Access::ReadWrite) {
                self.read(step, touch).map_err(|expected| (*slot, expected))?;
            }
            if self.written.meet(touch.range) || (touch.writes() && self.read.meet(touch.range)) {
                return Err((
                    *slot,
                    "bytes that no step since the last barrier writes, or reads if this one writes".to_owned(),
                ));
            }
        }
        apart(touches)?;
        for (_, touch) in touches {
            if touch.range.pool == Pool::Arena && matches!(touch.access, Access::Write | Access::WriteOver) {
                self.write(step, touch);
            }
            if touch.writes() { self.written.add(touch.range) } else { self.read.add(touch.range) }
        }
        Ok(())
    }

    fn read(&mut self, step: u32, touch: &Touch) -> Result<(), String> {
        let Touch { shape, range, rows, .. } = touch;
        let value = self.whole.get(&range.start).and_then(|&index| self.values.get_mut(index));
        let Some(value) = value else {
            return Err("the address of a value that an earlier step has written".to_owned());
        };
        // A single element does not define a row: the kernel computes the addresses of rows itself.
        let row_bytes = shape.row_bytes().filter(|&bytes| bytes == value.row_bytes || shape.row == 1);
        if shape.elem != value.elem || row_bytes.is_none() || range.end - range.start > value.bytes {
            return Err(format!(
                "a value of {}, in rows of {} elements, of at least {} bytes",
                shape.elem.name(),
                shape.row,
                range.end - range.start
            ));
        }
        if let Some(rows) = *rows
            && rows != value.bytes / value.row_bytes
        {
            return Err(format!("a tensor map of all {} rows", value.bytes / value.row_bytes));
        }
        (value.last, value.reads) = (step, value.reads.saturating_add(1));
        Ok(())
    }

    fn write(&mut self, step: u32, touch: &Touch) {
        let Range { start, end, .. } = touch.range;
        // The whole values are disjoint, so at most one begins before the range and reaches into it.
        let before = self.whole.range(..start).next_back().filter(|&(_, &index)| {
            let value = self.values[index];
            value.offset + value.bytes > start
        });
        let lost: Vec<u64> =
            before.into_iter().chain(self.whole.range(start..end)).map(|(&offset, _)| offset).collect();
        for offset in lost {
            self.whole.remove(&offset);
        }
        self.whole.insert(start, self.values.len());
        self.values.push(Value {
            first: step,
            offset: start,
            bytes: end - start,
            last: step,
            reads: 0,
            elem: touch.shape.elem,
            row_bytes: touch.shape.row_bytes().unwrap_or(1),
        });
    }

    /// Whether a value of f32 at this offset outlives the `n_steps` steps of the entry; if so, its last use is after them.
    pub(super) fn ends_with(&mut self, offset: u64, bytes: u64, row_bytes: u64, n_steps: u32) -> bool {
        let value = self.whole.get(&offset).and_then(|&index| self.values.get_mut(index));
        let value =
            value.filter(|value| (value.elem, value.row_bytes) == (Elem::F32, row_bytes) && value.bytes >= bytes);
        value.map(|value| value.last = n_steps - 1).is_some()
    }

    /// First step, offset, length, last step and number of reads of each value.
    pub(super) fn buffers(&self) -> BTreeSet<[u64; 5]> {
        let fields = |value: &Value| {
            let Value { first, offset, bytes, last, reads, .. } = *value;
            [first.into(), offset, bytes, last.into(), reads.into()]
        };
        self.values.iter().map(fields).collect()
    }
}

/// Checks that what a step writes shares no byte with its other arguments, except an operand of the same shape that it may
/// overwrite.
fn apart(touches: &[(usize, Touch)]) -> Result<(), (usize, String)> {
    for (at, (slot, touch)) in touches.iter().enumerate().filter(|(_, (_, touch))| touch.writes()) {
        for (_, other) in touches.iter().enumerate().filter(|&(index, _)| index != at).map(|(_, other)| other) {
            let over = touch.access == Access::WriteOver
                && other.access == Access::Read
                && other.range == touch.range
                && (other.shape.elem, other.shape.row) == (touch.shape.elem, touch.shape.row);
            if touch.range.meets(other.range) && !over {
                return Err((*slot, "bytes that no other argument of the step addresses".to_owned()));
            }
        }
    }
    Ok(())
}

/// A union of ranges.
#[derive(Debug, Default)]
struct Ranges {
    /// The end of each range, by pool and start. Ranges of a pool are disjoint and do not touch.
    ends: BTreeMap<(Pool, u64), u64>,
}

impl Ranges {
    /// Whether the range shares a byte with the union.
    fn meet(&self, range: Range) -> bool {
        let before = self.ends.range(..(range.pool, range.end)).next_back();
        before.is_some_and(|(&(pool, _), &end)| pool == range.pool && end > range.start)
    }

    fn add(&mut self, range: Range) {
        let Range { pool, mut start, mut end } = range;
        while let Some((&(of, from), &to)) = self.ends.range(..=(pool, end)).next_back()
            && of == pool
            && to >= start
        {
            (start, end) = (start.min(from), end.max(to));
            self.ends.remove(&(pool, from));
        }
        self.ends.insert((pool, start), end);
    }
}
