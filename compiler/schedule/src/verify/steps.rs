//! What steps do: kernels, arguments, the flow of data through buffers, barriers.

use std::collections::BTreeSet;

use jamba_plan::format::{Arg, Count, TargetKind};
use jambac_kernels::kernel::{Access, Elem, Param};

use super::{Range, bound, broken, buffer_at, buffer_place, meet, most, rows_of, step_place};
use crate::{EntrySchedule, Pool, Schedule, ScheduleError, Step};

// 1.
pub(super) fn kernels(schedule: &Schedule) -> Result<(), ScheduleError> {
    let mut symbols = BTreeSet::new();
    for (index, kernel) in schedule.kernels.iter().enumerate() {
        if !symbols.insert(kernel.symbol()) {
            return Err(broken(1, format!("kernel {index}"), format!("{} comes twice", kernel.symbol())));
        }
    }
    for entry in &schedule.entries {
        for (index, step) in entry.steps.iter().enumerate() {
            let code = schedule.kernels.get(step.kernel);
            let same =
                code.is_some_and(|code| code.symbol() == step.spec.symbol() && code.params() == step.spec.params());
            if !same {
                let found = code.map_or("absent".into(), |code| code.symbol());
                return Err(broken(1, step_place(entry, index), format!("kernel {} is {found}", step.kernel)));
            }
        }
    }
    Ok(())
}

// 2.
pub(super) fn arguments(schedule: &Schedule, entry: &EntrySchedule) -> Result<(), ScheduleError> {
    for (index, step) in entry.steps.iter().enumerate() {
        let params = step.spec.params();
        if params.len() != step.args.len() {
            let message = format!("{} arguments, expected {}", step.args.len(), params.len());
            return Err(broken(2, step_place(entry, index), message));
        }
        for (param, &arg) in params.iter().zip(&step.args) {
            if !fits(schedule, param, arg) {
                let message = format!("slot {} is {arg:?}, expected what {param:?} takes", param.name());
                return Err(broken(2, step_place(entry, index), message));
            }
        }
    }
    Ok(())
}

/// Whether a slot takes such an argument; 3, 4 and 6 look at what is behind addresses.
fn fits(schedule: &Schedule, param: &Param, arg: Arg) -> bool {
    match (param, arg) {
        (Param::Buffer { name, access: Access::Read, elem: Elem::I32, .. }, Arg::Table(table)) => table.name() == *name,
        (Param::Buffer { access, .. }, Arg::Arena(_)) => *access != Access::ReadWrite,
        (Param::Buffer { access: Access::Read, .. }, Arg::Weight(index)) => (index as usize) < schedule.weights.len(),
        (Param::Buffer { name, .. }, Arg::State(_)) => *name == "state",
        (Param::Buffer { name, .. }, Arg::Kv(_)) => *name == "cache",
        (Param::TensorMap { .. }, Arg::TensorMap(index)) => (index as usize) < schedule.tensor_maps.len(),
        (Param::Scalar { name } | Param::Count { name }, Arg::Count(count, factor)) => {
            let counted = match count {
                Count::Tokens => "tokens",
                Count::Sequences => "sequences",
                Count::Outputs => "outputs",
            };
            (*name == counted && factor == 1)
                || (matches!(*name, "rows" | "slot_rows") && count != Count::Sequences && factor > 0)
        }
        (Param::Scalar { .. }, Arg::Constant(_)) => true,
        _ => false,
    }
}

// 6.
pub(super) fn dataflow(schedule: &Schedule, entry: &EntrySchedule) -> Result<(), ScheduleError> {
    // Element type and row distance of each buffer, as its first step writes it.
    let mut written: Vec<Option<(Elem, Vec<usize>)>> = vec![None; entry.buffers.len()];
    for (index, step) in entry.steps.iter().enumerate() {
        for (param, arg) in bound(schedule, step) {
            let (Some(access), Some((elem, inner)), Arg::Arena(offset)) = (param.access(), rows_of(&param), arg) else {
                continue;
            };
            let fail = |message: String| Err(broken(6, step_place(entry, index), message));
            let Some(id) = buffer_at(entry, index, offset, access) else {
                let when = if access == Access::Read { "was written before" } else { "is written here" };
                return fail(format!("slot {}: no buffer at {offset} lives now and {when}", param.name()));
            };
            let buffer = &entry.buffers[id];
            if elem != buffer.elem {
                return fail(format!("slot {} is {}, b{id} is {}", param.name(), elem.name(), buffer.elem.name()));
            }
            let row_bytes = (inner.iter().product::<usize>() * elem.bytes()) as u64;
            if !buffer.bytes.is_multiple_of(row_bytes) {
                return fail(format!("b{id} has {} bytes, which rows of {row_bytes} do not divide", buffer.bytes));
            }
            match &written[id] {
                None if access == Access::Read => return fail(format!("b{id} is read before it is written")),
                None => {
                    let expected = |&rows: &u64| match schedule.kind {
                        TargetKind::Cpu => rows * row_bytes != buffer.bytes,
                        // Of slots and partial sums there are several for each row that is counted.
                        TargetKind::Sm90a => !buffer.bytes.is_multiple_of(rows * row_bytes),
                    };
                    if let Some(rows) = rows(schedule, entry, step).filter(|rows| !inner.is_empty() && expected(rows)) {
                        return fail(format!("b{id} has {} bytes, expected {rows} rows of {row_bytes}", buffer.bytes));
                    }
                    written[id] = Some((elem, inner));
                }
                Some((_, rows)) if !inner.is_empty() && !rows.is_empty() && *rows != inner => {
                    return fail(format!("b{id} is read by rows of {inner:?}, and was written by rows of {rows:?}"));
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

/// The most rows of a step that counts its rows itself.
fn rows(schedule: &Schedule, entry: &EntrySchedule, step: &Step) -> Option<u64> {
    bound(schedule, step).find_map(|(param, arg)| match (param.name(), arg) {
        ("rows" | "slot_rows" | "tokens" | "outputs", Arg::Count(count, factor)) => {
            Some(most(entry, count) * u64::from(factor))
        }
        _ => None,
    })
}

// 8.
pub(super) fn barriers(schedule: &Schedule, entry: &EntrySchedule) -> Result<(), ScheduleError> {
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
                return Err(broken(8, step_place(entry, later), message));
            }
        }
    }
    Ok(())
}

/// Bytes that a step touches, in the arena or in every slot or page.
struct Touch {
    pool: Option<Pool>,
    range: Range,
    writes: bool,
}

fn touched(schedule: &Schedule, entry: &EntrySchedule, index: usize) -> Vec<Touch> {
    let region = |pool: Pool, offset: u64| {
        let found = schedule.states.iter().find(|region| region.pool == pool && region.offset == offset);
        (Some(pool), offset, found.map_or(0, |region| region.bytes))
    };
    bound(schedule, &entry.steps[index])
        .filter_map(|(param, arg)| {
            let access = param.access()?;
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
