//! What Hopper's kernels expect of weights, states, logits and tensor maps.

use jamba_plan::format::{Arg, Layout, PartOrder, TargetKind, TensorElem, TensorMap, WeightFormat};
use jambac_kernels::hopper::Kernel;
use jambac_kernels::kernel::{self, Access, Elem, Param};
use jambac_kernels::kv_append;

use super::memory::check_rows;
use super::{broken, buffer_at, step_place};
use crate::{EntrySchedule, PlannedWeight, Schedule, ScheduleError};

/// Rows that parts are padded to a multiple of, where several share a weight or an expert follows another.
const BLOCK: u64 = 64;

/// The layout of the weight behind a slot.
pub(super) fn layout(kernel: &Kernel, slot: &str, weight: &PlannedWeight) -> Result<Layout, String> {
    let bytes = match weight.format {
        WeightFormat::Int8 => 1,
        _ => 2,
    };
    // Rows in whole lines of 128 bytes.
    let matrix = |groups: usize, n: u64, k: usize, block: (u64, u64)| {
        let stride = (k as u64 * bytes).next_multiple_of(128) / bytes;
        Layout::in_rows(groups as u64, n, k as u64, stride, block)
    };
    let rows = |n: usize, k: usize| Layout::in_panels(1, n as u64, k as u64, 1);
    let gated = |n: usize| 2 * (n as u64).next_multiple_of(BLOCK / 2);
    let (apart, interleaved) = ((BLOCK, BLOCK), (8, BLOCK / 2));
    Ok(match (kernel, slot) {
        (Kernel::Linear(spec), "weight_map" | "weight") => matrix(1, spec.n as u64, spec.k, (1, 1)),
        (Kernel::Linear(spec), "bias") => rows(spec.n, 1),
        (Kernel::SplitLinear(spec), "weight_map" | "weight") => {
            check_rows(weight, &spec.sizes, PartOrder::Stacked)?;
            let n = spec.sizes.iter().map(|&n| (n as u64).next_multiple_of(BLOCK)).sum();
            matrix(1, n, spec.k, apart)
        }
        (Kernel::LinearSwiglu(spec), "weight_map" | "weight") => {
            check_rows(weight, &[spec.n, spec.n], PartOrder::Interleaved)?;
            matrix(1, gated(spec.n), spec.k, interleaved)
        }
        (Kernel::GroupedLinear(spec), "weight_map" | "weight") => matrix(spec.n_experts, spec.n as u64, spec.k, apart),
        (Kernel::GroupedSwiglu(spec), "weight_map" | "weight") => {
            check_rows(weight, &[spec.n, spec.n], PartOrder::Interleaved)?;
            matrix(spec.n_experts, gated(spec.n), spec.k, interleaved)
        }
        // Any number of rows: ids are below the vocabulary.
        (Kernel::Embed(spec), "table") => matrix(1, weight.layout.n, spec.d_model, (1, 1)),
        (Kernel::RmsNorm(spec), "weight") => rows(spec.cols, 1),
        (Kernel::SplitRmsNorm(spec), name) => {
            let part = spec.slots().iter().position(|&(weight, _)| weight == name);
            rows(part.map_or(0, |part| spec.parts[part].0), 1)
        }
        (Kernel::CausalConv1d(spec), "weight") => rows(spec.channels, spec.taps),
        (Kernel::CausalConv1d(spec), "bias") => rows(spec.channels, 1),
        (Kernel::SelectiveScan(spec), "a") => rows(spec.channels, spec.d_state),
        (Kernel::SelectiveScan(spec), "d") => rows(spec.channels, 1),
        (Kernel::Elementwise(spec), "b") => rows(spec.cols, 1),
        (_, name) => return Err(format!("slot {name} takes no weight")),
    })
}

/// Bytes of the state that a kernel has, and their element type.
pub(super) fn state(kernel: &Kernel) -> (usize, Elem) {
    let page = |n_kv_heads: usize, d_head: usize| (kv_append::hopper::page_bytes(n_kv_heads, d_head), Elem::Bf16);
    match kernel {
        Kernel::CausalConv1d(spec) => (spec.state_bytes(), Elem::F32),
        Kernel::SelectiveScan(spec) => (spec.state_bytes(), Elem::F32),
        Kernel::KvAppend(spec) => page(spec.n_kv_heads, spec.d_head),
        Kernel::AttentionPrefill(spec) => page(spec.n_kv_heads, spec.d_head),
        Kernel::AttentionDecode(spec) => page(spec.n_kv_heads, spec.d_head),
        _ => (0, Elem::F32),
    }
}

