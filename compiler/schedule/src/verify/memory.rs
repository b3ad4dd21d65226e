//! Checks placement: weights, states, buffers, logits, pools.

use jamba_plan::format::{
    Arg, Buffer, ElementOrder, Entry, EntryKind, Layout, PartOrder, Step, Transform, Weight, WeightFormat,
};
use jamba_plan::tables;
use jambac_kernels::cpu::integer::{FP8_GROUP, GROUP};
use jambac_kernels::kernel::{self, Access, Elem, Operand, Param, Source};
use jambac_kernels::target;

use super::{bound, broken, buffer_place, meet, step_place};
use crate::{Pool, Schedule, ScheduleError};

// Invariant 3.
pub(super) fn weights(schedule: &Schedule) -> Result<(), ScheduleError> {
    let align = schedule.kind.align_bytes();
    let mut end = 0;
    for (index, weight) in schedule.program.weights.iter().enumerate() {
        let place = || format!("weight {index} ({})", weight.name());
        if !weight.offset.is_multiple_of(align) || weight.offset < end {
            let message = format!("offset {}, expected a multiple of {align} from {end} on", weight.offset);
            return Err(broken(3, place(), message));
        }
        let bytes = stored_bytes(weight);
        if weight.bytes != bytes {
            return Err(broken(3, place(), format!("{} bytes, expected {bytes} by its layout", weight.bytes)));
        }
        check_parts(weight).map_err(|message| broken(3, place(), message))?;
        end = weight.offset + weight.bytes;
    }
    if end > schedule.memory.weights {
        let message = format!("they end at {end}, expected at most {}", schedule.memory.weights);
        return Err(broken(3, "weights".into(), message));
    }
    for entry in &schedule.program.entries {
        for (index, step) in entry.steps.iter().enumerate() {
            let fail = |message| broken(3, step_place(schedule, entry, index), message);
            let mut integers = None;
            for (operand, arg) in bound(schedule, step) {
                match (&operand.source, arg) {
                    (Source::Weight(stated), Arg::Weight(found)) => {
                        check_weight(schedule, operand, stated, found).map_err(fail)?;
                        integers = schedule.program.weights.get(found as usize);
                    }
                    (Source::Scales, Arg::Weight(found)) => check_scales(schedule, integers, found).map_err(fail)?,
                    (_, Arg::Weight(found)) => {
                        return Err(fail(format!("slot {} is weight {found}, and takes none", operand.name())));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// Stored size by layout and format: integers in panels pad their inputs to groups; rows have their stored length.
fn stored_bytes(weight: &Weight) -> u64 {
    let Layout { groups, n, k, lanes, order } = weight.layout;
    if let ElementOrder::Rows { stride, multiple } = order {
        return groups * n.div_ceil(multiple) * multiple * stride * weight.format.bits() / 8;
    }
    let rows = groups * n.div_ceil(lanes) * lanes;
    match weight.format {
        WeightFormat::F32 => rows * k * 4,
        WeightFormat::Bf16 | WeightFormat::F16 => rows * k * 2,
        WeightFormat::Int8 => rows * k.next_multiple_of(GROUP as u64),
        WeightFormat::Int4 => rows * k.next_multiple_of(GROUP as u64) / 2,
        WeightFormat::Int3 => rows * k.next_multiple_of(GROUP as u64) * 3 / 8,
        WeightFormat::Fp8 => rows * k,
    }
}

/// Checks that rows follow from the parts, and that interleaved parts have equal lengths.
fn check_parts(weight: &Weight) -> Result<(), String> {
    let multiple = weight.layout.multiple();
    let rows: u64 = match &weight.parts[..] {
        [part] => part.rows,
        parts => parts.iter().map(|part| part.rows.div_ceil(multiple) * multiple).sum(),
    };
    if weight.layout.n != rows || weight.parts.is_empty() {
        return Err(format!("{} rows, expected {rows} of {} parts", weight.layout.n, weight.parts.len()));
    }
    if weight.order == PartOrder::Interleaved && weight.parts.iter().any(|part| part.rows != weight.parts[0].rows) {
        let rows: Vec<u64> = weight.parts.iter().map(|part| part.rows).collect();
        return Err(format!("interleaved parts of {rows:?} rows, expected as many in each"));
    }
    Ok(())
}

/// Checks that the scales belong to the integers that the step reads: one per output, or one per 32 inputs of an output; of fp8, one per
/// 128, in rows one per output.
fn check_scales(schedule: &Schedule, integers: Option<&Weight>, index: u32) -> Result<(), String> {
    let (Some(integers), Some(scales)) = (integers, schedule.program.weights.get(index as usize)) else {
        return Err(format!("slot scales is weight {index} of {}, without integers", schedule.program.weights.len()));
    };
    let is_in_rows = matches!(integers.layout.order, ElementOrder::Rows { .. });
    let (k, format) = match integers.format {
        WeightFormat::Int8 => (1, WeightFormat::F32),
        WeightFormat::Fp8 if is_in_rows => (1, WeightFormat::F32),
        WeightFormat::Fp8 => (integers.layout.k.div_ceil(FP8_GROUP as u64), WeightFormat::F32),
        _ => (integers.layout.k.div_ceil(GROUP as u64), WeightFormat::Bf16),
    };
    let order = match integers.layout.order {
        ElementOrder::Rows { multiple, .. } => ElementOrder::Rows { stride: k, multiple },
        ElementOrder::Panels => ElementOrder::Panels,
    };
    let expected = (Layout { k, order, ..integers.layout }, format, Transform::Scale(integers.format));
    let found = (scales.layout, scales.format, scales.transform);
    if found != expected || (&scales.parts, scales.order) != (&integers.parts, integers.order) {
        return Err(format!(
            "weight {index} is {found:?} of {}, expected {expected:?} of {}",
            scales.name(),
            integers.name()
        ));
    }
    Ok(())
}

/// Checks that the weight has the layout, format and parts that the kernel declares.
fn check_weight(schedule: &Schedule, operand: &Operand, stated: &kernel::Weight, index: u32) -> Result<(), String> {
    let Some(weight) = schedule.program.weights.get(index as usize) else {
        return Err(format!("weight {index}, expected one of {}", schedule.program.weights.len()));
    };
    let name = operand.name();
    if operand.param.elem() != Some(Elem::from(weight.format)) {
        return Err(format!("slot {name} takes {:?}, weight {index} is {}", operand.param, weight.format.name()));
    }
    if weight.layout != stated.layout {
        return Err(format!("weight {index} is laid out as {:?}, expected {:?}", weight.layout, stated.layout));
    }
    let rows: Vec<u64> = weight.parts.iter().map(|part| part.rows).collect();
    if weight.order != stated.order || !rows.iter().copied().eq(stated.sizes.iter().map(|&n| n as u64)) {
        let (found, expected) = (weight.order, stated.order);
        return Err(format!("weight has parts of {rows:?} rows, {found:?}, expected {:?}, {expected:?}", stated.sizes));
    }
    if weight.transform != stated.transform {
        return Err(format!(
            "weight {index} is transformed by {:?}, slot {name} takes {:?}",
            weight.transform, stated.transform
        ));
    }
    Ok(())
}

// Invariant 4.
pub(super) fn states(schedule: &Schedule) -> Result<(), ScheduleError> {
    let align = schedule.kind.align_bytes();
    for (index, region) in schedule.states.iter().enumerate() {
        let place = || format!("state {}", region.name);
        let pool_bytes = match region.pool {
            Pool::Slots => schedule.memory.state_slot,
            Pool::Pages => schedule.memory.kv_page,
        };
        if !region.offset.is_multiple_of(align) || region.offset + region.bytes > pool_bytes {
            let message = format!(
                "{} bytes at {}, expected inside the {pool_bytes} bytes of its pool on a multiple of {align}",
                region.bytes, region.offset
            );
            return Err(broken(4, place(), message));
        }
        let range = (region.offset, region.offset + region.bytes);
        let over = schedule.states[..index]
            .iter()
            .find(|other| other.pool == region.pool && meet(range, (other.offset, other.offset + other.bytes)));
        if let Some(other) = over {
            return Err(broken(4, place(), format!("it shares bytes with state {}", other.name)));
        }
    }
    for entry in &schedule.program.entries {
        for (index, step) in entry.steps.iter().enumerate() {
            for (operand, arg) in bound(schedule, step) {
                check_state(schedule, step, operand, arg)
                    .map_err(|message| broken(4, step_place(schedule, entry, index), message))?;
            }
        }
    }
    Ok(())
}

/// Checks that states are regions of the size that the kernel declares, and that strides equal those of the pools.
fn check_state(schedule: &Schedule, step: &Step, operand: &Operand, arg: Arg) -> Result<(), String> {
    let name = operand.name();
    let elem_bytes = || {
        let is_state = |operand: &&Operand| matches!(operand.source, Source::State | Source::Pages(_));
        let state = schedule.operands(step).iter().find(is_state).and_then(|operand| operand.param.elem());
        state.map_or(1, |elem| elem.bytes() as u64)
    };
    let memory = &schedule.memory;
    let expected = match (&operand.source, arg) {
        (Source::State, Arg::State(offset)) | (Source::Pages(_), Arg::Kv(offset)) => {
            let pool = if operand.source == Source::State { Pool::Slots } else { Pool::Pages };
            let found = schedule.states.iter().find(|region| region.pool == pool && region.offset == offset);
            let bytes = operand.bytes(|_| 1).unwrap_or(u64::MAX);
            return match found {
                Some(region) if region.bytes == bytes && Some(region.elem) == operand.param.elem() => Ok(()),
                Some(region) => Err(format!("state {} has {} bytes, expected {bytes}", region.name, region.bytes)),
                None => Err(format!("no state is at {arg:?}")),
            };
        }
        (Source::State | Source::Pages(_), arg) => return Err(format!("slot {name} is {arg:?}, expected a state")),
        (Source::SlotStride, arg) => (arg, memory.state_slot / elem_bytes()),
        (Source::PageStride(_), arg) => (arg, memory.kv_page / elem_bytes()),
        (Source::PagesPerSequence, arg) => (arg, tables::pages_per_sequence(&schedule.limits)),
        _ => return Ok(()),
    };
    match expected {
        (Arg::Constant(found), constant) if found == constant => Ok(()),
        (found, constant) => Err(format!("slot {name} is {found:?}, expected {constant}")),
    }
}

// Invariant 5.
pub(super) fn buffers(schedule: &Schedule, entry: &Entry) -> Result<(), ScheduleError> {
    for (index, buffer) in entry.buffers.iter().enumerate() {
        let &Buffer { offset, bytes, first, last, .. } = buffer;
        let align = schedule.kind.align_bytes();
        if !offset.is_multiple_of(align) {
            let message = format!("offset {offset}, expected a multiple of {align}");
            return Err(broken(5, buffer_place(entry, index), message));
        }
        if bytes == 0 || offset + bytes > schedule.memory.arena {
            let message =
                format!("{bytes} bytes at {offset}, expected some inside the arena's {}", schedule.memory.arena);
            return Err(broken(5, buffer_place(entry, index), message));
        }
        if first > last || last as usize >= entry.steps.len() {
            let message = format!("live from step {first} to {last} of {}", entry.steps.len());
            return Err(broken(5, buffer_place(entry, index), message));
        }
        if index > 0 && first < entry.buffers[index - 1].first {
            let message = format!("written by step {first}, before b{}", index - 1);
            return Err(broken(5, buffer_place(entry, index), message));
        }
    }
    Ok(())
}

// Invariant 7.
pub(super) fn disjoint(schedule: &Schedule, entry: &Entry) -> Result<(), ScheduleError> {
    let range = |buffer: &Buffer| (buffer.offset, buffer.offset + buffer.bytes);
    for (index, later) in entry.buffers.iter().enumerate() {
        for (other, earlier) in entry.buffers[..index].iter().enumerate() {
            let together = earlier.first <= later.last && later.first <= earlier.last;
            if together && meet(range(earlier), range(later)) && !over(schedule, entry, earlier, later) {
                let message = format!("it shares bytes with b{other}, which is live at the same time");
                return Err(broken(7, buffer_place(entry, index), message));
            }
        }
    }
    Ok(())
}

/// Whether the step that writes `later` may overwrite `earlier`, of which it is the last reader.
fn over(schedule: &Schedule, entry: &Entry, earlier: &Buffer, later: &Buffer) -> bool {
    let same = (earlier.offset, earlier.bytes, earlier.last) == (later.offset, later.bytes, later.first);
    let rows = |wanted: Access| {
        bound(schedule, &entry.steps[later.first as usize]).find_map(move |(operand, arg)| match &operand.param {
            Param::Buffer { access, inner, .. } if *access == wanted && arg == Arg::Arena(later.offset) => Some(inner),
            _ => None,
        })
    };
    same && earlier.first < later.first
        && rows(Access::WriteOver).is_some()
        && rows(Access::Read) == rows(Access::WriteOver)
}

// Invariant 9.
pub(super) fn logits(entry: &Entry) -> Result<(), ScheduleError> {
    let logits = entry.logits;
    let place = || format!("{} logits", entry.kind.name());
    let end = logits.offset + entry.max_outputs * logits.row_stride;
    let inside = |buffer: &&Buffer| {
        buffer.last as usize + 1 == entry.steps.len()
            && buffer.offset == logits.offset
            && end <= buffer.offset + buffer.bytes
    };
    if !entry.buffers.iter().any(|buffer| inside(&buffer)) {
        let message = format!("no buffer that lives to the end holds bytes {} … {end}", logits.offset);
        return Err(broken(9, place(), message));
    }
    if logits.row_stride < logits.n * Elem::F32.bytes() as u64 {
        return Err(broken(9, place(), format!("rows of {} bytes for {} f32", logits.row_stride, logits.n)));
    }
    Ok(())
}

// Invariant 10.
pub(super) fn pools(schedule: &Schedule) -> Result<(), ScheduleError> {
    let entries = &schedule.program.entries;
    let found: Vec<(EntryKind, u64)> = entries.iter().map(|entry| (entry.kind, entry.max_sequences)).collect();
    let decode = target::decode_sizes(schedule.kind, schedule.limits.max_sequences);
    let sound = match &found[..] {
        [(EntryKind::Prefill, _), rest @ ..] => {
            rest.iter().copied().eq(decode.iter().map(|&sequences| (EntryKind::Decode, sequences)))
        }
        _ => false,
    };
    if !sound {
        let kinds: Vec<EntryKind> = found.into_iter().map(|(kind, _)| kind).collect();
        let message = format!("{kinds:?}, expected prefill, then decode of {decode:?} sequences");
        return Err(broken(10, "entries".into(), message));
    }
    let align = schedule.kind.align_bytes();
    let memory = &schedule.memory;
    let aligned = [
        ("arena", memory.arena),
        ("state_slot", memory.state_slot),
        ("kv_page", memory.kv_page),
        ("weights", memory.weights),
    ];
    for (name, bytes) in aligned {
        if !bytes.is_multiple_of(align) {
            return Err(broken(10, name.into(), format!("{bytes} bytes, expected a multiple of {align}")));
        }
    }
    let args = entries.iter().flat_map(|entry| &entry.steps).flat_map(|step| step.args.iter().copied());
    let tables = tables::region_bytes(schedule.kind, &schedule.limits, args);
    if memory.tables != tables {
        return Err(broken(10, "tables".into(), format!("{} bytes, expected {tables} by the limits", memory.tables)));
    }
    Ok(())
}
