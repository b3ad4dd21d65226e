//! What lies where: weights, states, buffers, logits, pools.

use jamba_plan::format::{Arg, ElementOrder, EntryKind, Layout, PartOrder, TargetKind, Transform, WeightFormat};
use jamba_plan::tables;
use jambac_kernels::cpu::integer::GROUP;
use jambac_kernels::kernel::{Access, Elem, Kernel, LANES, Param, padded};
use jambac_kernels::kv_append::page_elements;
use jambac_kernels::selective_scan;

use super::{bound, broken, buffer_place, meet, sm90, step_place};
use crate::{Buffer, EntrySchedule, PlannedWeight, Pool, Schedule, ScheduleError, Step};

// 3.
pub(super) fn weights(schedule: &Schedule) -> Result<(), ScheduleError> {
    let align = schedule.kind.align_bytes();
    let mut end = 0;
    for (index, weight) in schedule.weights.iter().enumerate() {
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
    for entry in &schedule.entries {
        for (index, step) in entry.steps.iter().enumerate() {
            for (param, arg) in bound(schedule, step) {
                if let Arg::Weight(weight) = arg {
                    let checked = match param.name() {
                        "scales" => check_scales(schedule, step, weight),
                        _ => check_weight(schedule, &step.spec, &param, weight),
                    };
                    checked.map_err(|message| broken(3, step_place(entry, index), message))?;
                }
            }
        }
    }
    Ok(())
}

/// Bytes by layout and format: integers in panels pad their inputs to groups, rows are as long as they say.
fn stored_bytes(weight: &PlannedWeight) -> u64 {
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
    }
}

