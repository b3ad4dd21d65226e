//! Checks every offset, count and index of a plan once. A plan that passes is executed without further checks.
//!
//! 1. sections: one manifest; a program for each kind of target; weights unless they are synthetic; code for exactly the
//!    manifest's targets
//! 2. manifest: limits are counts that fit step tables (i32); each kind of target occurs once, with targets of that kind;
//!    memory sizes follow from the limits
//! 3. kernels: symbols are distinct C names
//! 4. weights: in order, disjoint, aligned, inside the weights' bytes; the length follows from layout and format, the rows from
//!    the parts; integers directly follow their scales
//! 5. entries: prefill, then decode (on a GPU several, in increasing order of size), within the limits; logits inside the arena
//! 6. steps: kernel index; finite costs; every argument has the kind, the extent and the value that the kernel's operand states,
//!    every value that is read was written, nothing is overwritten too early, and barriers are where they must be (`steps`)
//! 7. buffers: the values that the steps write, with their live ranges
//! 8. GPU launches, tensor maps and steps that pick tokens: within the device's limits, inside their regions (`device`)
//! 9. kernels that draw weights: only for synthetic weights on a GPU, and then one for every weight (`drawing`)

mod device;
mod drawing;
mod steps;

use std::collections::BTreeSet;

use crate::PlanError;
use crate::format::{
    Entry, EntryKind, Init, KV_PAGE_TOKENS, Layout, Limits, Manifest, Memory, Model, PartOrder, Program, ProgramInfo,
    TargetKind, Transform, Weight,
};
use crate::sections::{CUBIN, Section, SectionKind, TABLE};
use crate::tables;

/// Step tables contain i32: upper bound of counts, ids and rows.
const MAX_COUNT: u64 = i32::MAX as u64;

/// Maximum number of arguments of a kernel.
const MAX_ARGS: usize = 64;

/// 1. Compares the sections with the manifest.
pub fn sections(manifest: &Manifest, sections: &[Section]) -> Result<(), PlanError> {
    for kind in TargetKind::ALL {
        let (program, weights) = (kind.section(SectionKind::Program.name()), kind.section(SectionKind::Weights.name()));
        let section = |name: &str| sections.iter().find(|section| section.name == name);
        let Some(info) = manifest.of(kind) else {
            if let Some(section) = [&program, &weights].into_iter().find_map(|name| section(name)) {
                let expected = format!("none: the manifest has no program of kind {}", kind.name());
                return Err(PlanError::record(TABLE, section.name.clone(), "a section", expected));
            }
            continue;
        };
        if section(&program).is_none() {
            return Err(PlanError::MissingSection { section: program });
        }
        match (section(&weights), manifest.synthetic_seed) {
            (None, None) if info.memory.weights > 0 => return Err(PlanError::MissingSection { section: weights }),
            (Some(section), Some(_)) => {
                let found = format!("a weights section of {} bytes", section.bytes);
                return Err(PlanError::record(TABLE, weights, found, "none: the plan has synthetic weights"));
            }
            (Some(section), None) if section.bytes != info.memory.weights => {
                let field = format!("{}.memory.weights", kind.name());
                let expected = format!("{}, the weights section's length", section.bytes);
                return Err(PlanError::record("manifest", field, info.memory.weights, expected));
            }
            _ => {}
        }
    }
    code(manifest, sections)
}

/// Checks that the plan has code for exactly the manifest's targets.
fn code(manifest: &Manifest, sections: &[Section]) -> Result<(), PlanError> {
    let mut with_code: BTreeSet<&str> =
        sections.iter().filter_map(|section| section.name.strip_prefix("code/")).collect();
    for target in manifest.targets() {
        if !with_code.remove(target) {
            return Err(PlanError::MissingSection { section: format!("code/{target}") });
        }
        if TargetKind::of_target(target) != TargetKind::Cpu {
            with_code.remove(format!("{target}{CUBIN}").as_str());
        }
    }
    match with_code.first() {
        None => Ok(()),
        Some(target) => {
            let found: Vec<&str> = manifest.targets().collect();
            Err(PlanError::record("manifest", "targets", format!("{found:?}"), format!("{target:?} too")))
        }
    }
}

