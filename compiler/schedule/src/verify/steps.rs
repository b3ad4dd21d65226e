//! Checks steps: kernels, arguments, data flow through buffers, barriers.

use std::collections::BTreeSet;

use jamba_plan::format::{Arg, Entry, Step};
use jambac_kernels::kernel::{Access, Elem, Operand, Param, Source, count_of};

use super::{Range, bound, broken, buffer_at, buffer_place, largest, meet, step_place};
use crate::{Pool, Schedule, ScheduleError};

// Invariant 1.
pub(super) fn kernels(schedule: &Schedule) -> Result<(), ScheduleError> {
    let mut symbols = BTreeSet::new();
    let records = &schedule.program.kernels;
    for (index, kernel) in schedule.kernels.iter().enumerate() {
        let fail = |message: String| Err(broken(1, format!("kernel {index}"), message));
        if !symbols.insert(&kernel.symbol) {
            return fail(format!("{} comes twice", kernel.symbol));
        }
        let matches = |record: &&jamba_plan::format::KernelRecord| {
            record.symbol == kernel.symbol && kernel.signature().as_ref() == Some(&record.operands)
        };
        if records.get(index).filter(matches).is_none() {
            return fail(format!("the record of {} is {:?}", kernel.symbol, records.get(index)));
        }
    }
    for entry in &schedule.program.entries {
        for (index, step) in entry.steps.iter().enumerate() {
            if step.kernel as usize >= schedule.kernels.len() {
                let message = format!("kernel {} of {}", step.kernel, schedule.kernels.len());
                return Err(broken(1, step_place(schedule, entry, index), message));
            }
        }
    }
    Ok(())
}

// Invariant 2.
pub(super) fn arguments(schedule: &Schedule, entry: &Entry) -> Result<(), ScheduleError> {
    for (index, step) in entry.steps.iter().enumerate() {
        let operands = schedule.operands(step);
        if operands.len() != step.args.len() {
            let message = format!("{} arguments, expected {}", step.args.len(), operands.len());
            return Err(broken(2, step_place(schedule, entry, index), message));
        }
        for (operand, &arg) in operands.iter().zip(&step.args) {
            if !fits(schedule, step, operand, arg) {
                let (name, param) = (operand.name(), &operand.param);
                let message = format!("slot {name} is {arg:?}, expected what {param:?} takes");
                return Err(broken(2, step_place(schedule, entry, index), message));
            }
        }
    }
    Ok(())
}

/// Whether an operand accepts an argument of this kind; invariants 3, 4 and 6 check the targets of addresses.
fn fits(schedule: &Schedule, step: &Step, operand: &Operand, arg: Arg) -> bool {
    match (&operand.param, arg) {
        (Param::Buffer { access: Access::Read, elem: Elem::I32, .. }, Arg::Table(table)) => {
            matches!(operand.source, Source::Table(expected) | Source::Input(_, expected) if expected == table)
        }
        (Param::Buffer { access, .. }, Arg::Arena(_)) => *access != Access::ReadWrite,
        (Param::Buffer { access: Access::Read, .. }, Arg::Weight(index)) => {
            (index as usize) < schedule.program.weights.len()
        }
        (Param::Buffer { .. }, Arg::State(_)) => operand.source == Source::State,
        (Param::Buffer { .. }, Arg::Kv(_)) => matches!(operand.source, Source::Pages(_)),
        (Param::TensorMap { .. }, Arg::TensorMap(index)) => (index as usize) < schedule.program.tensor_maps.len(),
        (Param::Scalar { .. } | Param::Count { .. }, Arg::Count(count, factor)) => match operand.source {
            Source::Count(per, least) => count_of(per, least, step.rows) == (count, factor),
            _ => false,
        },
        (Param::Scalar { .. }, Arg::Constant(_)) => !matches!(operand.source, Source::Count(..)),
        _ => false,
    }
}

