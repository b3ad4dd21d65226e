//! Every offset, count and index of a plan, checked once. A plan that passes is executed without another check.
//!
//! 1. sections: one manifest and program; weights unless they are synthetic; code for each target and no other
//! 2. manifest: limits are counts that step tables (i32) can hold; memory follows from them
//! 3. kernels: symbols are distinct C names
//! 4. weights: in order, apart, aligned, inside the weights' bytes; length follows from layout and format, rows from parts;
//!    integers come right behind their scales
//! 5. entries: prefill and decode, once each, within the limits; logits inside the arena
//! 6. steps: kernel index; number of arguments; each argument inside what it points into; costs that are numbers
//! 7. buffers: inside the arena and the steps

use std::collections::BTreeSet;

use crate::PlanError;
use crate::cost::Amount;
use crate::format::{
    ALIGN_BYTES, Arg, Entry, EntryKind, Init, KV_PAGE_TOKENS, Layout, Manifest, PartOrder, Program, Transform, Weight,
};
use crate::sections::{Section, SectionKind, TABLE};
use crate::tables;

/// Step tables hold i32: no count, id or row may be larger.
const MAX_COUNT: u64 = i32::MAX as u64;

/// Most argument slots of a kernel.
const MAX_ARGS: u32 = 1024;

/// Bytes of the smallest element that an address in the arena or a state may point to.
const ELEMENT_BYTES: u64 = 2;

/// 1. Which sections there are, against what the manifest says.
pub fn sections(manifest: &Manifest, sections: &[Section]) -> Result<(), PlanError> {
    let weights = sections.iter().find(|section| section.kind == SectionKind::Weights.code());
    match (weights, manifest.synthetic_seed) {
        (None, None) if manifest.memory.weights > 0 => {
            return Err(PlanError::MissingSection { section: SectionKind::Weights.name().to_owned() });
        }
        (Some(section), Some(_)) => {
            let found = format!("a weights section of {} bytes", section.bytes);
            return Err(PlanError::record(TABLE, "weights", found, "none: the plan has synthetic weights"));
        }
        (Some(section), None) if section.bytes != manifest.memory.weights => {
            let expected = format!("{}, the weights section's length", section.bytes);
            return Err(PlanError::record("manifest", "memory.weights", manifest.memory.weights, expected));
        }
        _ => {}
    }
    let mut with_code = BTreeSet::new();
    for target in sections.iter().filter_map(|section| section.name.strip_prefix("code/")) {
        with_code.insert(target);
    }
    for target in &manifest.targets {
        if !with_code.remove(target.as_str()) {
            return Err(PlanError::MissingSection { section: format!("code/{target}") });
        }
    }
    if let Some(target) = with_code.first() {
        return Err(PlanError::record(
            "manifest",
            "targets",
            format!("{:?}", manifest.targets),
            format!("{target:?} too"),
        ));
    }
    Ok(())
}

/// 2. Limits and memory.
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
    if let Some(bos) = manifest.model.bos.filter(|&bos| u64::from(bos) >= manifest.model.vocab) {
        return complain("model.bos", bos.into(), format!("a token below {}", manifest.model.vocab));
    }

    let memory = &manifest.memory;
    let aligned =
        [("memory.arena", memory.arena), ("memory.state_slot", memory.state_slot), ("memory.kv_page", memory.kv_page)];
    for (field, found) in aligned {
        if !found.is_multiple_of(ALIGN_BYTES) {
            return complain(field, found, format!("a multiple of {ALIGN_BYTES}"));
        }
    }
    if memory.tables != tables::table_bytes(limits) {
        return complain("memory.tables", memory.tables, format!("{}, from the limits", tables::table_bytes(limits)));
    }
    if memory.kv_page > 0 && limits.kv_tokens == 0 {
        return complain("limits.kv_tokens", 0, "tokens: the model has attention layers".to_owned());
    }
    let total = memory
        .state_slot
        .checked_mul(limits.max_sequences)
        .zip(memory.kv_page.checked_mul(limits.kv_tokens / KV_PAGE_TOKENS))
        .and_then(|(state, kv)| state.checked_add(kv)?.checked_add(memory.arena)?.checked_add(memory.weights))
        .and_then(|sum| sum.checked_add(memory.tables))
        .filter(|&total| total <= isize::MAX as u64);
    if total.is_none() {
        let found = "more than an address space holds";
        return Err(PlanError::record("manifest", "memory", found, format!("at most {} bytes", isize::MAX)));
    }

    if manifest.targets.is_empty() {
        return Err(PlanError::record("manifest", "targets", "none", "at least one"));
    }
    let distinct: BTreeSet<&String> = manifest.targets.iter().collect();
    if distinct.len() != manifest.targets.len() {
        return Err(PlanError::record("manifest", "targets", format!("{:?}", manifest.targets), "each once"));
    }
    Ok(())
}