/// 2. Checks limits and memory.
pub fn manifest(manifest: &Manifest) -> Result<(), PlanError> {
    let complain =
        |field: &str, found: u64, expected: String| Err(PlanError::record("manifest", field, found, expected));
    let limits = &manifest.limits;
    let counts = [
        ("model.n_layers", manifest.model.n_layers),
        ("model.d_model", manifest.model.d_model),
        ("model.vocab", manifest.model.vocab),
        ("limits.max_context", limits.max_context),
        ("limits.max_sequences", limits.max_sequences),
        ("limits.prefill_chunk", limits.prefill_chunk),
        ("limits.max_outputs", limits.max_outputs),
    ];
    for (field, found) in counts {
        if found == 0 || found > MAX_COUNT {
            return complain(field, found, format!("1 … {MAX_COUNT}"));
        }
    }
    if limits.kv_tokens > MAX_COUNT || !limits.kv_tokens.is_multiple_of(KV_PAGE_TOKENS) {
        return complain(
            "limits.kv_tokens",
            limits.kv_tokens,
            format!("a multiple of {KV_PAGE_TOKENS} up to {MAX_COUNT}"),
        );
    }
    if !(1..=MAX_COUNT).contains(&manifest.model.n_outputs()) {
        return complain("model.head", manifest.model.n_outputs(), format!("1 … {MAX_COUNT} labels"));
    }
    if let Some(bos) = manifest.model.bos.filter(|&bos| u64::from(bos) >= manifest.model.vocab) {
        return complain("model.bos", bos.into(), format!("a token below {}", manifest.model.vocab));
    }

    if manifest.programs.is_empty() {
        return Err(PlanError::record("manifest", "programs", "none", "at least one"));
    }
    for (index, info) in manifest.programs.iter().enumerate() {
        if manifest.programs[..index].iter().any(|other| other.kind >= info.kind) {
            return complain_of_programs(manifest);
        }
        targets(info)?;
        memory(limits, info)?;
    }
    Ok(())
}

fn complain_of_programs(manifest: &Manifest) -> Result<(), PlanError> {
    let kinds: Vec<&str> = manifest.programs.iter().map(|info| info.kind.name()).collect();
    Err(PlanError::record("manifest", "programs", format!("{kinds:?}"), "each kind once, CPU before GPU"))
}

fn targets(info: &ProgramInfo) -> Result<(), PlanError> {
    let distinct: BTreeSet<&String> = info.targets.iter().collect();
    let fit = info.targets.iter().all(|target| TargetKind::of_target(target) == info.kind);
    if info.targets.is_empty() || distinct.len() != info.targets.len() || !fit {
        let (field, found) = (format!("{}.targets", info.kind.name()), format!("{:?}", info.targets));
        return Err(PlanError::record("manifest", field, found, "at least one of this kind, each once"));
    }
    Ok(())
}

/// Checks the memory of one kind of target.
fn memory(limits: &Limits, info: &ProgramInfo) -> Result<(), PlanError> {
    let (memory, kind) = (&info.memory, info.kind.name());
    let complain = |field: &str, found: u64, expected: String| {
        Err(PlanError::record("manifest", format!("{kind}.{field}"), found, expected))
    };
    let align = info.kind.align_bytes();
    let aligned =
        [("memory.arena", memory.arena), ("memory.state_slot", memory.state_slot), ("memory.kv_page", memory.kv_page)];
    for (field, found) in aligned {
        if !found.is_multiple_of(align) {
            return complain(field, found, format!("a multiple of {align}"));
        }
    }
    // The rest of a GPU's tables depends on the program and is checked with it.
    let tables = tables::table_bytes(limits);
    if memory.tables < tables || (info.kind == TargetKind::Cpu && memory.tables != tables) {
        return complain("memory.tables", memory.tables, format!("{tables}, from the limits"));
    }
    if info.kind == TargetKind::Cpu && memory.graphs != 0 {
        return complain("memory.graphs", memory.graphs, "0: a CPU records none".to_owned());
    }
    if memory.kv_page > 0 && limits.kv_tokens == 0 {
        return complain("limits.kv_tokens", 0, "tokens: the model has attention layers".to_owned());
    }
    if total(memory, limits).is_none() {
        let found = "more than an address space holds";
        let expected = format!("at most {} bytes", isize::MAX);
        return Err(PlanError::record("manifest", format!("{kind}.memory"), found, expected));
    }
    Ok(())
}

/// Total memory in bytes; `None` if it exceeds the address space.
fn total(memory: &Memory, limits: &Limits) -> Option<u64> {
    let state = memory.state_slot.checked_mul(limits.max_sequences)?;
    let kv = memory.kv_page.checked_mul(limits.kv_tokens / KV_PAGE_TOKENS)?;
    [kv, memory.arena, memory.weights, memory.tables, memory.graphs]
        .into_iter()
        .try_fold(state, u64::checked_add)
        .filter(|&total| total <= isize::MAX as u64)
}

/// The context of a program's checks.
#[derive(Clone, Copy)]
struct Against<'a> {
    model: &'a Model,
    limits: &'a Limits,
    info: &'a ProgramInfo,
    program: &'a Program,
    /// Name of the program's section.
    section: &'a str,
}

impl Against<'_> {
    /// Builds the error for an invalid record.
    fn complain(
        &self,
        field: impl Into<String>,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> PlanError {
        PlanError::record(self.section, field, found, expected)
    }
}

