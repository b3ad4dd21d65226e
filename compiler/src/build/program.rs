//! What a plan holds for one kind of target: graphs, optimized, scheduled and compiled.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use jamba_plan::format::{DrawKernel, Limits, Memory, ProgramInfo, SLACK_BYTES, TargetKind, WeightFormat};
use jambac_checkpoint::JambaConfig;
use jambac_codegen::CodegenError;
use jambac_codegen::assemble::{assemble, find_ptxas};
use jambac_codegen::compile::{Dump, Phase};
use jambac_codegen::link::KindParts;
use jambac_graph::{DType, Graph};
use jambac_kernels::kernel::{Launch, Rows};
use jambac_kernels::target::Target;
use jambac_kernels::{catalog, target};
use jambac_models::jamba;
use jambac_passes::{Fusion, PassManager};
use jambac_schedule::{Formats, Schedule, ScheduleError};

use super::{Dumps, Progress};
use crate::manifest::ModelFile;
use crate::report::Ours;

/// The graphs of both entries.
pub struct Entries {
    /// Any number of tokens per sequence.
    pub prefill: Graph,
    /// One token per sequence.
    pub decode: Graph,
    /// Stored type of keys and values.
    pub kv_dtype: DType,
}

/// A program and its code.
pub(super) struct Compiled {
    pub(super) info: ProgramInfo,
    pub(super) parts: KindParts,
    pub(super) kv_dtype: DType,
}

/// Makes the program of a kind of target.
pub(super) struct Compiler<'a> {
    pub(super) model: &'a ModelFile,
    pub(super) kind: TargetKind,
    pub(super) targets: &'a [Target],
    /// Draw weights from this seed.
    pub(super) synthetic_seed: Option<u64>,
    pub(super) dump: &'a Dumps<'a>,
    pub(super) progress: &'a Progress,
}

impl Compiler<'_> {
    pub(super) fn compile(&self, config: &JambaConfig, dtype: &dyn Fn(&str) -> DType) -> Result<Compiled> {
        let Compiler { model, kind, dump, progress, .. } = *self;
        progress.phase("building the graph");
        let mut entries = graphs(model, config, dtype, kind)?;
        dump.write(&self.file("02", "graph"), || jambac_graph::text::print(&entries.prefill))?;

        progress.phase("running passes");
        let passes = optimize(&mut entries, &fusion(model, kind)?)?;
        dump.write(&self.file("03", "optimized.graph"), || jambac_graph::text::print(&entries.prefill))?;

        progress.phase("scheduling");
        let schedule = schedule(model, &entries, self.targets, kind)?;
        dump.write(&self.file("04", "schedule.txt"), || jambac_schedule::text::print(&schedule))?;

        let formats: BTreeSet<WeightFormat> = schedule.program.weights.iter().map(|weight| weight.format).collect();
        let formats = formats.into_iter().filter(|_| self.synthetic_seed.is_some());
        let draws = target::draws(kind, formats);
        let kernels: Vec<Launch> =
            schedule.kernels.iter().chain(draws.iter().map(|(_, launch)| launch)).cloned().collect();
        let mut code = Vec::new();
        for target in self.targets.iter().filter(|target| target.kind() == kind) {
            progress.phase(&format!("compiling kernels for {}", target.name()));
            code.push((target.name().to_owned(), self.code(*target, &kernels)?));
        }
        let cubin = match (kind, find_ptxas(None)) {
            (TargetKind::Sm90a, Some(ptxas)) => {
                progress.phase("assembling PTX");
                let ptx = code.first().map(|(_, ptx)| String::from_utf8_lossy(ptx)).unwrap_or_default();
                Some(assemble(&ptxas, &ptx)?.cubin)
            }
            _ => None,
        };
        let info = ProgramInfo {
            kind,
            targets: code.iter().map(|(name, _)| name.clone()).collect(),
            memory: Memory { weights: schedule.memory.weights + SLACK_BYTES, ..schedule.memory.clone() },
            passes,
            draw_kernels: draws.into_iter().filter_map(|(format, launch)| record(format, launch)).collect(),
        };
        Ok(Compiled { info, parts: KindParts { schedule, code, cubin }, kv_dtype: entries.kv_dtype })
    }

    /// The name of a phase's file; a GPU's name the kind.
    fn file(&self, number: &str, ending: &str) -> String {
        match self.kind {
            TargetKind::Cpu => format!("{number}.{ending}"),
            kind => format!("{number}.{}.{ending}", kind.name()),
        }
    }

    fn code(&self, target: Target, kernels: &[Launch]) -> Result<Vec<u8>> {
        let mut dump_phase = |phase: Phase, text: &str| {
            let (number, ending) = match (phase, target) {
                (Phase::Mlir, _) => ("05", "mlir"),
                (Phase::LlvmDialect, _) => ("06", "llvm.mlir"),
                (Phase::LlvmIr, _) => ("07", "ll"),
                (Phase::Assembly, Target::Cpu(_)) => ("07", "s"),
                (Phase::Assembly, Target::Sm90a) => ("07", "ptx"),
            };
            if let Err(error) = self.dump.write(&format!("{number}.{}.{ending}", target.name()), || text.to_owned()) {
                self.dump.fail(error);
            }
        };
        let dump_phase: Option<Dump> = if self.dump.active() { Some(&mut dump_phase) } else { None };
        toolchain_or_ours(jambac_codegen::compile_kernels(target, kernels, dump_phase))
    }
}

