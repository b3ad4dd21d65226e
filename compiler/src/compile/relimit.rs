//! Other limits for a plan: the program is scheduled and compiled again from the plan's config.json, and the packed weights, which
//! depend on no limit, are copied.

use anyhow::{Context, Result, bail, ensure};
use jamba_plan::format::{self, Manifest, Program, Transform, WeightFormat};
use jamba_plan::output::Output;
use jamba_plan::sections::{CUBIN, SectionKind};
use jamba_plan::{Plan, PlanError, PlanWriter};
use jambac_checkpoint::{Head, JambaConfig};
use jambac_graph::DType;

use super::describe::PATTERNS;
use super::program::{Compiled, Compiler};
use super::{Progress, Request, Run};
use crate::calibrate::Text;
use crate::manifest::{self, Build, ModelFile, Unset, Weights};
use crate::report::Ours;
use jambac_models::jamba::SCORE_BIAS;

/// The model of a plan, with the plan's limits, which the caller changes.
///
/// # Errors
/// The plan is of an older compiler that recorded less.
pub fn model_of(plan: &Plan<'_>) -> Result<ModelFile> {
    let manifest = plan.manifest();
    let provenance = manifest.provenance.as_ref().context(OLDER)?;
    let option = |key: &str| {
        let found = provenance.options.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str()).context(OLDER)
    };
    let format = |key: &str| match option(key)? {
        "as stored" => Ok(None),
        name => manifest::weight_format(key, name).map(Some),
    };
    let patterns = option(PATTERNS).ok().filter(|&patterns| patterns != "none").unwrap_or_default();
    let targets: Vec<&str> = manifest.targets().collect();
    let kv_dtype = match option("limits.kv_dtype")? {
        several if several.contains(',') => None, // each kind of target has its default
        one => Some(manifest::kv_dtype(one)?),
    };
    let limits = &manifest.limits;
    Ok(ModelFile {
        name: manifest.model.name.clone(),
        is_named: true,
        checkpoint: Default::default(),
        links: Default::default(),
        ignore: Default::default(),
        adapters: Vec::new(),
        build: Build { targets: manifest::targets(&targets)?, fusion: option("build.fusion")?.parse()? },
        weights: Weights {
            default: format("weights.default")?,
            auto: false,
            experts: format("weights.experts")?,
            patterns: patterns.split_whitespace().map(str::parse).collect::<Result<_>>()?,
            calibrate: option("weights.calibrate").ok().map(Text::from),
        },
        limits: manifest::Limits {
            max_context: limits.max_context,
            max_sequences: limits.max_sequences,
            kv_tokens: Some(limits.kv_tokens),
            kv_dtype,
            prefill_chunk: limits.prefill_chunk,
            max_outputs: limits.max_outputs,
        },
        unset: Unset { context: false, sequences: false },
    })
}

const OLDER: &str = "found a plan of an older jambac, which does not say what it was built from: build it again";

/// Compiles the model's programs and writes them, with everything else of the plan, to the output. Returns the new manifest and
/// the length of the file.
///
/// # Errors
/// The limits are not possible, or the plan was built by a compiler that packs weights differently.
pub fn relimit(plan: &Plan<'_>, model: ModelFile, output: Output, progress: &Progress) -> Result<(Manifest, u64)> {
    let text = plan.section(SectionKind::Config).context(OLDER)?;
    let text = str::from_utf8(text).ours("limits")?;
    let config = config(plan, JambaConfig::parse(text, "config.json of the plan".as_ref())?);
    let most = config.max_positions as u64;
    let wanted = model.limits.max_context;
    ensure!(
        wanted <= most,
        "--context: found {wanted}, expected at most {most}, the max_position_embeddings of the model"
    );
    model.check()?;

    let request =
        Request { synthetic_seed: plan.manifest().synthetic_seed, ..Request::new(model, output.path().into()) };
    let mut run = Run::new(&request, progress)?;
    let targets = manifest::by_preference(&request.model.build.targets);
    let mut programs = Vec::new();
    for (info, old) in plan.programs() {
        let stored = |parameter: &str| stored_dtype(old, parameter);
        let compiler = Compiler { request: &request, kind: info.kind, targets: &targets };
        let compiled = compiler.compile(&mut run, &config, &stored)?.context("no phase stops").ours("limits")?;
        let new = &compiled.parts.schedule.program;
        if new.weights != old.weights {
            bail!("found weights that another version of jambac has packed differently: build the plan again");
        }
        programs.push(compiled);
    }
    let manifest = Manifest {
        limits: programs[0].parts.schedule.limits.clone(),
        programs: programs.iter().map(|program| program.info.clone()).collect(),
        ..plan.manifest().clone()
    };
    let bytes = run.work("copying weights", || write(plan, &manifest, &programs, output).map_err(Into::into))?;
    progress.clear();
    Ok((manifest, bytes))
}

/// What config.json does not say of the head.
fn config(plan: &Plan<'_>, mut config: JambaConfig) -> JambaConfig {
    if plan.manifest().model.head == format::Head::Hidden {
        config.head = Head::Hidden;
    }
    if let Head::Scores { bias, .. } = &mut config.head {
        let weights = plan.programs().flat_map(|(_, program)| &program.weights);
        *bias = weights.flat_map(|weight| &weight.parts).any(|part| part.parameter == SCORE_BIAS);
    }
    config
}

fn write(plan: &Plan<'_>, manifest: &Manifest, programs: &[Compiled], output: Output) -> Result<u64, PlanError> {
    let mut writer = PlanWriter::to(output)?;
    writer.manifest(manifest)?;
    for program in programs {
        writer.program(program.info.kind, &program.parts.schedule.program)?;
    }
    for Compiled { info, parts, .. } in programs {
        for (target, code) in &parts.code {
            writer.code(target, code)?;
        }
        if let Some(cubin) = &parts.cubin {
            writer.code(&format!("{}{CUBIN}", info.kind.name()), cubin)?;
        }
    }
    for section in plan.sections() {
        match SectionKind::from_code(section.kind) {
            Some(SectionKind::Manifest | SectionKind::Program | SectionKind::Code) | None => {}
            Some(kind) => writer.section(kind, &section.name, plan.bytes_of(section))?,
        }
    }
    writer.finish()
}

/// The type that the checkpoint stores a parameter in, as far as packed weights show it.
fn stored_dtype(program: &Program, parameter: &str) -> DType {
    let of = |weight: &&jamba_plan::format::Weight| {
        let is_scales = matches!(weight.transform, Transform::Scale(_));
        !is_scales && weight.parts.iter().any(|part| part.parameter == parameter)
    };
    match program.weights.iter().find(of).map(|weight| weight.format) {
        Some(WeightFormat::F32) => DType::F32,
        Some(WeightFormat::Int8) => DType::I8,
        Some(WeightFormat::Int4) => DType::I4,
        Some(WeightFormat::Fp8) => DType::F8,
        _ => DType::Bf16,
    }
}