/// 3 … 9. Checks a program against the manifest.
pub fn program(manifest: &Manifest, info: &ProgramInfo, program: &Program) -> Result<(), PlanError> {
    let section = info.kind.section(SectionKind::Program.name());
    let against = Against { model: &manifest.model, limits: &manifest.limits, info, program, section: &section };
    kernels(against)?;
    weights(against)?;
    entries(against)?;
    for (index, found) in program.entries.iter().enumerate() {
        entry(against, found, &format!("entries[{index}]"))?;
    }
    device::device(against)?;
    steps::steps(against)?;
    drawing::drawing(against, manifest.synthetic_seed)
}

/// 5. Checks the kinds and the order of the entries.
fn entries(against: Against<'_>) -> Result<(), PlanError> {
    let entries = &against.program.entries;
    for kind in [EntryKind::Prefill, EntryKind::Decode] {
        let found = entries.iter().filter(|entry| entry.kind == kind).count();
        let several = kind == EntryKind::Decode && against.info.kind != TargetKind::Cpu;
        if found == 0 || (found > 1 && !several) {
            let expected = if several { "1 or more" } else { "1" };
            return Err(against.complain(format!("entries: {}", kind.name()), found, expected));
        }
    }
    let decode: Vec<u64> =
        entries.iter().filter(|entry| entry.kind == EntryKind::Decode).map(|entry| entry.max_tokens).collect();
    if !decode.is_sorted_by(|a, b| a < b) {
        return Err(against.complain("entries: decode", format!("{decode:?} tokens"), "the smaller first"));
    }
    Ok(())
}

fn kernels(against: Against<'_>) -> Result<(), PlanError> {
    let mut symbols = BTreeSet::new();
    for (index, kernel) in against.program.kernels.iter().enumerate() {
        let field = |what: &str| format!("kernels[{index}].{what}");
        if !is_c_name(&kernel.symbol) || !symbols.insert(&kernel.symbol) {
            let found = format!("{:?}", kernel.symbol);
            return Err(against.complain(field("symbol"), found, "a name that a linker takes, once"));
        }
        if kernel.operands.len() > MAX_ARGS {
            return Err(against.complain(field("operands"), kernel.operands.len(), format!("at most {MAX_ARGS}")));
        }
    }
    Ok(())
}

/// Whether a linker accepts the symbol as a C name.
fn is_c_name(symbol: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$');
    !symbol.is_empty() && symbol.bytes().all(fits)
}

fn weights(against: Against<'_>) -> Result<(), PlanError> {
    let Against { info, program, .. } = against;
    let align = info.kind.align_bytes();
    let mut end_of_last = 0;
    for (index, weight) in program.weights.iter().enumerate() {
        let complain = |what: &str, found: String, expected: String| {
            let name = weight.parts.first().map_or("", |part| &part.parameter);
            Err(against.complain(format!("weights[{index}].{what} ({name})"), found, expected))
        };
        if !weight.offset.is_multiple_of(align) || weight.offset < end_of_last {
            let expected = format!("a multiple of {align} from {end_of_last} on");
            return complain("offset", weight.offset.to_string(), expected);
        }
        let Some(bytes) = weight.layout.bytes(weight.format) else {
            return complain("layout", format!("{:?}", weight.layout), "sizes from 1 on that fit memory".to_owned());
        };
        if weight.bytes != bytes {
            return complain("bytes", weight.bytes.to_string(), format!("{bytes}, from layout and format"));
        }
        end_of_last = match weight.offset.checked_add(bytes) {
            Some(end) if end <= info.memory.weights => end,
            _ => {
                let found = format!("{bytes} bytes at {}", weight.offset);
                let expected = format!("an end inside the {} bytes of weights", info.memory.weights);
                return complain("bytes", found, expected);
            }
        };
        parts(weight).or_else(|(what, found, expected)| complain(&what, found, expected))?;
        let before = index.checked_sub(1).and_then(|before| program.weights.get(before));
        scales(weight, before, program.weights.get(index + 1))
            .or_else(|(what, found, expected)| complain(&what, found, expected))?;
    }
    Ok(())
}