/// 3 … 6. The program, against the manifest.
pub fn program(manifest: &Manifest, program: &Program) -> Result<(), PlanError> {
    kernels(program)?;
    weights(manifest, program)?;
    for kind in [EntryKind::Prefill, EntryKind::Decode] {
        let found = program.entries.iter().filter(|entry| entry.kind == kind).count();
        if found != 1 {
            return Err(PlanError::record("program", format!("entries: {}", kind.name()), found, "1"));
        }
    }
    for (index, found) in program.entries.iter().enumerate() {
        entry(manifest, program, found, &format!("entries[{index}]"))?;
    }
    Ok(())
}

fn kernels(program: &Program) -> Result<(), PlanError> {
    let mut symbols = BTreeSet::new();
    for (index, kernel) in program.kernels.iter().enumerate() {
        let field = |what: &str| format!("kernels[{index}].{what}");
        let c_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$');
        if kernel.symbol.is_empty() || !kernel.symbol.bytes().all(c_name) || !symbols.insert(&kernel.symbol) {
            let found = format!("{:?}", kernel.symbol);
            return Err(PlanError::record("program", field("symbol"), found, "a name that a linker takes, once"));
        }
        if kernel.n_args > MAX_ARGS {
            return Err(PlanError::record("program", field("n_args"), kernel.n_args, format!("at most {MAX_ARGS}")));
        }
    }
    Ok(())
}

