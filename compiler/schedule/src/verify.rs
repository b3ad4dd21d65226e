//! Verification of a schedule. The checker shares no code with the planner: it compares the finished records with the operands
//! that each kernel declares.
//!
//! 1. **kernels**: symbols are unique; the records name the kernels; a step's kernel exists
//! 2. **arguments**: one per operand; addresses and integers match the kernel's parameters; step tables and counts match by
//!    name
//! 3. **weights**: ordered, disjoint, aligned, inside the weights; an operand's weight has the layout, format and parts that
//!    its kernel declares, and its scales belong to the integers that the step reads
//! 4. **states**: regions are disjoint, aligned, inside the slot or page; an operand's state is a region of its size; strides
//!    equal those of the pools
//! 5. **buffers**: aligned, inside the arena, live for at least one step, ordered by first step
//! 6. **dataflow**: an address in the arena belongs to a live buffer; its first step writes it, later steps read it, none after
//!    its last step; element type and row stride are constant; the rows of an operand in the largest step fit into the buffer
//! 7. **disjoint**: no two buffers that are live in the same step share bytes, except a result over an operand if the kernel
//!    allows it
//! 8. **barriers**: of two steps without a barrier in between, neither writes bytes that the other accesses
//! 9. **logits**: rows of logits are in a buffer that is live to the end; steps that pick tokens read them, and each writes its
//!    own buffer
//! 10. **memory**: the entries are prefill, then decode in increasing order of sequences; pools are large enough; sizes are
//!     aligned
//! 11. **tensor maps**: each matrix is a whole weight or a whole live buffer, with the boxes that the kernel copies

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
/// [`ScheduleError::Broken`]: the first violated invariant, with its location and a description.
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

/// The location of a step for error messages: entry, index, kernel, source.
fn step_place(schedule: &Schedule, entry: &Entry, index: usize) -> String {
    let step = &entry.steps[index];
    let symbol = schedule.kernels.get(step.kernel as usize).map_or("no kernel", |kernel| &kernel.symbol);
    format!("{} step {index} ({symbol}, {})", entry.kind.name(), step.source)
}

fn buffer_place(entry: &Entry, index: usize) -> String {
    format!("{} buffer b{index}", entry.kind.name())
}

/// The operands of a step with their arguments; a tensor map is replaced by its matrix. Requires invariant 2: the numbers of
/// operands and arguments are equal.
fn bound<'a>(schedule: &'a Schedule, step: &'a Step) -> impl Iterator<Item = (&'a Operand, Arg)> {
    let base = |&arg: &Arg| match arg {
        Arg::TensorMap(index) => schedule.program.tensor_maps.get(index as usize).map_or(arg, |map| map.base),
        _ => arg,
    };
    schedule.operands(step).iter().zip(step.args.iter().map(base))
}

/// The buffer at an address in a step. If a result overwrites an operand, the access selects between the two.
pub(crate) fn buffer_at(entry: &Entry, step: usize, offset: u64, access: Access) -> Option<usize> {
    let (step, writes) = (step as u32, access != Access::Read);
    // Buffers are ordered by their first steps, and most have short live ranges.
    let written = entry.buffers.partition_point(|buffer| buffer.first <= step);
    entry.buffers[..written]
        .iter()
        .rposition(|buffer| buffer.offset == offset && step <= buffer.last && (buffer.first == step) == writes)
}

/// Start and end in bytes, end exclusive.
type Range = (u64, u64);

fn meet(a: Range, b: Range) -> bool {
    a.0 < b.1 && b.0 < a.1
}

/// Size in bytes of an operand in the entry's largest step.
fn largest(entry: &Entry, step: &Step, operand: &Operand) -> Option<u64> {
    let sizes = [entry.max_tokens, entry.max_sequences, entry.max_outputs];
    operand.bytes(|per| {
        let (count, factor) = count_of(per, 1, step.rows);
        target::count(count, sizes) * u64::from(factor)
    })
}

#[cfg(test)]
mod tests;
