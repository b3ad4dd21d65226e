//! The schedule as tables: limits, kernels, weights, states, and the steps and memory plan of each entry.
//!
//! A step with `|` before its kernel waits for all threads. Arguments are `slot=value`: `b3` is a buffer, `w3` a weight, states
//! and step tables appear by name, `tokens*2` is twice the number of tokens. In the memory plan, `b7=b4` means that b7
//! overwrites b4. The format is for people and tests and has no parser.

use std::fmt::Write;

use jamba_plan::format::{Arg, Count, Entry, Transform};
use jambac_kernels::kernel::{Access, Operand};

use crate::verify::buffer_at;
use crate::{Pool, Schedule};

/// The complete listing.
pub fn print(schedule: &Schedule) -> String {
    let limits = &schedule.limits;
    let mut text = format!(
        "limits: {} tokens of context, {} sequences, {} tokens of keys and values, {} tokens a step, {} outputs\n",
        limits.max_context, limits.max_sequences, limits.kv_tokens, limits.prefill_chunk, limits.max_outputs
    );
    text += &format!("\nkernels: {}\n", schedule.kernels.len());
    text +=
        &table(schedule.kernels.iter().enumerate().map(|(index, kernel)| [format!("k{index}"), kernel.symbol.clone()]));
    text += "\n";
    text += &weights(schedule);
    text += "\n";
    text += &states(schedule);
    for entry in &schedule.program.entries {
        text += "\n";
        text += &steps(schedule, entry);
        text += "\n";
        text += &memory(schedule, entry);
    }
    text
}

/// The packed weights with their offsets.
pub fn weights(schedule: &Schedule) -> String {
    let rows = schedule.program.weights.iter().enumerate().map(|(index, weight)| {
        let layout = weight.layout;
        [
            format!("w{index}"),
            weight.offset.to_string(),
            weight.bytes.to_string(),
            weight.format.name().to_string(),
            format!("{}x{}x{}/{}", layout.groups, layout.n, layout.k, layout.lanes),
            match weight.transform {
                Transform::None => weight.name(),
                Transform::DecayRate => format!("decay rates of {}", weight.name()),
                Transform::Scale(format) => format!("{} scales of {}", format.name(), weight.name()),
            },
        ]
    });
    let header = ["weight", "offset", "bytes", "format", "groups x n x k / lanes", "parameter"].map(str::to_string);
    format!("weights: {} bytes\n{}", schedule.memory.weights, table([header].into_iter().chain(rows)))
}

/// The states of a sequence.
pub fn states(schedule: &Schedule) -> String {
    let rows = schedule.states.iter().map(|state| {
        let pool = match state.pool {
            Pool::Slots => "slot",
            Pool::Pages => "page",
        };
        let elem = state.elem.name().to_string();
        [pool.to_string(), state.offset.to_string(), state.bytes.to_string(), elem, state.name.clone()]
    });
    let header = ["in", "offset", "bytes", "type", "state"].map(str::to_string);
    let memory = &schedule.memory;
    let sizes = format!("states: {} bytes a slot, {} bytes a page\n", memory.state_slot, memory.kv_page);
    sizes + &table([header].into_iter().chain(rows))
}

/// The steps of an entry.
pub fn steps(schedule: &Schedule, entry: &Entry) -> String {
    let rows = entry.steps.iter().enumerate().map(|(index, step)| {
        let kernel =
            format!("{}{}", if step.barrier { "| " } else { "  " }, schedule.kernels[step.kernel as usize].symbol);
        let arguments: Vec<String> = (schedule.operands(step).iter().zip(&step.args))
            .map(|(operand, &arg)| format!("{}={}", operand.name(), value(schedule, entry, index, operand, arg)))
            .collect();
        [index.to_string(), kernel, step.source.clone(), arguments.join(" ")]
    });
    let n_barriers = entry.steps.iter().filter(|step| step.barrier).count();
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{}: {} steps, {n_barriers} barriers; at most {} tokens, {} sequences, {} outputs",
        entry.kind.name(),
        entry.steps.len(),
        entry.max_tokens,
        entry.max_sequences,
        entry.max_outputs
    );
    let header = ["step", "  kernel", "source", "arguments"].map(str::to_string);
    text + &table([header].into_iter().chain(rows))
}

/// The memory plan of an entry.
pub fn memory(schedule: &Schedule, entry: &Entry) -> String {
    let (arena, peak) = (Schedule::arena_bytes(entry), Schedule::peak_live_bytes(entry));
    let rows = entry.buffers.iter().enumerate().map(|(index, buffer)| {
        let name = match buffer.in_place_of {
            Some(operand) => format!("b{index}=b{operand}"),
            None => format!("b{index}"),
        };
        [
            name,
            buffer.offset.to_string(),
            buffer.bytes.to_string(),
            elem(schedule, entry, index).to_string(),
            format!("{}..{}", buffer.first, buffer.last),
            format!("{} of {}", buffer.holds, entry.steps[buffer.first as usize].source),
        ]
    });
    let header = ["buffer", "offset", "bytes", "type", "steps", "holds"].map(str::to_string);
    let kind = entry.kind.name();
    let head = format!("memory of {kind}: {arena} bytes, {peak} live at the peak\n");
    head + &table([header].into_iter().chain(rows))
}

/// The element type with which a buffer's first step writes it.
fn elem(schedule: &Schedule, entry: &Entry, buffer: usize) -> &'static str {
    let (first, offset) = (entry.buffers[buffer].first as usize, entry.buffers[buffer].offset);
    let step = &entry.steps[first];
    let writes = |(operand, arg): &(&Operand, &Arg)| {
        **arg == Arg::Arena(offset) && operand.param.access().is_some_and(|access| access != Access::Read)
    };
    let found = schedule.operands(step).iter().zip(&step.args).find(writes);
    found.and_then(|(operand, _)| operand.param.elem()).map_or("?", |elem| elem.name())
}

fn value(schedule: &Schedule, entry: &Entry, step: usize, operand: &Operand, arg: Arg) -> String {
    let state = |pool: Pool, offset: u64| {
        let found = schedule.states.iter().find(|state| state.pool == pool && state.offset == offset);
        found.map_or_else(|| format!("{pool:?}+{offset}"), |state| state.name.clone())
    };
    match arg {
        Arg::Arena(offset) => {
            let buffer = operand.param.access().and_then(|access| buffer_at(entry, step, offset, access));
            buffer.map_or_else(|| format!("arena+{offset}"), |index| format!("b{index}"))
        }
        Arg::Weight(index) => format!("w{index}"),
        Arg::State(offset) => state(Pool::Slots, offset),
        Arg::Kv(offset) => state(Pool::Pages, offset),
        Arg::Table(table) => table.name().to_string(),
        Arg::Count(count, factor) => {
            let count = match count {
                Count::Tokens => "tokens",
                Count::Sequences => "sequences",
                Count::Outputs => "outputs",
            };
            if factor == 1 { count.to_string() } else { format!("{count}*{factor}") }
        }
        Arg::Constant(constant) => constant.to_string(),
        // Listed by the name of its matrix.
        Arg::TensorMap(index) => schedule
            .program
            .tensor_maps
            .get(index as usize)
            .map_or_else(|| format!("m{index}"), |map| value(schedule, entry, step, operand, map.base)),
    }
}

/// Formats rows of cells as lines, all columns left-aligned.
fn table<const N: usize>(rows: impl IntoIterator<Item = [String; N]>) -> String {
    jamba_plan::text::table(rows, |_| true)
}
