//! Verification of a schedule by a checker that shares no code with the planner: it looks at the finished records and at what
//! each kernel states of its operands.
//!
//! 1. **kernels**: each symbol once; the records name the kernels; a step's kernel exists
//! 2. **arguments**: one per operand; addresses and integers where the kernel takes them; step tables and counts by name
//! 3. **weights**: in order, disjoint, aligned, inside the weights; an operand's weight has the layout, format and parts that
//!    its kernel states, and its scales are those of the integers that the step reads
//! 4. **states**: regions disjoint, aligned, inside slot or page; an operand's state is a region of its size; strides are the
//!    pools'
//! 5. **buffers**: aligned, inside the arena, live for some of the steps, in order of their first
//! 6. **dataflow**: an address in the arena is a live buffer's; its first step writes it, later ones read it, none after its
//!    last; element type and row stride stay the same; the rows that an operand has in the largest step fit into the buffer
//! 7. **disjoint**: no two buffers that are live in the same step share bytes, except a result over an operand where the
//!    kernel allows it
//! 8. **barriers**: of two steps with no barrier in between, none writes bytes that the other one touches
//! 9. **logits**: rows of logits are left in a buffer that lives to the end; steps that pick tokens read them, and write each
//!    to its own buffer
//! 10. **memory**: the entries are prefill, then decode from the fewest sequences to the most; pools hold their contents; sizes
//!     are aligned
//! 11. **tensor maps**: the matrix of each is a weight or a live buffer, all of it, in the boxes that the kernel copies

mod memory;
mod picks;
mod steps;

use jamba_plan::format::{Arg, Entry, Step};
use jambac_kernels::kernel::{Access, Operand, count_of};
use jambac_kernels::target;

use crate::{Schedule, ScheduleError};

/// Checks the module's invariants.
///
/// # Errors
/// [`ScheduleError::Broken`]: the first invariant found broken, where, and how.
pub fn verify(schedule: &Schedule) -> Result<(), ScheduleError> {
    steps::kernels(schedule)?;
    let entries = &schedule.program.entries;
    for entry in entries {
        steps::arguments(schedule, entry)?;
    }
    memory::weights(schedule)?;
    memory::states(schedule)?;
    for entry in entries {
        memory::buffers(schedule, entry)?;
        steps::dataflow(schedule, entry)?;
        memory::disjoint(schedule, entry)?;
        steps::barriers(schedule, entry)?;
        memory::logits(entry)?;
        picks::picks(schedule, entry)?;
    }
    memory::pools(schedule)?;
    picks::maps(schedule)
}

fn broken(invariant: u8, place: String, message: impl Into<String>) -> ScheduleError {
    ScheduleError::Broken { invariant, place, message: message.into() }
}

/// A step for people: entry, index, kernel, source.
fn step_place(schedule: &Schedule, entry: &Entry, index: usize) -> String {
    let step = &entry.steps[index];
    let symbol = schedule.kernels.get(step.kernel as usize).map_or("no kernel", |kernel| &kernel.symbol);
    format!("{} step {index} ({symbol}, {})", entry.kind.name(), step.source)
}

fn buffer_place(entry: &Entry, index: usize) -> String {
    format!("{} buffer b{index}", entry.kind.name())
}

/// The operands of a step with their arguments; a tensor map stands for its matrix. Invariant 2 holds: there are as many of
/// both.
fn bound<'a>(schedule: &'a Schedule, step: &'a Step) -> impl Iterator<Item = (&'a Operand, Arg)> {
    let base = |&arg: &Arg| match arg {
        Arg::TensorMap(index) => schedule.program.tensor_maps.get(index as usize).map_or(arg, |map| map.base),
        _ => arg,
    };
    schedule.operands(step).iter().zip(step.args.iter().map(base))
}

/// The one buffer that is at an address in a step. Of a result over an operand, the access tells which is meant.
pub(crate) fn buffer_at(entry: &Entry, step: usize, offset: u64, access: Access) -> Option<usize> {
    let (step, writes) = (step as u32, access != Access::Read);
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

/// Bytes that an operand has in the largest step of the entry.
fn largest(entry: &Entry, step: &Step, operand: &Operand) -> Option<u64> {
    let sizes = [entry.max_tokens, entry.max_sequences, entry.max_outputs];
    operand.bytes(|per| {
        let (count, factor) = count_of(per, 1, step.rows);
        target::count(count, sizes) * u64::from(factor)
    })
}

#[cfg(test)]
mod tests;
