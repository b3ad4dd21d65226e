//! The program of one kind of target: graphs, optimized, scheduled and compiled.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use jamba_plan::format::{
    DrawKernel, Limits, Memory, ProgramInfo, SLACK_BYTES, TargetKind, Transform, Weight, WeightFormat,
};
use jambac_checkpoint::JambaConfig;
use jambac_codegen::CodegenError;
use jambac_codegen::assemble::{assemble, find_ptxas};
use jambac_codegen::compile::Dump;
use jambac_codegen::link::KindParts;
use jambac_graph::{DType, Graph, Op};
use jambac_kernels::kernel::{Launch, Rows};
use jambac_kernels::target::{CpuTarget, Target, X86Level};
use jambac_kernels::{catalog, target};
use jambac_models::jamba;
use jambac_passes::{Fusion, PassManager};
use jambac_schedule::{Formats, Schedule, ScheduleError};

use super::{Phase, Request, Run};
use crate::manifest::{self, ByPattern, ModelFile};
use crate::report::Ours;

/// The graphs of both entries.
#[derive(Clone)]
pub struct Entries {
    /// Any number of tokens per sequence.
    pub prefill: Graph,
    /// One token per sequence.
    pub decode: Graph,
    /// Stored type of keys and values.
    pub kv_dtype: DType,
}

impl Entries {
    /// Prefill, then decode.
    pub fn graphs(&self) -> [&Graph; 2] {
        [&self.prefill, &self.decode]
    }
}

/// A program and its code.
pub(super) struct Compiled {
    pub(super) info: ProgramInfo,
    pub(super) parts: KindParts,
    pub(super) kv_dtype: DType,
}

/// Compiles the program of one kind of target.
pub(super) struct Compiler<'a> {
    pub(super) request: &'a Request,
    pub(super) kind: TargetKind,
    /// Of every kind, the best first.
    pub(super) targets: &'a [Target],
}

