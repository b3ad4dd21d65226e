//! Checks steps that pick tokens, and tensor maps.

use jamba_plan::format::{Arg, Entry, Pick, TensorMap};
use jambac_kernels::kernel::{Access, Elem, Operand, Param, Source};
use jambac_kernels::target;

use super::{broken, buffer_at, step_place};
use crate::{Schedule, ScheduleError};

// Invariant 9.
pub(super) fn picks(schedule: &Schedule, entry: &Entry) -> Result<(), ScheduleError> {
    let fail = |message: String| Err(broken(9, format!("{} picks", entry.kind.name()), message));
    let steps: Vec<_> = entry.steps.iter().enumerate().filter_map(|(index, step)| Some((index, step.pick?))).collect();
    let expected: Vec<(Pick, String)> = target::picks(schedule.kind, entry.logits.n as usize)
        .into_iter()
        .map(|(pick, launch, _)| (pick, launch.symbol))
        .collect();
    let Some(picks) = entry.picks else {
        return if expected.is_empty() && steps.is_empty() {
            Ok(())
        } else {
            fail(format!("none, and {} steps that pick, expected {expected:?}", steps.len()))
        };
    };
    let symbol = |index: usize| schedule.kernels[entry.steps[index].kernel as usize].symbol.clone();
    let found: Vec<(Pick, String)> = steps.iter().map(|&(index, pick)| (pick, symbol(index))).collect();
    if found != expected {
        return fail(format!("steps {found:?}, expected {expected:?}"));
    }
    for (index, pick) in steps {
        let tokens = picks.tokens(pick);
        let step = &entry.steps[index];
        let arg = |wanted: fn(&Operand) -> bool| {
            schedule.operands(step).iter().zip(&step.args).find(|(operand, _)| wanted(operand)).map(|(_, &arg)| arg)
        };
        let read = arg(|operand| matches!(operand.source, Source::Operand(_)));
        let written = arg(|operand| matches!(operand.source, Source::Result(_)));
        if (read, written) != (Some(Arg::Arena(entry.logits.offset)), Some(Arg::Arena(tokens))) {
            return fail(format!("from {read:?} to {written:?}, expected {} to {tokens}", entry.logits.offset));
        }
        let buffer = buffer_at(entry, index, tokens, Access::Write).map(|buffer| entry.buffers[buffer].bytes);
        let expected = entry.max_outputs * Elem::I32.bytes() as u64;
        if buffer != Some(expected) {
            return fail(format!("tokens in {buffer:?} bytes, expected {expected}"));
        }
    }
    Ok(())
}

// Invariant 11.
pub(super) fn maps(schedule: &Schedule) -> Result<(), ScheduleError> {
    for entry in &schedule.program.entries {
        for (index, step) in entry.steps.iter().enumerate() {
            for (operand, &arg) in schedule.operands(step).iter().zip(&step.args) {
                let Param::TensorMap { name, map } = &operand.param else { continue };
                let place = || step_place(schedule, entry, index);
                let fail = |message: String| Err(broken(11, place(), format!("slot {name}: {message}")));
                let Arg::TensorMap(at) = arg else { return fail(format!("{arg:?}, expected a map")) };
                let maps = &schedule.program.tensor_maps;
                let Some(found) = maps.get(at as usize) else {
                    return fail(format!("map {at}, expected one of {}", maps.len()));
                };
                let bytes = match found.base {
                    Arg::Weight(weight) => schedule.program.weights.get(weight as usize).map(|weight| weight.bytes),
                    Arg::Arena(offset) => {
                        buffer_at(entry, index, offset, Access::Read).map(|buffer| entry.buffers[buffer].bytes)
                    }
                    _ => None,
                };
                let Some(bytes) = bytes else { return fail(format!("{:?} is no matrix that lives now", found.base)) };
                let row_stride = (operand.param.row_elements() * map.elem.bytes()) as u64;
                let expected = TensorMap {
                    base: found.base,
                    elem: map.tensor_elem(),
                    rows: bytes / row_stride,
                    cols: map.cols as u64,
                    row_stride,
                    box_rows: map.box_rows as u32,
                    box_cols: map.box_cols as u32,
                    swizzle: map.swizzle,
                };
                if *found != expected {
                    return fail(format!("{found:?}, expected {expected:?}"));
                }
            }
        }
    }
    Ok(())
}
