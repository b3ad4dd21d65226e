//! Steps, code and weights → the plan.

use std::path::Path;

use jamba_plan::format::{Buffer, Entry, KernelRecord, Manifest, Part, Program, Step, TargetKind, Transform, Weight};
use jamba_plan::sections::{CUBIN, SectionKind};
use jamba_plan::{PlanWriter, synthetic};
use jambac_schedule::{PlannedPart, PlannedWeight, Schedule};

use crate::error::CodegenError;
use crate::loss::Loss;
use crate::pack::{Measure, ParameterSource, pack_all, write_zeros};

/// Everything that goes into a plan.
pub struct Parts<'a> {
    /// What the plan is.
    pub manifest: &'a Manifest,
    /// What the plan holds for each kind of target, in the manifest's order.
    pub programs: &'a [KindParts],
    /// Where parameters come from; nothing when the manifest has a seed for them.
    pub parameters: Option<&'a dyn ParameterSource>,
    /// The checkpoint's `tokenizer.json`.
    pub tokenizer: Option<&'a [u8]>,
    /// The checkpoint's `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// The checkpoint's chat template.
    pub chat_template: Option<&'a [u8]>,
}

/// What a plan holds for one kind of target.
pub struct KindParts {
    /// Steps and memory.
    pub schedule: Schedule,
    /// Code by target: a shared object, or PTX.
    pub code: Vec<(String, Vec<u8>)>,
    /// PTX assembled, where that is part of the plan.
    pub cubin: Option<Vec<u8>>,
}

/// The schedule as the records that the runtime executes.
pub fn program(schedule: &Schedule) -> Program {
    let kernels = schedule
        .kernels
        .iter()
        .map(|kernel| KernelRecord {
            symbol: kernel.symbol(),
            op: kernel.op().to_owned(),
            n_args: kernel.params().len() as u32,
        })
        .collect();
    let weights = schedule
        .weights
        .iter()
        .map(|weight| Weight {
            parts: weight.parts.iter().map(|part| self::part(part, inputs(schedule, weight))).collect(),
            order: weight.order,
            offset: weight.offset,
            bytes: weight.bytes,
            layout: weight.layout,
            format: weight.format,
            transform: weight.transform,
        })
        .collect();
    let entries = schedule
        .entries
        .iter()
        .map(|entry| Entry {
            kind: entry.kind,
            max_tokens: entry.max_tokens,
            max_sequences: entry.max_sequences,
            max_outputs: entry.max_outputs,
            logits: entry.logits,
            picks: entry.picks,
            steps: entry
                .steps
                .iter()
                .map(|step| Step {
                    kernel: step.kernel as u32,
                    barrier: step.barrier,
                    args: step.args.clone(),
                    launch: step.spec.launch(),
                    source: step.source.clone(),
                    cost: step.spec.amounts(),
                })
                .collect(),
            buffers: entry
                .buffers
                .iter()
                .map(|buffer| Buffer {
                    offset: buffer.offset,
                    bytes: buffer.bytes,
                    first: buffer.first as u32,
                    last: buffer.last as u32,
                    holds: entry.holds(buffer).to_owned(),
                    in_place_of: buffer.in_place_of.map(|index| index as u32),
                })
                .collect(),
        })
        .collect();
    Program { kernels, weights, tensor_maps: schedule.tensor_maps.clone(), entries }
}

/// Inputs of the parameter behind a weight; scales have their own number of columns.
fn inputs(schedule: &Schedule, weight: &PlannedWeight) -> u64 {
    let is_integers = |other: &&PlannedWeight| other.parts == weight.parts && other.transform == Transform::None;
    match weight.transform {
        Transform::Scale(_) => schedule.weights.iter().find(is_integers).map_or(1, |integers| integers.layout.k),
        _ => weight.layout.k,
    }
}

fn part(part: &PlannedPart, inputs: u64) -> Part {
    let (_, init) = synthetic::init_for(&part.parameter, &[part.rows, inputs]);
    Part { parameter: part.parameter.clone(), first_row: part.first_row, rows: part.rows, init }
}

/// Writes the plan and returns its length in bytes. `progress` is called with (bytes packed, bytes in all) after each weight.
///
/// # Errors
/// A parameter that cannot be packed, or a plan that cannot be written.
pub fn link(path: &Path, parts: &Parts<'_>, progress: impl FnMut(u64, u64)) -> Result<u64, CodegenError> {
    write(path, parts, Measure::Nothing, progress).map(|(bytes, _)| bytes)
}

/// As [`link`]; also returns the losses of the parameters that lose something, with the kind of target they are packed for.
///
/// # Errors
/// As [`link`].
pub fn link_measured(
    path: &Path,
    parts: &Parts<'_>,
    progress: impl FnMut(u64, u64),
) -> Result<(u64, Vec<(TargetKind, Loss)>), CodegenError> {
    write(path, parts, Measure::Loss, progress)
}

fn write(
    path: &Path,
    parts: &Parts<'_>,
    measure: Measure,
    mut progress: impl FnMut(u64, u64),
) -> Result<(u64, Vec<(TargetKind, Loss)>), CodegenError> {
    let mut writer = PlanWriter::create(path)?;
    let programs: Vec<Program> = parts.programs.iter().map(|of_kind| program(&of_kind.schedule)).collect();
    writer.manifest(parts.manifest)?;
    for (of_kind, program) in parts.programs.iter().zip(&programs) {
        writer.program(of_kind.schedule.kind, program)?;
    }
    for of_kind in parts.programs {
        for (target, code) in &of_kind.code {
            writer.code(target, code)?;
        }
        if let Some(cubin) = &of_kind.cubin {
            writer.code(&format!("{}{CUBIN}", of_kind.schedule.kind.name()), cubin)?;
        }
    }
    let files = [
        (SectionKind::Tokenizer, parts.tokenizer),
        (SectionKind::TokenizerConfig, parts.tokenizer_config),
        (SectionKind::ChatTemplate, parts.chat_template),
    ];
    for (kind, bytes) in files {
        if let Some(bytes) = bytes {
            writer.section(kind, kind.name(), bytes)?;
        }
    }
    let mut losses = Vec::new();
    if let Some(parameters) = parts.parameters {
        let bytes = |kind: TargetKind| parts.manifest.of(kind).map_or(0, |info| info.memory.weights);
        let total = parts.programs.iter().map(|of_kind| bytes(of_kind.schedule.kind)).sum();
        let mut before = 0;
        for (of_kind, program) in parts.programs.iter().zip(&programs) {
            let kind = of_kind.schedule.kind;
            let name = kind.section(SectionKind::Weights.name());
            writer.stream_section(SectionKind::Weights, &name, |out| {
                let done = |done| progress(before + done, total);
                let (packed, of_kind) = pack_all(parameters, &program.weights, out, measure, done)?;
                losses.extend(of_kind.into_iter().map(|loss| (kind, loss)));
                write_zeros(out, bytes(kind) - packed)
            })?;
            before += bytes(kind);
        }
    }
    Ok((writer.finish()?, losses))
}
