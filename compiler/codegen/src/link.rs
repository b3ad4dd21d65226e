//! Writes steps, code and weights to a plan.

use jamba_plan::PlanWriter;
use jamba_plan::format::{Manifest, TargetKind};
use jamba_plan::output::Output;
use jamba_plan::sections::{CUBIN, SectionKind};
use jambac_schedule::Schedule;

use crate::error::CodegenError;
use crate::loss::Loss;
use crate::pack::{Measure, ParameterSource, pack_all, write_zeros};

/// The contents of a plan.
pub struct Parts<'a> {
    pub manifest: &'a Manifest,
    /// One record per kind of target, in the manifest's order.
    pub programs: &'a [KindParts],
    /// Source of the parameters; `None` if the manifest has a seed for synthetic weights.
    pub parameters: Option<&'a dyn ParameterSource>,
    /// The checkpoint's `tokenizer.json`.
    pub tokenizer: Option<&'a [u8]>,
    /// The checkpoint's `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// The checkpoint's chat template.
    pub chat_template: Option<&'a [u8]>,
    /// The checkpoint's config.json.
    pub config: Option<&'a [u8]>,
}

/// The contents of a plan for one kind of target.
pub struct KindParts {
    pub schedule: Schedule,
    /// Code by target: a shared object, or PTX.
    pub code: Vec<(String, Vec<u8>)>,
    /// The assembled PTX, if the plan includes it.
    pub cubin: Option<Vec<u8>>,
}

/// Writes the plan. Returns its length in bytes and, if measured, the rounding losses: each parameter with a loss, and the kind of
/// target for which it was packed. Calls `progress` with (bytes packed, total bytes) after each weight.
///
/// # Errors
/// A parameter cannot be packed, or the plan cannot be written.
pub fn link(
    output: Output,
    parts: &Parts<'_>,
    measure: Measure,
    mut progress: impl FnMut(u64, u64),
) -> Result<(u64, Vec<(TargetKind, Loss)>), CodegenError> {
    let mut writer = PlanWriter::to(output)?;
    writer.manifest(parts.manifest)?;
    for of_kind in parts.programs {
        writer.program(of_kind.schedule.kind, &of_kind.schedule.program)?;
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
        (SectionKind::Config, parts.config),
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
        for of_kind in parts.programs {
            let (kind, program) = (of_kind.schedule.kind, &of_kind.schedule.program);
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
