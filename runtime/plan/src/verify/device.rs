//! Checks that apply to GPU programs only: launches, steps that pick tokens, tensor maps, and the tables that hold their
//! addresses. CPU programs must have none of these.

use super::Against;
use crate::PlanError;
use crate::format::{
    Arg, Blocks, Count, Entry, KV_PAGE_TOKENS, Launch, Pick, Picks, Rows, Swizzle, Table, TargetKind, TensorMap,
};
use crate::graphs;
use crate::tables::DeviceTables;

/// Maximum number of threads per block.
const MAX_THREADS: u32 = 1024;

/// Maximum shared memory per block on compute capability 9.0, in bytes.
const MAX_SHARED_BYTES: u32 = 232_448;

/// Maximum number of blocks along x, y and z.
const MAX_BLOCKS: [u64; 3] = [(1 << 31) - 1, 65_535, 65_535];

/// Upper bound of the number of multiprocessors.
const MOST_SMS: u32 = 1024;

/// Alignment in bytes of addresses and strides of tensor maps.
const MAP_ALIGN: u64 = 16;

/// Longest box row in bytes for the 128-byte swizzle.
const SWIZZLED_BYTES: u64 = 128;

/// 8. Checks launches, picks and tensor maps.
pub(super) fn device(against: Against<'_>) -> Result<(), PlanError> {
    let Against { limits, info, program, .. } = against;
    let is_gpu = info.kind != TargetKind::Cpu;
    for (at, entry) in program.entries.iter().enumerate() {
        for (index, step) in entry.steps.iter().enumerate() {
            let complain = |expected: String| {
                let field = format!("entries[{at}].steps[{index}].launch");
                Err(against.complain(field, format!("{:?}", step.launch), expected))
            };
            match &step.launch {
                None if is_gpu => return complain("a launch".to_owned()),
                Some(_) if !is_gpu => return complain("none: threads of a CPU walk the steps".to_owned()),
                Some(launch) => launch_fits(launch, most(entry)).or_else(complain)?,
                None => {}
            }
        }
        if let Some((index, step)) = entry.steps.iter().enumerate().find(|(_, step)| !rows_fit(step.rows)) {
            let field = format!("entries[{at}].steps[{index}].rows");
            return Err(against.complain(field, format!("{:?}", step.rows), "one or more for each token or output"));
        }
        let picking = entry.steps.iter().position(|step| step.pick.is_some());
        if let (None, Some(index)) = (&entry.picks, picking) {
            let field = format!("entries[{at}].steps[{index}].pick");
            return Err(against.complain(field, "a step that picks", "none: the entry says nowhere to leave tokens"));
        }
        if let Some(picks) = &entry.picks {
            let fit = if is_gpu { picks_fit(against, entry, picks) } else { Err("none: the host picks".to_owned()) };
            let complain = |expected| against.complain(format!("entries[{at}].picks"), format!("{picks:?}"), expected);
            fit.map_err(complain)?;
        }
    }
    if !is_gpu && !program.tensor_maps.is_empty() {
        return Err(against.complain("tensor_maps", program.tensor_maps.len(), "none on a CPU"));
    }
    for (index, map) in program.tensor_maps.iter().enumerate() {
        check_map(against, map)
            .map_err(|expected| against.complain(format!("tensor_maps[{index}]"), format!("{map:?}"), expected))?;
    }
    let tables = DeviceTables::of(limits, program).bytes;
    if is_gpu && info.memory.tables != tables {
        let field = format!("{}.memory.tables", info.kind.name());
        let expected = format!("{tables}, from the limits and the counts");
        return Err(PlanError::record("manifest", field, info.memory.tables, expected));
    }
    let graphs = graphs::total_bytes(&program.entries);
    if is_gpu && info.memory.graphs != graphs {
        let field = format!("{}.memory.graphs", info.kind.name());
        return Err(PlanError::record("manifest", field, info.memory.graphs, format!("{graphs}, from the entries")));
    }
    Ok(())
}

/// Whether the rows of a step count tokens or outputs, with at least one row for each.
fn rows_fit(rows: Rows) -> bool {
    rows.count != Count::Sequences && rows.per > 0
}

