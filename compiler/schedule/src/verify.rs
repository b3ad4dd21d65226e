//! Proof of a schedule by a checker that is not the planner: it looks at the finished schedule and the catalog alone.
//!
//! 1. **kernels**: each symbol once; a step's kernel has the symbol of what the step computes
//! 2. **arguments**: one per slot; addresses and integers where the kernel takes them; step tables and counts by name
//! 3. **weights**: in order, apart, aligned, inside the weights; a step reads one in the layout and format of its kernel
//! 4. **states**: regions apart, aligned, inside slot or page; a step's state is a region of its size; strides are the pools'
//! 5. **buffers**: aligned, inside the arena, live for some of the steps, in order of their first
//! 6. **dataflow**: an address in the arena is a live buffer's; its first step writes it, all later ones read it, none after
//!    its last; element type and distance of rows stay the same, and rows are as many as the largest step has
//! 7. **apart**: no two buffers live in the same step share bytes, but for a result over an operand where its kernel may do so
//! 8. **barriers**: of two steps with no barrier in between, none writes bytes that the other one touches
//! 9. **logits**: rows of logits are left inside a buffer that lives to the end; a GPU's last two steps pick tokens from them, each
//!    into a buffer of its own
//! 10. **memory**: prefill and decode, once each but for a GPU, which may decode in several; pools hold what lies in them; sizes
//!     are aligned
//! 11. **tensor maps**: the matrix of each is a weight or a live buffer, all of it, in the boxes that the kernel copies

mod memory;
mod sm90;
mod steps;

use jamba_plan::format::{Arg, Count};
use jambac_kernels::kernel::{Access, Elem, Param};

use crate::{EntrySchedule, Schedule, ScheduleError, Step};

/// Checks the module's invariants.
///
/// # Errors
/// [`ScheduleError::Broken`]: the first invariant found broken, where, and how.
pub fn verify(schedule: &Schedule) -> Result<(), ScheduleError> {
    steps::kernels(schedule)?;
    for entry in &schedule.entries {
        steps::arguments(schedule, entry)?;
    }
    memory::weights(schedule)?;
    memory::states(schedule)?;
    for entry in &schedule.entries {
        memory::buffers(schedule, entry)?;
        steps::dataflow(schedule, entry)?;
        memory::apart(schedule, entry)?;
        steps::barriers(schedule, entry)?;
        memory::logits(entry)?;
        sm90::picks(schedule.kind, entry)?;
    }
    memory::pools(schedule)?;
    sm90::maps(schedule)
}

fn broken(invariant: u8, place: String, message: impl Into<String>) -> ScheduleError {
    ScheduleError::Broken { invariant, place, message: message.into() }
}

/// A step as people know it.
fn step_place(entry: &EntrySchedule, index: usize) -> String {
    let step = &entry.steps[index];
    format!("{} step {index} ({}, {})", entry.kind.name(), step.spec.symbol(), step.source)
}

fn buffer_place(entry: &EntrySchedule, index: usize) -> String {
    format!("{} buffer b{index}", entry.kind.name())
}

/// An argument with the slot that it fills; the matrix behind a tensor map is the argument. Invariant 2 holds: there are as many
/// of both.
fn bound(schedule: &Schedule, step: &Step) -> impl Iterator<Item = (Param, Arg)> {
    let base = |&arg: &Arg| match arg {
        Arg::TensorMap(index) => schedule.tensor_maps.get(index as usize).map_or(arg, |map| map.base),
        _ => arg,
    };
    step.spec.params().into_iter().zip(step.args.iter().map(base))
}

/// The one buffer that is at an address in a step: of two, a result over an operand, the one that the access means.
pub(crate) fn buffer_at(entry: &EntrySchedule, step: usize, offset: u64, access: Access) -> Option<usize> {
    let writes = access != Access::Read;
    // Buffers are in order of their first steps, and most are read soon.
    let written = entry.buffers.partition_point(|buffer| buffer.first <= step);
    entry.buffers[..written]
        .iter()
        .rposition(|buffer| buffer.offset == offset && step <= buffer.last && (buffer.first == step) == writes)
}

/// Bytes from … to, the end not included.
type Range = (u64, u64);

fn meet(a: Range, b: Range) -> bool {
    a.0 < b.1 && b.0 < a.1
}

/// Element type and distance of rows of what an address is of, `[]` where they are not stated.
fn rows_of(param: &Param) -> Option<(Elem, Vec<usize>)> {
    match param {
        Param::Buffer { elem, inner, .. } => Some((*elem, inner.clone())),
        Param::TensorMap { map, .. } => Some((map.elem, vec![map.row_bytes() * 8 / map.elem.bits()])),
        Param::Scalar { .. } | Param::Count { .. } => None,
    }
}

/// The largest value of a count in any step of the entry.
fn most(entry: &EntrySchedule, count: Count) -> u64 {
    match count {
        Count::Tokens => entry.max_tokens,
        Count::Sequences => entry.max_sequences,
        Count::Outputs => entry.max_outputs,
    }
}

#[cfg(test)]
mod tests;