impl Compiler<'_> {
    /// `None` where the request stops at one of these phases.
    pub(super) fn compile(
        &self,
        run: &mut Run<'_>,
        config: &JambaConfig,
        dtype: &dyn Fn(&str) -> DType,
    ) -> Result<Option<Compiled>> {
        let Some((entries, passes)) = self.optimized(run, config, dtype)? else { return Ok(None) };
        let schedule = run.work("schedule", || schedule(&self.request.model, &entries, self.targets, self.kind))?;
        run.text(Phase::Schedule, &Phase::Schedule.file_of_kind(self.kind), || {
            jambac_schedule::text::print(&schedule)
        })?;
        if run.stops_at(Phase::Schedule) {
            return Ok(None);
        }

        let draws = target::draws(self.kind, drawn_formats(self.request.synthetic_seed, &schedule.program.weights));
        let kernels: Vec<Launch> =
            schedule.kernels.iter().chain(draws.iter().map(|(_, launch)| launch)).cloned().collect();
        let code = self.code(run, &self.levels(&schedule), &kernels)?;
        if run.stops_in_codegen() {
            return Ok(None);
        }
        let cubin = match (self.kind, find_ptxas(None)) {
            (TargetKind::Sm90a, Some(ptxas)) => {
                let ptx = code.first().map(|(_, ptx)| String::from_utf8_lossy(ptx)).unwrap_or_default();
                Some(run.work("cubin", || Ok(assemble(&ptxas, &ptx)?.cubin))?)
            }
            _ => None,
        };
        let info = ProgramInfo {
            kind: self.kind,
            targets: code.iter().map(|(name, _)| name.clone()).collect(),
            memory: Memory { weights: schedule.memory.weights + SLACK_BYTES, ..schedule.memory.clone() },
            passes,
            draw_kernels: draw_kernels(draws),
        };
        Ok(Some(Compiled { info, parts: KindParts { schedule, code, cubin }, kv_dtype: entries.kv_dtype }))
    }

    /// The optimized graphs and the names of the passes that ran; `None` where the request stops at the graphs.
    fn optimized(
        &self,
        run: &mut Run<'_>,
        config: &JambaConfig,
        dtype: &dyn Fn(&str) -> DType,
    ) -> Result<Option<(Entries, Vec<String>)>> {
        let Request { model, from, .. } = self.request;
        let resumed = from.as_ref().map(|from| from.phase);
        let mut entries = run.work("graph", || match from {
            Some(from) => Ok(from.entries.clone()),
            None => graphs(model, config, dtype, self.kind),
        })?;
        if resumed != Some(Phase::Optimized) {
            self.text(run, Phase::Graph, &entries)?;
        }
        if run.stops_at(Phase::Graph) {
            return Ok(None);
        }
        let passes = match resumed {
            Some(Phase::Optimized) => Vec::new(),
            _ => run.work("passes", || optimize(&mut entries, &fusion(model, self.kind)))?,
        };
        self.text(run, Phase::Optimized, &entries)?;
        Ok((!run.stops_at(Phase::Optimized)).then_some((entries, passes)))
    }

    fn text(&self, run: &mut Run<'_>, phase: Phase, entries: &Entries) -> Result<()> {
        entries.graphs().into_iter().try_for_each(|graph| {
            run.text(phase, &phase.file_of_entry(self.kind, &graph.name), || jambac_graph::text::print(graph))
        })
    }

    /// The targets of this kind that get code: without default levels that differ from others in products of integers alone, if the
    /// plan has none.
    fn levels(&self, schedule: &Schedule) -> Vec<Target> {
        let of_integers = [X86Level::V4Vnni, X86Level::Amx].map(|level| Target::Cpu(CpuTarget::new(level)));
        let is_integer = |weight: &Weight| weight.format.is_integer();
        let rounds = |target: &Target| matches!(target, Target::Cpu(target) if target.rounds_inputs());
        let others: Vec<Target> = self.targets.iter().filter(|target| !rounds(target)).copied().collect();
        let is_default = manifest::targets(&manifest::DEFAULT_TARGETS).is_ok_and(|default| default == others);
        let omits = is_default && !schedule.program.weights.iter().any(is_integer);
        let targets = self.targets.iter().filter(|target| target.kind() == self.kind);
        targets.filter(|target| !(omits && of_integers.contains(target))).copied().collect()
    }

    /// The code of each target. Targets compile side by side.
    fn code(&self, run: &mut Run<'_>, targets: &[Target], kernels: &[Launch]) -> Result<Vec<(String, Vec<u8>)>> {
        let wants_text = Phase::ALL.into_iter().any(|phase| phase >= Phase::Mlir && run.wants_text(phase));
        let compile = |target: &Target| {
            let mut texts: Vec<(Phase, String)> = Vec::new();
            let mut keep =
                |phase: jambac_codegen::compile::Phase, text: &str| texts.push((phase.into(), text.to_owned()));
            let dump: Option<Dump> = if wants_text { Some(&mut keep) } else { None };
            let code = toolchain_or_ours(jambac_codegen::compile_kernels(*target, kernels, dump));
            (texts, code)
        };
        let works = targets.iter().map(|target| (format!("code for {}", target.name()), move || compile(target)));
        let mut all = Vec::new();
        for (target, (texts, code)) in targets.iter().zip(run.side_by_side(works.collect())) {
            // A phase that fails leaves the text of those before it.
            for (phase, text) in texts {
                run.text(phase, &phase.file_of_target(target), || text)?;
            }
            all.push((target.name().to_owned(), code?));
        }
        Ok(all)
    }
}

/// The formats of weights that are drawn from a seed; none without a seed.
pub(crate) fn drawn_formats(seed: Option<u64>, weights: &[Weight]) -> BTreeSet<WeightFormat> {
    weights.iter().filter(|_| seed.is_some()).map(|weight| weight.format).collect()
}