/// The plan's record of a kernel that draws weights.
fn record(format: WeightFormat, launch: Launch) -> Option<DrawKernel> {
    let grid = launch.grid?.at(Rows::TOKENS);
    Some(DrawKernel { symbol: launch.symbol, format, launch: grid })
}

/// The unfused graphs of both entries. `dtype` is what a parameter is stored as in the checkpoint.
pub fn graphs(
    model: &ModelFile,
    config: &JambaConfig,
    dtype: &dyn Fn(&str) -> DType,
    kind: TargetKind,
) -> Result<Entries> {
    let kv_dtype = match (model.limits.kv_dtype.as_deref(), kind) {
        (None | Some("f32"), TargetKind::Cpu) => DType::F32,
        (None | Some("bf16"), TargetKind::Sm90a) | (Some("bf16"), TargetKind::Cpu) => DType::Bf16,
        (Some("f32"), TargetKind::Sm90a) => {
            bail!("limits.kv_dtype: found f32, expected bf16, in which sm_90a keeps keys and values")
        }
        (Some(other), _) => bail!("limits.kv_dtype: found {other}, expected f32 or bf16"),
    };
    let options = jamba::Options { kv_dtype };
    Ok(Entries {
        prefill: jamba::prefill(config, dtype, &options),
        decode: jamba::decode(config, dtype, &options),
        kv_dtype,
    })
}

/// Runs the passes on both entries and returns the names of those that ran.
pub fn optimize(entries: &mut Entries, fusion: &Fusion) -> Result<Vec<String>> {
    let mut manager = PassManager::new(fusion);
    let report = manager.run(&mut entries.prefill).ours("passes")?;
    manager.run(&mut entries.decode).ours("passes")?;
    Ok(report.passes.iter().map(|pass| pass.name.to_owned()).collect())
}

/// Steps and memory for the graphs.
pub fn schedule(model: &ModelFile, entries: &Entries, targets: &[Target], kind: TargetKind) -> Result<Schedule> {
    let prefill_chunk = model.limits.prefill_chunk;
    let limits = Limits {
        max_context: model.limits.max_context,
        max_sequences: model.limits.max_sequences,
        kv_tokens: model.kv_tokens(),
        prefill_chunk,
        max_outputs: model.limits.max_outputs.min(prefill_chunk).max(model.limits.max_sequences),
    };
    let linear = model.weights.default.as_deref().map(|format| weight_format("weights.default", format)).transpose()?;
    let experts =
        model.weights.experts.as_deref().map(|format| weight_format("weights.experts", format)).transpose()?;
    let reads_f16 = |target: &Target| matches!(target, Target::Cpu(target) if target.has_f16c());
    let f16_native = targets.iter().filter(|target| target.kind() == kind).all(reads_f16);
    let formats = Formats { linear, experts: experts.or(linear), embedding: None, f16_native };
    let options = jambac_schedule::Options { kind, limits, formats };
    use ScheduleError as Error;
    match jambac_schedule::schedule(&entries.prefill, &entries.decode, &options) {
        Err(
            error @ (Error::Limit { .. } | Error::Format { .. } | Error::TooLarge { .. } | Error::Unsupported { .. }),
        ) => Err(error.into()),
        other => other.ours("schedule"),
    }
}

/// The targets, best first, each once; `native` is the best level of this machine.
pub fn targets(names: &[String]) -> Result<Vec<Target>> {
    let mut targets =
        names.iter().map(|name| name.parse::<Target>()).collect::<Result<Vec<_>, _>>().context("build.targets")?;
    targets.sort_by_key(|target| match target {
        Target::Cpu(target) => (TargetKind::Cpu, std::cmp::Reverse(Some(target.level()))),
        Target::Sm90a => (TargetKind::Sm90a, std::cmp::Reverse(None)),
    });
    targets.dedup();
    Ok(targets)
}

/// The fusions that the model file asks for, without those whose results the kind of target has no kernels for.
pub fn fusion(model: &ModelFile, kind: TargetKind) -> Result<Fusion> {
    let asked: Fusion = model.build.fusion.as_text().parse().context("build.fusion")?;
    let left_out: Vec<&str> =
        jambac_passes::fused_ops().filter(|(_, op)| !catalog::has_body(op, kind)).map(|(pass, _)| pass).collect();
    Ok(asked.without(&left_out))
}

fn weight_format(key: &str, format: &str) -> Result<WeightFormat> {
    let formats = [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Int4];
    let found = formats.into_iter().find(|known| known.name() == format);
    found.with_context(|| format!("{key}: found {format}, expected f32, bf16, int8 or int4"))
}

/// A missing linker is the machine's fault; everything else in codegen is ours.
fn toolchain_or_ours(code: Result<Vec<u8>, CodegenError>) -> Result<Vec<u8>> {
    match code {
        Err(error @ (CodegenError::NoLinker { .. } | CodegenError::Io { .. })) => Err(error.into()),
        other => other.ours("codegen"),
    }
}