fn weights(manifest: &Manifest, program: &Program) -> Result<(), PlanError> {
    let mut end_of_last = 0;
    for (index, weight) in program.weights.iter().enumerate() {
        let complain = |what: &str, found: String, expected: String| {
            let name = weight.parts.first().map_or("", |part| &part.parameter);
            Err(PlanError::record("program", format!("weights[{index}].{what} ({name})"), found, expected))
        };
        if !weight.offset.is_multiple_of(ALIGN_BYTES) || weight.offset < end_of_last {
            let expected = format!("a multiple of {ALIGN_BYTES} from {end_of_last} on");
            return complain("offset", weight.offset.to_string(), expected);
        }
        let Some(bytes) = weight.layout.bytes(weight.format) else {
            return complain("layout", format!("{:?}", weight.layout), "sizes from 1 on that fit memory".to_owned());
        };
        if weight.bytes != bytes {
            return complain("bytes", weight.bytes.to_string(), format!("{bytes}, from layout and format"));
        }
        end_of_last = match weight.offset.checked_add(bytes) {
            Some(end) if end <= manifest.memory.weights => end,
            _ => {
                let found = format!("{bytes} bytes at {}", weight.offset);
                let expected = format!("an end inside the {} bytes of weights", manifest.memory.weights);
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

/// Integers against the scales before them, and scales against the integers behind them.
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

/// The parts of a weight against its layout; else the field, what was found and what was expected.
fn parts(weight: &Weight) -> Result<(), (String, String, String)> {
    let layout = weight.layout;
    for (index, part) in weight.parts.iter().enumerate() {
        let field = |what: &str| format!("parts[{index}].{what}");
        let fits = part.rows > 0 && part.first_row.checked_add(part.rows).is_some();
        let same = weight.order == PartOrder::Stacked || part.rows == weight.parts[0].rows;
        if !fits || !same {
            let expected = if fits { "as many as the first part: they are interleaved" } else { "1 or more" };
            return Err((field("rows"), part.rows.to_string(), expected.to_owned()));
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
    let rows = Layout::rows_of(weight.parts.iter().map(|part| part.rows), layout.lanes);
    if weight.parts.is_empty() || rows != Some(layout.n) {
        let found = format!("{} rows in {} parts", layout.n, weight.parts.len());
        let expected = rows.map_or("a number".to_owned(), |rows| format!("{rows}, from the parts"));
        return Err(("layout".to_owned(), found, expected));
    }
    Ok(())
}

fn entry(manifest: &Manifest, program: &Program, entry: &Entry, at: &str) -> Result<(), PlanError> {
    let complain = |what: &str, found: u64, expected: String| {
        Err(PlanError::record("program", format!("{at}.{what}"), found, expected))
    };
    let limits = &manifest.limits;
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
    let logits = &entry.logits;
    if logits.n != manifest.model.vocab {
        return complain("logits.n", logits.n, format!("{}, the vocabulary", manifest.model.vocab));
    }
    if !logits.offset.is_multiple_of(ALIGN_BYTES) {
        return complain("logits.offset", logits.offset, format!("a multiple of {ALIGN_BYTES}"));
    }
    if logits.row_stride < logits.n * F32_BYTES || !logits.row_stride.is_multiple_of(F32_BYTES) {
        return complain("logits.row_stride", logits.row_stride, format!("rows of {} f32", logits.n));
    }
    let end = (entry.max_outputs - 1)
        .checked_mul(logits.row_stride)
        .and_then(|last| last.checked_add(logits.offset)?.checked_add(logits.n * F32_BYTES));
    if end.is_none_or(|end| end > manifest.memory.arena) {
        let expected = format!("{} rows inside the arena of {} bytes", entry.max_outputs, manifest.memory.arena);
        return complain("logits.offset", logits.offset, expected);
    }

    for (index, step) in entry.steps.iter().enumerate() {
        let step_at = || format!("{at}.steps[{index}]");
        let Some(kernel) = program.kernels.get(step.kernel as usize) else {
            let field = format!("{}.kernel", step_at());
            return Err(PlanError::record("program", field, step.kernel, format!("below {}", program.kernels.len())));
        };
        if step.args.len() != kernel.n_args as usize {
            let field = format!("{}.args", step_at());
            let expected = format!("{}, as {} takes", kernel.n_args, kernel.symbol);
            return Err(PlanError::record("program", field, step.args.len(), expected));
        }
        for (slot, &arg) in step.args.iter().enumerate() {
            argument(manifest, program, arg).map_err(|expected| {
                let field = format!("{}.args[{slot}]", step_at());
                PlanError::record("program", field, format!("{arg:?}"), expected)
            })?;
        }
        if ![step.cost.bytes, step.cost.operations].iter().all(Amount::is_sound) {
            let field = format!("{}.cost", step_at());
            return Err(PlanError::record(
                "program",
                field,
                format!("{:?}", step.cost),
                "finite coefficients from 0 on",
            ));
        }
    }
    buffers(manifest, entry, at)
}

/// 7. The memory map.
fn buffers(manifest: &Manifest, entry: &Entry, at: &str) -> Result<(), PlanError> {
    let (arena, n_steps) = (manifest.memory.arena, entry.steps.len() as u32);
    for (index, buffer) in entry.buffers.iter().enumerate() {
        let inside = buffer.offset.checked_add(buffer.bytes).is_some_and(|end| end <= arena);
        let lives = buffer.first <= buffer.last && buffer.last < n_steps;
        let overwrites = buffer.in_place_of.is_none_or(|other| (other as usize) < index);
        if !(inside && lives && overwrites) {
            let field = format!("{at}.buffers[{index}]");
            let expected = format!("a part of {arena} bytes of arena, in use from a step to a later one of {n_steps}");
            return Err(PlanError::record("program", field, format!("{buffer:?}"), expected));
        }
    }
    Ok(())
}

/// Says what was expected of an argument that makes no sense.
fn argument(manifest: &Manifest, program: &Program, arg: Arg) -> Result<(), String> {
    let inside = |offset: u64, bytes: u64, what: &str| {
        if offset < bytes && offset.is_multiple_of(ELEMENT_BYTES) {
            return Ok(());
        }
        Err(format!("an even offset below the {bytes} bytes of {what}"))
    };
    match arg {
        Arg::Arena(offset) => inside(offset, manifest.memory.arena, "the arena"),
        Arg::State(offset) => inside(offset, manifest.memory.state_slot, "a state slot"),
        Arg::Kv(offset) => inside(offset, manifest.memory.kv_page, "a KV page"),
        Arg::Weight(index) if (index as usize) < program.weights.len() => Ok(()),
        Arg::Weight(_) => Err(format!("a weight below {}", program.weights.len())),
        Arg::Table(_) | Arg::Count(..) | Arg::Constant(_) => Ok(()),
    }
}

impl EntryKind {
    /// The name people use.
    pub fn name(self) -> &'static str {
        match self {
            EntryKind::Prefill => "prefill",
            EntryKind::Decode => "decode",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::format::{Count, Table, WeightFormat};
    use crate::reader::Plan;

    type Spoil = fn(&mut Manifest, &mut Program);

    /// Every rule of this file, broken once; `entries[1].steps[0]` and the like say which.
    const CASES: &[(&str, Spoil)] = &[
        ("model.vocab", |m, _| m.model.vocab = 0),
        ("model.bos", |m, _| m.model.bos = Some(5)),
        ("limits.max_context", |m, _| m.limits.max_context = 1 << 31),
        ("limits.kv_tokens", |m, _| m.limits.kv_tokens = 120),
        ("limits.kv_tokens", |m, _| m.limits.kv_tokens = 0),
        ("limits.max_outputs", |m, _| m.limits.max_outputs = 0),
        ("memory.arena", |m, _| m.memory.arena = 250),
        ("memory.state_slot", |m, _| m.memory.state_slot = 65),
        ("memory.kv_page", |m, _| m.memory.kv_page = 32),
        ("memory.tables", |m, _| m.memory.tables += 64),
        ("memory.tables", |m, _| m.limits.prefill_chunk = 80),
        ("memory.weights", |m, _| m.memory.weights += 64),
        ("memory", |m, _| m.memory.state_slot = 1 << 63),
        ("targets", |m, _| m.targets = Vec::new()),
        ("kernels[1].symbol", |_, p| p.kernels[1].symbol = "embed_bf16".to_owned()),
        ("kernels[0].symbol", |_, p| p.kernels[0].symbol = "embed\0".to_owned()),
        ("kernels[0].n_args", |_, p| p.kernels[0].n_args = 1 << 20),
        ("weights[1].offset", |_, p| p.weights[1].offset = 65),
        ("weights[1].offset", |_, p| p.weights[1].offset = 0),
        ("weights[1].bytes", |_, p| p.weights[1].bytes = 48),
        ("weights[1].bytes", |_, p| p.weights[1].offset = 192),
        ("weights[0].bytes", |_, p| p.weights[0].format = WeightFormat::F32),
        ("weights[0].layout", |_, p| p.weights[0].layout.lanes = 0),
        ("weights[0].layout", |_, p| p.weights[0].layout = Layout { groups: 1 << 40, n: 1 << 40, k: 1, lanes: 1 }),
        ("weights[0].layout", |_, p| p.weights[0].parts.clear()),
        ("weights[0].layout", |_, p| p.weights[0].parts[0].rows = 4),
        ("weights[0].layout", |_, p| p.weights[0].parts = vec![fixture::part("a", 8), fixture::part("b", 1)]),
        ("weights[0].parts[0].rows", |_, p| p.weights[0].parts[0].rows = 0),
        ("weights[0].parts[0].rows", |_, p| p.weights[0].parts[0].first_row = u64::MAX),
        ("weights[0].parts[1].rows", |_, p| {
            p.weights[0].order = PartOrder::Interleaved;
            p.weights[0].parts.push(fixture::part("b", 4));
        }),
        ("weights[1].parts[0].first_row", |_, p| {
            let weight = &mut p.weights[1];
            (weight.layout.groups, weight.bytes, weight.parts[0].first_row) = (2, 64, 3);
        }),
        ("weights[0].parts[0].init", |_, p| p.weights[0].parts[0].init = Init::Normal { mean: 0.0, std: f32::NAN }),
        ("entries: decode", |_, p| p.entries.truncate(1)),
        ("entries: prefill", |_, p| p.entries[1].kind = EntryKind::Prefill),
        ("entries[0].max_tokens", |_, p| p.entries[0].max_tokens = 9),
        ("entries[1].max_sequences", |_, p| p.entries[1].max_sequences = 3),
        ("entries[1].max_outputs", |_, p| p.entries[1].max_outputs = 0),
        ("entries[0].logits.n", |_, p| p.entries[0].logits.n = 4),
        ("entries[0].logits.offset", |_, p| p.entries[0].logits.offset = 68),
        ("entries[0].logits.offset", |_, p| p.entries[0].logits.offset = 192),
        ("entries[0].logits.row_stride", |_, p| p.entries[0].logits.row_stride = 16),
        ("entries[0].steps[1].kernel", |_, p| p.entries[0].steps[1].kernel = 2),
        ("entries[1].steps[0].args", |_, p| p.entries[1].steps[0].args.truncate(3)),
        ("entries[1].steps[0].args[2]", |_, p| p.entries[1].steps[0].args[2] = Arg::Arena(256)),
        ("entries[1].steps[0].args[2]", |_, p| p.entries[1].steps[0].args[2] = Arg::Arena(3)),
        ("entries[1].steps[1].args[1]", |_, p| p.entries[1].steps[1].args[1] = Arg::State(64)),
        ("entries[1].steps[1].args[2]", |_, p| p.entries[1].steps[1].args[2] = Arg::Kv(128)),
        ("entries[1].steps[1].args[3]", |_, p| p.entries[1].steps[1].args[3] = Arg::Weight(2)),
        ("entries[0].steps[1].cost", |_, p| p.entries[0].steps[1].cost.bytes.tokens = f64::INFINITY),
        ("entries[0].steps[1].cost", |_, p| p.entries[0].steps[1].cost.operations.constant = -1.0),
        ("entries[0].buffers[1]", |_, p| p.entries[0].buffers[1].offset = 255),
        ("entries[0].buffers[1]", |_, p| p.entries[0].buffers[1].last = 2),
        ("entries[1].buffers[0]", |_, p| p.entries[1].buffers[0].first = 2),
        ("entries[1].buffers[1]", |_, p| p.entries[1].buffers[1].in_place_of = Some(1)),
    ];

    #[test]
    fn every_rule_has_a_plan_that_breaks_it() {
        for (expected, spoil) in CASES {
            let (mut manifest, mut program) = (fixture::manifest(), fixture::program());
            spoil(&mut manifest, &mut program);
            match Plan::parse(&fixture::write(&manifest, &program)) {
                Err(PlanError::Record { field, .. }) if field.split(" (").next() == Some(expected) => {}
                Err(other) => panic!("{expected}: {other}"),
                Ok(_) => panic!("{expected}: accepted"),
            }
        }
    }

    #[test]
    fn code_and_targets_must_agree() {
        let bytes = fixture::plan();
        let plan = Plan::parse(&bytes).unwrap();
        let mut manifest = fixture::manifest();
        manifest.targets.push("x86-64-v4".to_owned());
        let error = sections(&manifest, plan.sections()).unwrap_err();
        assert_eq!(error.section(), Some("code/x86-64-v4"));
        manifest.targets.truncate(1);
        let error = sections(&manifest, plan.sections()).unwrap_err();
        assert!(error.to_string().contains("x86-64-v2"), "{error}");
    }

    #[test]
    fn a_seed_stands_in_for_the_weights() {
        let bytes = fixture::plan();
        let plan = Plan::parse(&bytes).unwrap();
        let mut manifest = fixture::manifest();
        manifest.synthetic_seed = Some(1);
        assert!(sections(&manifest, plan.sections()).unwrap_err().to_string().contains("synthetic"));
        let but_weights: Vec<Section> = plan.sections().iter().filter(|s| s.name != "weights").cloned().collect();
        sections(&manifest, &but_weights).unwrap();
        manifest.synthetic_seed = None;
        assert_eq!(sections(&manifest, &but_weights).unwrap_err().section(), Some("weights"));
    }

    /// A weight of integers, its scales before it, each spoilt once.
    #[test]
    fn integers_have_their_scales() {
        for format in [WeightFormat::Int8, WeightFormat::Int4] {
            let layout = Layout { groups: 1, n: 16, k: 40, lanes: 16 };
            let (scales, scale_format) = layout.scales(format).unwrap();
            let weight = |offset: u64, layout: Layout, format: WeightFormat, transform: Transform| Weight {
                parts: vec![fixture::part("a", 16)],
                order: PartOrder::Stacked,
                offset,
                bytes: layout.bytes(format).unwrap(),
                layout,
                format,
                transform,
            };
            let pair = [
                weight(0, scales, scale_format, Transform::Scale(format)),
                weight(64, layout, format, Transform::None),
            ];
            let mut manifest = fixture::manifest();
            manifest.memory.weights = 2048;
            let refusal = |weights: Vec<Weight>| {
                let program = Program { weights, ..fixture::program() };
                weights_refusal(&manifest, &program)
            };
            assert_eq!(refusal(pair.to_vec()), None);
            assert_eq!(refusal(pair[1..].to_vec()).as_deref(), Some("weights[0].scales (a)"));
            assert_eq!(refusal(pair[..1].to_vec()).as_deref(), Some("weights[0].transform (a)"));
            let spoilt = |spoil: fn(&mut Weight)| {
                let mut pair = pair.to_vec();
                spoil(&mut pair[0]);
                refusal(pair)
            };
            assert_eq!(spoilt(|w| w.parts[0].parameter = "b".to_owned()).as_deref(), Some("weights[1].scales (a)"));
            assert_eq!(spoilt(|w| w.transform = Transform::None).as_deref(), Some("weights[1].scales (a)"));
            let of_floats = spoilt(|w| w.transform = Transform::Scale(WeightFormat::Bf16));
            assert_eq!(of_floats.as_deref(), Some("weights[0].transform (a)"));
        }
    }

    /// The field at fault, if any is.
    fn weights_refusal(manifest: &Manifest, program: &Program) -> Option<String> {
        match weights(manifest, program) {
            Err(PlanError::Record { field, .. }) => Some(field),
            Err(other) => panic!("{other}"),
            Ok(()) => None,
        }
    }

    #[test]
    fn any_count_and_table_is_an_argument() {
        let (manifest, program) = (fixture::manifest(), fixture::program());
        for arg in [Arg::Count(Count::Outputs, 2), Arg::Table(Table::Pages), Arg::Constant(u64::MAX)] {
            argument(&manifest, &program, arg).unwrap();
        }
    }
}