/// The plan's records of kernels that draw weights.
pub(crate) fn draw_kernels(draws: Vec<(WeightFormat, Launch)>) -> Vec<DrawKernel> {
    let record = |(format, launch): (WeightFormat, Launch)| {
        let grid = launch.grid?.at(Rows::TOKENS);
        Some(DrawKernel { symbol: launch.symbol, format, launch: grid })
    };
    draws.into_iter().filter_map(record).collect()
}

/// The stored type of keys and values for a kind of target.
fn kv_dtype(model: &ModelFile, kind: TargetKind) -> Result<DType> {
    match (model.limits.kv_dtype, kind) {
        (None, TargetKind::Cpu) => Ok(DType::F32),
        (None, TargetKind::Sm90a) => Ok(DType::Bf16),
        (Some(DType::F32), TargetKind::Sm90a) => {
            bail!("limits.kv_dtype: found f32, expected bf16, the only type of keys and values on sm_90a")
        }
        (Some(dtype), _) => Ok(dtype),
    }
}

/// The unfused graphs of both entries. `dtype` gives the stored type of a parameter.
pub fn graphs(
    model: &ModelFile,
    config: &JambaConfig,
    dtype: &dyn Fn(&str) -> DType,
    kind: TargetKind,
) -> Result<Entries> {
    let kv_dtype = kv_dtype(model, kind)?;
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

/// The unfused graphs of both entries without a checkpoint at hand: stored types are those of the checkpoint where its weights are
/// there, otherwise f32 where the model file says so and bf16 elsewhere.
pub fn stored_graphs(model: &ModelFile, config: &JambaConfig, kind: TargetKind) -> Result<Entries> {
    if model.has_weights() {
        let checkpoint = model.open_checkpoint()?;
        let parameters = jamba::bind(&checkpoint)?;
        return graphs(model, config, &|name| super::stored_dtype(Some(&parameters), kind, name), kind);
    }
    let dtype = match model.weights.default {
        Some(WeightFormat::F32) => DType::F32,
        _ => DType::Bf16,
    };
    graphs(model, config, &|_| dtype, kind)
}

pub fn plan_limits(model: &ModelFile) -> Limits {
    let prefill_chunk = model.limits.prefill_chunk;
    Limits {
        max_context: model.limits.max_context,
        max_sequences: model.limits.max_sequences,
        kv_tokens: model.kv_tokens(),
        prefill_chunk,
        max_outputs: model.limits.max_outputs.min(prefill_chunk).max(model.limits.max_sequences),
    }
}

fn schedule_options(
    model: &ModelFile,
    entries: &Entries,
    targets: &[Target],
    kind: TargetKind,
) -> Result<jambac_schedule::Options> {
    let reads_f16 = |target: &Target| matches!(target, Target::Cpu(target) if target.has_f16c());
    let f16_native = targets.iter().filter(|target| target.kind() == kind).all(reads_f16);
    if model.weights.auto {
        bail!(
            "weights.default: found auto, expected a format: `jambac build` and `jambac fit` choose formats for --memory"
        );
    }
    let linear = model.weights.default;
    let named = named(&model.weights.patterns, entries)?;
    let formats = Formats { linear, experts: model.weights.experts.or(linear), embedding: None, named, f16_native };
    Ok(jambac_schedule::Options { kind, limits: plan_limits(model), formats })
}

/// The formats of the parameters that patterns name.
fn named(patterns: &[ByPattern], entries: &Entries) -> Result<BTreeMap<String, WeightFormat>> {
    let graph = &entries.prefill;
    let sources = graph.order().into_iter().filter_map(|node| match graph.op(node) {
        Op::Parameter { name, .. } => Some(name.as_str()),
        _ => None,
    });
    let names: BTreeSet<&str> = sources.collect();
    let mut named: BTreeMap<String, WeightFormat> = BTreeMap::new();
    for by in patterns {
        let mut n_matches = 0;
        for name in names.iter().filter(|name| by.matches(name)) {
            n_matches += 1;
            let old = named.insert((*name).to_owned(), by.format);
            if let Some(old) = old.filter(|old| *old != by.format) {
                let (old, new) = (old.name(), by.format.name());
                bail!("weights.{}: found {new} for {name}, and another pattern says {old}", by.pattern);
            }
        }
        if n_matches == 0 {
            bail!(
                "weights.{}: matches no parameter, expected default, experts, calibrate, or a pattern of names as `jambac build \
                 MODEL --emit checkpoint` prints them",
                by.pattern
            );
        }
    }
    Ok(named)
}

/// Refuses formats that differ within one weight: its kernel reads all its parameters in one format.
fn check_named(schedule: &Schedule, named: &BTreeMap<String, WeightFormat>) -> Result<()> {
    for weight in schedule.program.weights.iter().filter(|weight| matches!(weight.transform, Transform::None)) {
        for part in &weight.parts {
            let Some(format) = named.get(&part.parameter).filter(|format| **format != weight.format) else { continue };
            let other = weight.parts.iter().find(|other| other.parameter != part.parameter);
            let Some(other) = other else { continue };
            bail!(
                "weights: found {} for {}, expected {}, the format of {}: one kernel reads both, so give both the same",
                format.name(),
                part.parameter,
                weight.format.name(),
                other.parameter
            );
        }
    }
    Ok(())
}

/// The steps and the memory of the graphs.
///
/// # Errors
/// Limits, formats, sizes or graphs of the user that the scheduler refuses; other errors are ours.
pub fn schedule(model: &ModelFile, entries: &Entries, targets: &[Target], kind: TargetKind) -> Result<Schedule> {
    let options = schedule_options(model, entries, targets, kind)?;
    let schedule = refused_or_ours(jambac_schedule::schedule(&entries.prefill, &entries.decode, &options))?;
    check_named(&schedule, &options.formats.named)?;
    let (memory, limits) = (&schedule.memory, &schedule.limits);
    let bytes = memory.total(limits);
    if bytes > ADDRESSABLE {
        let parts = [
            (memory.arena, "limits.max_sequences, limits.prefill_chunk and limits.max_outputs"),
            (memory.kv_pool(limits), "limits.kv_tokens, or limits.max_context and limits.max_sequences"),
            (memory.state_pool(limits), "limits.max_sequences"),
            (memory.weights, "the format of weights (--weights int8, --experts int4)"),
        ];
        let largest = parts.into_iter().max().map_or("the limits", |(_, keys)| keys);
        bail!(
            "an open plan would take {bytes} bytes, more than a process can address ({ADDRESSABLE}): lower {largest}"
        );
    }
    Ok(schedule)
}

/// Bytes that a process can address: 47 bits.
const ADDRESSABLE: u64 = 1 << 47;

/// The memory of the graphs' plan, without its steps.
///
/// # Errors
/// As [`schedule()`].
pub fn memory(model: &ModelFile, entries: &Entries, targets: &[Target], kind: TargetKind) -> Result<Memory> {
    let options = schedule_options(model, entries, targets, kind)?;
    refused_or_ours(jambac_schedule::memory(&entries.prefill, &entries.decode, &options))
}

fn refused_or_ours<T>(result: Result<T, ScheduleError>) -> Result<T> {
    use ScheduleError as Error;
    match result {
        Err(
            error @ (Error::Limit { .. } | Error::Format { .. } | Error::TooLarge { .. } | Error::Unsupported { .. }),
        ) => Err(error.into()),
        other => other.ours("schedule"),
    }
}

/// The chosen fusions, without those whose results the kind of target has no kernels for.
pub fn fusion(model: &ModelFile, kind: TargetKind) -> Fusion {
    let left_out: Vec<&str> =
        jambac_passes::fused_ops().filter(|(_, op)| !catalog::has_body(op, kind)).map(|(pass, _)| pass).collect();
    model.build.fusion.fusion().without(&left_out)
}

/// Errors of codegen are ours, except those of files.
fn toolchain_or_ours(code: Result<Vec<u8>, CodegenError>) -> Result<Vec<u8>> {
    match code {
        Err(error @ CodegenError::Io { .. }) => Err(error.into()),
        other => other.ours("codegen"),
    }
}