// Invariant 6.
pub(super) fn dataflow(schedule: &Schedule, entry: &Entry) -> Result<(), ScheduleError> {
    // Element type and row stride with which each buffer's first step writes it.
    let mut written: Vec<Option<(Elem, u64)>> = vec![None; entry.buffers.len()];
    for (index, step) in entry.steps.iter().enumerate() {
        for (operand, arg) in bound(schedule, step) {
            let (Some(access), Some(elem), Arg::Arena(offset)) = (operand.param.access(), operand.param.elem(), arg)
            else {
                continue;
            };
            let (name, fail) = (operand.name(), |message| Err(broken(6, step_place(schedule, entry, index), message)));
            let Some(id) = buffer_at(entry, index, offset, access) else {
                let when = if access == Access::Read { "was written before" } else { "is written here" };
                return fail(format!("slot {name}: no buffer at {offset} lives now and {when}"));
            };
            let bytes = entry.buffers[id].bytes;
            let row_bytes = (operand.param.row_elements() * elem.bytes()) as u64;
            if !bytes.is_multiple_of(row_bytes) {
                return fail(format!("b{id} has {bytes} bytes, which rows of {row_bytes} do not divide"));
            }
            let Some(needed) = largest(entry, step, operand) else {
                return fail(format!("slot {name} has more bytes than an address space"));
            };
            match written[id] {
                None if access == Access::Read => return fail(format!("b{id} is read before it is written")),
                None if needed != bytes => {
                    return fail(format!("b{id} has {bytes} bytes, slot {name} writes {needed} in the largest step"));
                }
                None => written[id] = Some((elem, row_bytes)),
                Some((found, _)) if found != elem => {
                    return fail(format!("slot {name} is {}, b{id} is {}", elem.name(), found.name()));
                }
                // A single element does not define a row: the kernel computes the row addresses itself.
                Some((_, stride)) if row_bytes != stride && row_bytes != elem.bytes() as u64 => {
                    return fail(format!("b{id} is read by rows of {row_bytes} bytes, and was written by {stride}"));
                }
                Some(_) if needed > bytes => {
                    return fail(format!("b{id} has {bytes} bytes, slot {name} reads {needed} in the largest step"));
                }
                Some(_) => {}
            }
        }
    }
    match written.iter().position(Option::is_none) {
        Some(id) => Err(broken(6, buffer_place(entry, id), "no step writes it")),
        None => Ok(()),
    }
}

// Invariant 8.
pub(super) fn barriers(schedule: &Schedule, entry: &Entry) -> Result<(), ScheduleError> {
    let touched: Vec<Vec<Touch>> = (0..entry.steps.len()).map(|step| touched(schedule, entry, step)).collect();
    for later in 0..entry.steps.len() {
        for earlier in (0..later).rev() {
            if entry.steps[earlier + 1].barrier {
                break;
            }
            let run_into = |a: &Touch, b: &Touch| (a.writes || b.writes) && a.pool == b.pool && meet(a.range, b.range);
            if touched[later].iter().any(|a| touched[earlier].iter().any(|b| run_into(a, b))) {
                let message =
                    format!("no barrier between it and step {earlier}, and one writes what the other touches");
                return Err(broken(8, step_place(schedule, entry, later), message));
            }
        }
    }
    Ok(())
}

/// Bytes that a step accesses, in the arena or in every slot or page.
struct Touch {
    pool: Option<Pool>,
    range: Range,
    writes: bool,
}

fn touched(schedule: &Schedule, entry: &Entry, index: usize) -> Vec<Touch> {
    let region = |pool: Pool, offset: u64| {
        let found = schedule.states.iter().find(|region| region.pool == pool && region.offset == offset);
        (Some(pool), offset, found.map_or(0, |region| region.bytes))
    };
    bound(schedule, &entry.steps[index])
        .filter_map(|(operand, arg)| {
            let access = operand.param.access()?;
            let (pool, offset, bytes) = match arg {
                Arg::Arena(offset) => {
                    let buffer = buffer_at(entry, index, offset, access)?;
                    (None, offset, entry.buffers[buffer].bytes)
                }
                Arg::State(offset) => region(Pool::Slots, offset),
                Arg::Kv(offset) => region(Pool::Pages, offset),
                _ => return None,
            };
            Some(Touch { pool, range: (offset, offset + bytes), writes: access != Access::Read })
        })
        .collect()
}