// 9.
pub(super) fn picks(kind: TargetKind, entry: &EntrySchedule) -> Result<(), ScheduleError> {
    let fail = |message: String| Err(broken(9, format!("{} picks", entry.kind.name()), message));
    let picks = match (kind, entry.picks) {
        (TargetKind::Cpu, None) => return Ok(()),
        (TargetKind::Sm90a, Some(picks)) => picks,
        (_, found) => return fail(format!("{found:?}, expected some of a GPU and none of a CPU")),
    };
    let n_steps = entry.steps.len();
    for (back, tokens) in [(2, picks.likeliest), (1, picks.drawn)] {
        let Some(step) = n_steps.checked_sub(back).map(|index| &entry.steps[index]) else {
            return fail(format!("{n_steps} steps, expected two at the end that pick"));
        };
        let vocab = match (&step.spec, back) {
            (kernel::Kernel::Sm90(Kernel::SampleArgmax(spec)), 2) => spec.vocab,
            (kernel::Kernel::Sm90(Kernel::SampleDraw(spec)), 1) => spec.vocab,
            (other, _) => return fail(format!("step {} is {}", n_steps - back, other.symbol())),
        };
        if vocab as u64 != entry.logits.n {
            return fail(format!("from {vocab} logits, expected {}", entry.logits.n));
        }
        let arg = |name: &str| {
            step.spec.params().iter().zip(&step.args).find(|(param, _)| param.name() == name).map(|(_, &arg)| arg)
        };
        let (read, written) = (arg("logits"), arg("tokens"));
        if (read, written) != (Some(Arg::Arena(entry.logits.offset)), Some(Arg::Arena(tokens))) {
            return fail(format!("from {read:?} to {written:?}, expected {} to {tokens}", entry.logits.offset));
        }
        let buffer = buffer_at(entry, n_steps - back, tokens, Access::Write).map(|buffer| entry.buffers[buffer].bytes);
        let expected = entry.max_outputs * Elem::I32.bytes() as u64;
        if buffer != Some(expected) {
            return fail(format!("tokens in {buffer:?} bytes, expected {expected}"));
        }
    }
    Ok(())
}

// 11.
pub(super) fn maps(schedule: &Schedule) -> Result<(), ScheduleError> {
    for entry in &schedule.entries {
        for (index, step) in entry.steps.iter().enumerate() {
            for (param, &arg) in step.spec.params().iter().zip(&step.args) {
                let Param::TensorMap { name, map } = param else { continue };
                let fail =
                    |message: String| Err(broken(11, step_place(entry, index), format!("slot {name}: {message}")));
                let Arg::TensorMap(at) = arg else { return fail(format!("{arg:?}, expected a map")) };
                let Some(found) = schedule.tensor_maps.get(at as usize) else {
                    return fail(format!("map {at}, expected one of {}", schedule.tensor_maps.len()));
                };
                let bytes = match found.base {
                    Arg::Weight(weight) => schedule.weights.get(weight as usize).map(|weight| weight.bytes),
                    Arg::Arena(offset) => {
                        buffer_at(entry, index, offset, Access::Read).map(|buffer| entry.buffers[buffer].bytes)
                    }
                    _ => None,
                };
                let Some(bytes) = bytes else { return fail(format!("{:?} is no matrix that lives now", found.base)) };
                let elem = if map.elem == Elem::I8 { TensorElem::I8 } else { TensorElem::Bf16 };
                let row_stride = (map.cols as u64 * elem.bytes()).next_multiple_of(128);
                let expected = TensorMap {
                    base: found.base,
                    elem,
                    rows: bytes / row_stride,
                    cols: map.cols as u64,
                    row_stride,
                    box_rows: map.box_rows as u32,
                    box_cols: map.box_cols as u32,
                    swizzle: found.swizzle,
                };
                if *found != expected {
                    return fail(format!("{found:?}, expected {expected:?}"));
                }
            }
        }
    }
    Ok(())
}