/// Rows follow from the parts; interleaved parts are as long as each other.
fn check_parts(weight: &PlannedWeight) -> Result<(), String> {
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

/// A kernel of several parts finds the rows that it expects, in its order.
pub(super) fn check_rows(weight: &PlannedWeight, expected: &[usize], order: PartOrder) -> Result<(), String> {
    let rows: Vec<u64> = weight.parts.iter().map(|part| part.rows).collect();
    if weight.order == order && rows.iter().copied().eq(expected.iter().map(|&n| n as u64)) {
        return Ok(());
    }
    Err(format!("weight has parts of {rows:?} rows, {:?}, expected {expected:?}, {order:?}", weight.order))
}

/// Scales are those of the integers that the step reads: one of each output, or of each 32 inputs of it.
fn check_scales(schedule: &Schedule, step: &Step, index: u32) -> Result<(), String> {
    let integers = bound(schedule, step).find_map(|(param, arg)| match arg {
        Arg::Weight(weight) if matches!(param.name(), "weight" | "weight_map") => schedule.weights.get(weight as usize),
        _ => None,
    });
    let (Some(integers), Some(scales)) = (integers, schedule.weights.get(index as usize)) else {
        return Err(format!("slot scales is weight {index} and slot weight none of {}", schedule.weights.len()));
    };
    let (k, format) = match integers.format {
        WeightFormat::Int8 => (1, WeightFormat::F32),
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

fn check_weight(schedule: &Schedule, kernel: &Kernel, param: &Param, index: u32) -> Result<(), String> {
    let Some(weight) = schedule.weights.get(index as usize) else {
        return Err(format!("weight {index}, expected one of {}", schedule.weights.len()));
    };
    let PlannedWeight { layout, format, transform, .. } = weight;
    if param.access() != Some(Access::Read) || param.elem() != Some(Elem::from(*format)) {
        return Err(format!("slot {} takes {param:?}, weight {index} is {}", param.name(), format.name()));
    }
    let matrix = |groups: usize, n: usize, k: usize| Layout::in_panels(groups as u64, n as u64, k as u64, LANES as u64);
    // Their parts' rows make n.
    let parts = |k: usize| Layout::in_panels(1, layout.n, k as u64, LANES as u64);
    let expected = match (kernel, param.name()) {
        (Kernel::Sm90(kernel), name) => sm90::layout(kernel, name, weight)?,
        (Kernel::Linear(spec), "weight") => matrix(1, spec.n, spec.k),
        (Kernel::SplitLinear(spec), "weight") => {
            check_rows(weight, &spec.sizes, PartOrder::Stacked)?;
            parts(spec.k)
        }
        (Kernel::LinearSwiglu(spec), "weight") => {
            check_rows(weight, &[spec.n, spec.n], PartOrder::Interleaved)?;
            parts(spec.k)
        }
        (Kernel::Linear(spec), "bias") => matrix(1, spec.n, 1),
        (Kernel::GroupedLinear(spec), "weight") => matrix(spec.n_experts, spec.n, spec.k),
        (Kernel::GroupedSwiglu(spec), "weight") => {
            check_rows(weight, &[spec.n, spec.n], PartOrder::Interleaved)?;
            matrix(spec.n_experts, 2 * padded(spec.n), spec.k)
        }
        (Kernel::GroupedCombine(spec), "weight") => matrix(spec.n_experts, spec.n, spec.k),
        (Kernel::RmsNorm(spec), "weight") => matrix(1, spec.cols, 1),
        (Kernel::Elementwise(spec), "b") => matrix(1, spec.cols, 1),
        (Kernel::CausalConv1d(spec), "weight") => matrix(1, spec.channels, spec.taps),
        (Kernel::CausalConv1d(spec), "bias") => matrix(1, spec.channels, 1),
        (Kernel::SelectiveScan(spec), "a") => matrix(1, spec.channels, spec.d_state),
        (Kernel::SelectiveScan(spec), "d" | "dt_bias") => matrix(1, spec.channels, 1),
        (Kernel::SelectiveScan(spec), "b_norm" | "c_norm") => matrix(1, spec.d_state, 1),
        (Kernel::SelectiveScan(spec), "dt_norm") => matrix(1, dt_rank(spec), 1),
        (Kernel::SelectiveScan(spec), "dt_weight") => matrix(1, spec.channels, dt_rank(spec)),
        (Kernel::SplitRmsNorm(spec), name) if spec.part_of(name).is_some() => {
            matrix(1, spec.part_of(name).map_or(0, |part| spec.parts[part]), 1)
        }
        // Any number of rows: ids are below the vocabulary.
        (Kernel::Embed(spec), "table") => Layout::in_panels(1, layout.n, spec.d_model as u64, spec.lanes as u64),
        (_, name) => return Err(format!("slot {name} takes no weight")),
    };
    if *layout != expected {
        return Err(format!("weight {index} lies as {layout:?}, expected {expected:?}"));
    }
    let is_rates = kernel.op() == "selective_scan" && param.name() == "a";
    if (*transform == Transform::DecayRate) != is_rates {
        return Err(format!("weight {index} is transformed by {transform:?}, which slot {} is not for", param.name()));
    }
    Ok(())
}

/// Inputs of a scan's projection; it has one where it has a weight for it.
fn dt_rank(spec: &selective_scan::Spec) -> usize {
    spec.selection.projection().map_or(0, |projection| projection.dt_rank)
}

// 4.
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
    for entry in &schedule.entries {
        for (index, step) in entry.steps.iter().enumerate() {
            for (param, arg) in bound(schedule, step) {
                check_state(schedule, &step.spec, &param, arg)
                    .map_err(|message| broken(4, step_place(entry, index), message))?;
            }
        }
    }
    Ok(())
}

fn check_state(schedule: &Schedule, kernel: &Kernel, param: &Param, arg: Arg) -> Result<(), String> {
    let (bytes, elem) = match kernel {
        Kernel::Sm90(kernel) => sm90::state(kernel),
        Kernel::CausalConv1d(spec) => (spec.state_bytes(), Elem::F32),
        Kernel::SelectiveScan(spec) => (spec.state_bytes(), Elem::F32),
        Kernel::KvAppend(spec) => (page_elements(spec.n_kv_heads, spec.d_head) * spec.format.bytes(), spec.format),
        Kernel::Attention(spec) => (page_elements(spec.n_kv_heads, spec.d_head) * spec.format.bytes(), spec.format),
        _ => (0, Elem::F32),
    };
    let memory = &schedule.memory;
    let expected = match (param.name(), arg) {
        ("state", Arg::State(offset)) | ("cache", Arg::Kv(offset)) => {
            let pool = if param.name() == "state" { Pool::Slots } else { Pool::Pages };
            let found = schedule.states.iter().find(|region| region.pool == pool && region.offset == offset);
            return match found {
                Some(region) if region.bytes == bytes as u64 && region.elem == elem => Ok(()),
                Some(region) => Err(format!("state {} has {} bytes, expected {bytes}", region.name, region.bytes)),
                None => Err(format!("no state is at {arg:?}")),
            };
        }
        ("slot_stride", arg) => (arg, memory.state_slot / elem.bytes() as u64),
        ("page_stride", arg) => (arg, memory.kv_page / elem.bytes() as u64),
        ("pages_per_sequence", arg) => (arg, tables::pages_per_sequence(&schedule.limits)),
        ("state" | "cache", arg) => return Err(format!("slot {} is {arg:?}, expected a state", param.name())),
        _ => return Ok(()),
    };
    match expected {
        (Arg::Constant(found), constant) if found == constant => Ok(()),
        (found, constant) => Err(format!("slot {} is {found:?}, expected {constant}", param.name())),
    }
}

// 5.
pub(super) fn buffers(schedule: &Schedule, entry: &EntrySchedule) -> Result<(), ScheduleError> {
    for (index, buffer) in entry.buffers.iter().enumerate() {
        let Buffer { offset, bytes, first, last, .. } = *buffer;
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
        if first > last || last >= entry.steps.len() {
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

// 7.
pub(super) fn apart(schedule: &Schedule, entry: &EntrySchedule) -> Result<(), ScheduleError> {
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

/// Whether the step that writes `later` may do so over `earlier`, which it is the last to read.
fn over(schedule: &Schedule, entry: &EntrySchedule, earlier: &Buffer, later: &Buffer) -> bool {
    let same = (earlier.offset, earlier.bytes, earlier.last) == (later.offset, later.bytes, later.first);
    let rows = |wanted: Access| {
        bound(schedule, &entry.steps[later.first]).find_map(move |(param, arg)| match param {
            Param::Buffer { access, inner, .. } if access == wanted && arg == Arg::Arena(later.offset) => Some(inner),
            _ => None,
        })
    };
    same && earlier.first < later.first
        && rows(Access::WriteOver).is_some()
        && rows(Access::Read) == rows(Access::WriteOver)
}

// 9.
pub(super) fn logits(entry: &EntrySchedule) -> Result<(), ScheduleError> {
    let logits = entry.logits;
    let place = || format!("{} logits", entry.kind.name());
    let end = logits.offset + entry.max_outputs * logits.row_stride;
    let inside = |buffer: &&Buffer| {
        buffer.last + 1 == entry.steps.len() && buffer.offset == logits.offset && end <= buffer.offset + buffer.bytes
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

// 10.
pub(super) fn pools(schedule: &Schedule) -> Result<(), ScheduleError> {
    let kinds: Vec<EntryKind> = schedule.entries.iter().map(|entry| entry.kind).collect();
    let several = schedule.kind == TargetKind::Sm90a;
    let sound = match &kinds[..] {
        [EntryKind::Prefill, EntryKind::Decode] => true,
        [EntryKind::Prefill, decode @ ..] if several && !decode.is_empty() => {
            decode.iter().all(|&kind| kind == EntryKind::Decode)
                && schedule.entries[1..].is_sorted_by(|a, b| a.max_tokens < b.max_tokens)
        }
        _ => false,
    };
    if !sound {
        return Err(broken(10, "entries".into(), format!("{kinds:?}, expected prefill and decode")));
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
    let tables = match schedule.kind {
        TargetKind::Cpu => tables::table_bytes(&schedule.limits),
        TargetKind::Sm90a => {
            let args = schedule.entries.iter().flat_map(|entry| &entry.steps).flat_map(|step| &step.args);
            tables::DeviceTables::new(&schedule.limits, args.copied(), schedule.tensor_maps.len() as u64).bytes
        }
    };
    if memory.tables != tables {
        return Err(broken(10, "tables".into(), format!("{} bytes, expected {tables} by the limits", memory.tables)));
    }
    Ok(())
}