/// Checks that integers follow their scales and scales precede their integers.
fn scales(weight: &Weight, before: Option<&Weight>, behind: Option<&Weight>) -> Result<(), (String, String, String)> {
    let describe = |weight: Option<&Weight>| {
        weight.map_or("none".to_owned(), |w| format!("{:?} {} {:?}", w.transform, w.format.name(), w.layout))
    };
    if let Some((layout, format)) = weight.layout.scales(weight.format) {
        let transform = Transform::Scale(weight.format);
        let fits = before.is_some_and(|scales| {
            (scales.transform, scales.format, scales.layout) == (transform, format, layout)
                && (&scales.parts, scales.order) == (&weight.parts, weight.order)
        });
        if !fits {
            let expected = format!("{transform:?} {} {layout:?} of the same parts right before it", format.name());
            return Err(("scales".to_owned(), describe(before), expected));
        }
        if weight.transform != Transform::None {
            return Err((
                "transform".to_owned(),
                format!("{:?}", weight.transform),
                "none: it is of integers".to_owned(),
            ));
        }
    }
    match weight.transform {
        Transform::Scale(of) if of.scales().is_none() || behind.is_none_or(|integers| integers.format != of) => Err((
            "transform".to_owned(),
            describe(behind),
            format!("integers of {} right behind their scales", of.name()),
        )),
        _ => Ok(()),
    }
}

/// Checks the parts of a weight against its layout. The error is the field, the value found and the value expected.
fn parts(weight: &Weight) -> Result<(), (String, String, String)> {
    let layout = weight.layout;
    for (index, part) in weight.parts.iter().enumerate() {
        let field = |what: &str| format!("parts[{index}].{what}");
        // The last element's number, in the parameter of all groups.
        let rows = part.rows.checked_next_multiple_of(layout.multiple());
        let end = rows.and_then(|rows| part.first_row.checked_add(rows));
        let end = end.and_then(|end| end.checked_mul(layout.groups)?.checked_mul(layout.k));
        let fits = part.rows > 0 && end.is_some_and(|end| end <= isize::MAX as u64);
        let same = weight.order == PartOrder::Stacked || part.rows == weight.parts[0].rows;
        if !fits || !same {
            let found = format!("{} from row {}", part.rows, part.first_row);
            let expected = if fits {
                "as many as the first part: they are interleaved"
            } else {
                "1 or more, of a parameter that memory holds"
            };
            return Err((field("rows"), found, expected.to_owned()));
        }
        if part.first_row > 0 && layout.groups > 1 {
            return Err((field("first_row"), part.first_row.to_string(), "0: experts are taken whole".to_owned()));
        }
        let drawable = match part.init {
            Init::Normal { mean, std } => mean.is_finite() && std.is_finite() && std >= 0.0,
            Init::Uniform { low, high } => low.is_finite() && high.is_finite() && low <= high,
        };
        if !drawable {
            return Err((field("init"), format!("{:?}", part.init), "finite numbers, no negative width".to_owned()));
        }
    }
    let rows = Layout::rows_of(weight.parts.iter().map(|part| part.rows), layout.multiple());
    if weight.parts.is_empty() || rows != Some(layout.n) {
        let found = format!("{} rows in {} parts", layout.n, weight.parts.len());
        let expected = rows.map_or("a number".to_owned(), |rows| format!("{rows}, from the parts"));
        return Err(("layout".to_owned(), found, expected));
    }
    Ok(())
}

fn entry(against: Against<'_>, entry: &Entry, at: &str) -> Result<(), PlanError> {
    let Against { limits, info, .. } = against;
    let complain =
        |what: &str, found: u64, expected: String| Err(against.complain(format!("{at}.{what}"), found, expected));
    let counts = [
        ("max_tokens", entry.max_tokens, tables::max_tokens(limits)),
        ("max_sequences", entry.max_sequences, limits.max_sequences),
        ("max_outputs", entry.max_outputs, limits.max_outputs),
    ];
    for (what, found, most) in counts {
        if found == 0 || found > most {
            return complain(what, found, format!("1 … {most}, from the limits"));
        }
    }

    const F32_BYTES: u64 = 4;
    let (logits, align, arena) = (&entry.logits, info.kind.align_bytes(), info.memory.arena);
    let n_outputs = against.model.n_outputs();
    if logits.n != n_outputs {
        return complain("logits.n", logits.n, format!("{n_outputs}, from the model"));
    }
    if !logits.offset.is_multiple_of(align) {
        return complain("logits.offset", logits.offset, format!("a multiple of {align}"));
    }
    if logits.row_stride < logits.n * F32_BYTES || !logits.row_stride.is_multiple_of(F32_BYTES) {
        return complain("logits.row_stride", logits.row_stride, format!("rows of {} f32", logits.n));
    }
    let end = (entry.max_outputs - 1)
        .checked_mul(logits.row_stride)
        .and_then(|last| last.checked_add(logits.offset)?.checked_add(logits.n * F32_BYTES));
    if end.is_none_or(|end| end > arena) {
        let expected = format!("{} rows inside the arena of {arena} bytes", entry.max_outputs);
        return complain("logits.offset", logits.offset, expected);
    }
    Ok(())
}

impl EntryKind {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            EntryKind::Prefill => "prefill",
            EntryKind::Decode => "decode",
        }
    }
}

#[cfg(test)]
mod tests;