/// Checks the steps that pick tokens. The error is the expected property.
fn picks_fit(against: Against<'_>, entry: &Entry, picks: &Picks) -> Result<(), String> {
    const I32_BYTES: u64 = 4;
    const F32_BYTES: u64 = 4;
    let (logits, arena) = (entry.logits, against.info.memory.arena);
    let only = |pick: Pick| {
        let mut steps = entry.steps.iter().filter(|step| step.pick == Some(pick));
        steps.next().filter(|_| steps.next().is_none()).ok_or_else(|| format!("one step that picks {pick:?}"))
    };
    let (likeliest, drawn) = (only(Pick::Likeliest)?, only(Pick::Drawn)?);
    if !drawn.args.contains(&Arg::Table(Table::Settings)) {
        return Err("a step that reads the settings to draw".to_owned());
    }
    // Verified to be inside the arena.
    let end_of_logits = logits.offset + (entry.max_outputs - 1) * logits.row_stride + logits.n * F32_BYTES;
    for (step, tokens) in [(likeliest, picks.likeliest), (drawn, picks.drawn)] {
        let end = tokens.checked_add(entry.max_outputs * I32_BYTES).filter(|&end| end <= arena);
        let apart = end.is_some_and(|end| end <= logits.offset || end_of_logits <= tokens);
        if !apart || !tokens.is_multiple_of(I32_BYTES) {
            return Err(format!(
                "{} i32 of each step inside the {arena} bytes of arena, beside the logits",
                entry.max_outputs
            ));
        }
        if ![logits.offset, tokens].iter().all(|&at| step.args.contains(&Arg::Arena(at))) {
            return Err("the steps that pick to take the addresses of the logits and of the tokens".to_owned());
        }
    }
    Ok(())
}

/// The counts of an entry's largest step.
fn most(entry: &Entry) -> impl Fn(Count) -> u64 {
    |count| match count {
        Count::Tokens => entry.max_tokens,
        Count::Sequences => entry.max_sequences,
        Count::Outputs => entry.max_outputs,
    }
}

/// Checks a launch against the device's limits; `most` gives the counts of the largest step. The error is the expected
/// property.
pub(super) fn launch_fits(launch: &Launch, most: impl Fn(Count) -> u64) -> Result<(), String> {
    if launch.threads == 0 || launch.threads > MAX_THREADS || !launch.threads.is_multiple_of(32) {
        return Err(format!("threads in whole warps, at most {MAX_THREADS}"));
    }
    if launch.shared_bytes > MAX_SHARED_BYTES {
        return Err(format!("at most {MAX_SHARED_BYTES} bytes of shared memory"));
    }
    let sound = |axis: &Blocks| match *axis {
        Blocks::Fixed(n) | Blocks::PerSm(n) => n > 0,
        Blocks::Of { factor, per_block, .. } => factor > 0 && per_block > 0,
    };
    let fits = launch.grid.iter().all(sound)
        && launch.blocks(MOST_SMS, most).iter().zip(MAX_BLOCKS).all(|(&found, most)| found <= most);
    if fits { Ok(()) } else { Err(format!("1 … {MAX_BLOCKS:?} blocks along x, y and z in the largest step")) }
}

/// Checks that a map can be encoded and stays inside its region. The error is the expected property.
fn check_map(against: Against<'_>, map: &TensorMap) -> Result<(), String> {
    let memory = &against.info.memory;
    let (begin, end, what) = match map.base {
        Arg::Arena(offset) => (offset, memory.arena, "the arena"),
        Arg::Kv(offset) => {
            (offset, memory.kv_page.saturating_mul(against.limits.kv_tokens / KV_PAGE_TOKENS), "the KV pool")
        }
        Arg::Weight(index) => match against.program.weights.get(index as usize) {
            Some(weight) => (weight.offset, weight.offset + weight.bytes, "the weight"),
            None => return Err(format!("a weight below {}", against.program.weights.len())),
        },
        _ => return Err("a base in the arena, the KV pool or a weight".to_owned()),
    };
    let elem = map.elem.bytes();
    let row_bytes = map.cols.saturating_mul(elem);
    if map.rows == 0 || map.cols == 0 || map.rows > u64::from(u32::MAX) || map.cols > u64::from(u32::MAX) {
        return Err("1 … 2^32 − 1 rows and columns".to_owned());
    }
    if !begin.is_multiple_of(MAP_ALIGN) || !map.row_stride.is_multiple_of(MAP_ALIGN) || map.row_stride < row_bytes {
        return Err(format!("a base and rows on multiples of {MAP_ALIGN} bytes, apart"));
    }
    let last =
        (map.rows - 1).checked_mul(map.row_stride).and_then(|last| last.checked_add(begin)?.checked_add(row_bytes));
    if last.is_none_or(|last| last > end) {
        return Err(format!("rows inside {what}, which ends at {end}"));
    }
    let box_bytes = u64::from(map.box_cols) * elem;
    let sides = [map.box_rows, map.box_cols].iter().all(|side| (1..=256).contains(side));
    if !sides || !box_bytes.is_multiple_of(MAP_ALIGN) {
        return Err(format!("a box of 1 … 256 rows and columns, its rows a multiple of {MAP_ALIGN} bytes"));
    }
    if map.swizzle == Swizzle::B128 && box_bytes > SWIZZLED_BYTES {
        return Err(format!("rows of a swizzled box of at most {SWIZZLED_BYTES} bytes"));
    }
    Ok(())
}
