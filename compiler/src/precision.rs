//! `--weights auto`: the format of each parameter for which a plan fits a memory size with the least predicted loss.
//!
//! ```text
//! predicted loss = Σ sensitivity · ‖w − ŵ‖² / ‖w‖²      ŵ: w rounded to nearest, on rows of each parameter
//! ```
//!
//! over the parameters of linear layers. The sensitivities are the divergences of `models/tiny` with the parameters of one kind rounded
//! (`cargo bench --bench formats -- sensitivities`), so a loss says which of two choices for the same model is better, not how much
//! its answers change. Calibration lowers the losses of all integers; it is not predicted.
//!
//! Parameters that a kernel reads together have the same format. For each, only formats on the lower convex hull of bytes and loss
//! count. From the formats of the checkpoint, steps along the hulls are taken in the order of loss per byte saved, until the plan fits.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::Path;

use anyhow::{Context, Result, bail};
use jamba_plan::format::{Layout, TargetKind, Transform, Weight, WeightFormat};
use jambac_codegen::loss::nearest_error;
use jambac_codegen::pack::ParameterSource;
use jambac_graph::{Graph, Op};
use jambac_kernels::target::{self, Target};
use jambac_models::jamba;
use serde_json::{Value, json};

use crate::compile::{fusion, optimize, schedule, stored_graphs};
use crate::defaults;
use crate::doctor::size;
use crate::fit::{self, Fitter};
use crate::manifest::{ByPattern, ModelFile, Weights, by_preference};
use crate::source::Source;

/// Tokens of the one sequence where neither model.toml nor an option sets a context.
const CONTEXT: u64 = 8192;

/// Rows of a parameter that are rounded, of each of up to [`EXPERTS`] experts.
const ROWS: u64 = 32;

/// Experts whose rows are rounded.
const EXPERTS: u64 = 2;

/// Kinds of parameters by the end of their name, and the divergence in nats per squared relative error of one parameter.
const SENSITIVITIES: &[(&str, f64)] = &[
    ("mamba.in_proj.weight", 3.0e-3),
    ("mamba.x_proj.weight", 2.5e-4),
    ("mamba.out_proj.weight", 8.9e-3),
    ("self_attn.q_proj.weight", 6.0e-3),
    ("self_attn.k_proj.weight", 6.0e-3),
    ("self_attn.v_proj.weight", 6.0e-3),
    ("self_attn.o_proj.weight", 2.7e-3),
    ("experts.*.gate_proj.weight", 4.1e-4),
    ("experts.*.up_proj.weight", 4.1e-4),
    ("experts.*.down_proj.weight", 3.3e-3),
    ("gate_proj.weight", 4.3e-4),
    ("up_proj.weight", 4.3e-4),
    ("down_proj.weight", 1.4e-3),
    ("lm_head.weight", 0.33),
    ("embed_tokens.weight", 0.33),
];

/// The sensitivity of parameters of other names.
const OTHERS: f64 = 3e-3;

/// Parameters that one kernel reads.
#[derive(Clone, Debug)]
struct Unit {
    /// Names and rows.
    parameters: BTreeMap<String, u64>,
    layouts: Vec<Layout>,
    /// Formats with fewer and fewer bytes, on the lower convex hull: the checkpoint's first.
    formats: Vec<Choice>,
    /// Index of the chosen one.
    chosen: usize,
}

/// A format of a unit.
#[derive(Clone, Copy, Debug)]
struct Choice {
    format: WeightFormat,
    bytes: u64,
    loss: f64,
}

impl Unit {
    fn choice(&self) -> Choice {
        self.formats[self.chosen]
    }

    /// Loss per byte saved by the next step.
    fn slope(&self) -> Option<f64> {
        let (from, to) = (self.choice(), self.formats.get(self.chosen + 1)?);
        Some((to.loss - from.loss) / (from.bytes - to.bytes) as f64)
    }

    /// The loss in a format, or in the nearest that it has with more bits.
    fn loss_in(&self, format: WeightFormat) -> f64 {
        let found = self.formats.iter().rev().find(|choice| choice.format.bits() >= format.bits());
        found.or(self.formats.first()).map_or(0.0, |choice| choice.loss)
    }
}

/// What was chosen, for a message.
#[derive(Debug)]
pub struct Chosen {
    units: Vec<Unit>,
    /// Formats that patterns gave before.
    pinned: Vec<ByPattern>,
    budget: u64,
    total: u64,
    sequences: u64,
    context: u64,
}

impl Chosen {
    fn loss(&self) -> f64 {
        self.units.iter().map(|unit| unit.choice().loss).sum()
    }

    fn loss_in(&self, format: WeightFormat) -> f64 {
        self.units.iter().map(|unit| unit.loss_in(format)).sum()
    }

    /// The command that builds the plan.
    pub(crate) fn command(&self, model: &ModelFile, path: &Path) -> String {
        let mut command = fit::build_command(model, path);
        let _ = write!(command, " --weights auto --memory {}", self.budget);
        for by in &self.pinned {
            let _ = write!(command, " --format '{by}'");
        }
        if let Some(format) = model.weights.experts {
            let _ = write!(command, " --experts {}", format.name());
        }
        let _ = write!(command, " --max-context {} --max-sequences {}", self.context, self.sequences);
        command
    }

    pub(crate) fn document(&self) -> Value {
        json!({
            "parameters": self.by_kind(),
            "loss": self.loss(),
            "loss_of_int8": self.loss_in(WeightFormat::Int8),
            "loss_of_int4": self.loss_in(WeightFormat::Int4),
        })
    }

    /// For each kind of parameters, the number that has each format.
    fn by_kind(&self) -> BTreeMap<&str, BTreeMap<&'static str, usize>> {
        let mut kinds: BTreeMap<&str, BTreeMap<&'static str, usize>> = BTreeMap::new();
        for unit in &self.units {
            for parameter in unit.parameters.keys() {
                let of_kind = kinds.entry(kind(parameter)).or_default();
                *of_kind.entry(unit.choice().format.name()).or_default() += 1;
            }
        }
        kinds
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.sequences == 1 { "" } else { "s" };
        writeln!(
            f,
            "weights: formats for {}, {} sequence{s} of {} tokens: the open plan takes {}",
            size(self.budget),
            self.sequences,
            self.context,
            size(self.total)
        )?;
        for (kind, formats) in self.by_kind() {
            let formats: Vec<String> = formats.iter().map(|(format, n)| format!("{n} {format}")).collect();
            writeln!(f, "  {kind:<28} {}", formats.join(", "))?;
        }
        let relative = |format: WeightFormat| match self.loss_in(format) {
            0.0 => "no loss".to_owned(),
            loss => format!("{:.2} × {}", self.loss() / loss, format.name()),
        };
        write!(
            f,
            "  predicted loss, relative to one format for all: {}, {}",
            relative(WeightFormat::Int8),
            relative(WeightFormat::Int4)
        )
    }
}

/// Replaces `weights.auto` of a model, if it is set, by formats for `memory` bytes, by default for three quarters of the machine's.
///
/// # Errors
/// As [`choose`], or the memory is neither given nor known.
pub fn resolve(model: &mut ModelFile, memory: Option<u64>) -> Result<Option<Chosen>> {
    if !model.weights.auto {
        return Ok(None);
    }
    let known = || defaults::memory(model).map(|(memory, _)| defaults::share_of(memory));
    let budget =
        memory.or_else(known).context("--weights auto: this system does not tell its memory: add --memory SIZE")?;
    choose(model, budget).map(Some)
}

/// Replaces `weights.auto` of a model by formats for which its plan fits `budget` bytes. Formats of patterns and of experts that are
/// chosen already stay. Without limits of its own the model gets those of one sequence.
///
/// # Errors
/// Nothing fits, or the checkpoint cannot be read.
pub fn choose(model: &mut ModelFile, budget: u64) -> Result<Chosen> {
    let config = model.read_config()?;
    if model.unset.context {
        model.limits.max_context = CONTEXT.min(config.max_positions as u64);
    }
    if model.unset.sequences {
        model.limits.max_sequences = 1;
    }
    if model.unset.context || model.unset.sequences {
        model.limits.kv_tokens = None;
    }
    (model.unset.context, model.unset.sequences) = (false, false);
    model.weights.auto = false;
    model.check()?;
    let mut units = units(model)?;
    let pinned = model.weights.patterns.clone();
    let mut saved = 0;
    loop {
        model.weights.patterns = pinned.iter().cloned().chain(patterns(&units)?).collect();
        let total = Fitter::new(model)?.total(&model.limits)?;
        let Some(excess) = total.checked_sub(budget).filter(|&excess| excess > 0) else {
            let (sequences, context) = (model.limits.max_sequences, model.limits.max_context);
            return Ok(Chosen { units, pinned, budget, total, sequences, context });
        };
        // What padding and the order of weights add is only known of a whole plan.
        saved += excess;
        if !lower(&mut units, saved) {
            bail!(
                "--weights auto: the plan takes {total} bytes with the smallest formats, {excess} more than the {budget} of the \
                 memory: give it more (--memory), or lower --max-context ({}) or --max-sequences ({})",
                model.limits.max_context,
                model.limits.max_sequences
            );
        }
    }
}

/// The linear layers of a model whose format is open.
fn units(model: &ModelFile) -> Result<Vec<Unit>> {
    let config = model.read_config()?;
    let targets = by_preference(&model.build.targets);
    let kind = targets.last().map(Target::kind).context("a model without targets")?;
    // What an integer may be is what the rules of formats make one.
    let weights = Weights { default: Some(WeightFormat::Int8), auto: false, ..model.weights.clone() };
    let integers = ModelFile { weights, ..model.clone() };
    let mut entries = stored_graphs(model, &config, kind)?;
    optimize(&mut entries, &fusion(model, kind))?;
    let planned = schedule(&integers, &entries, &targets, kind)?.program.weights;
    let is_pinned = |weight: &Weight| {
        let is_named = |part: &str| model.weights.patterns.iter().any(|by| by.matches(part));
        weight.parts.iter().any(|part| is_named(&part.parameter))
            || (model.weights.experts.is_some() && weight.layout.groups > 1)
    };
    let open = planned.iter().filter(|weight| {
        weight.format == WeightFormat::Int8 && weight.transform == Transform::None && !is_pinned(weight)
    });
    let mut units: Vec<Unit> = Vec::new();
    for weight in open {
        let mut unit =
            Unit { parameters: BTreeMap::new(), layouts: vec![weight.layout], formats: Vec::new(), chosen: 0 };
        for part in &weight.parts {
            let rows = unit.parameters.entry(part.parameter.clone()).or_default();
            *rows = (*rows).max(part.first_row + part.rows);
        }
        // A parameter that several weights hold has one format.
        let is_shared = |other: &Unit| other.parameters.keys().any(|name| unit.parameters.contains_key(name));
        let (together, apart): (Vec<Unit>, Vec<Unit>) = units.into_iter().partition(is_shared);
        units = apart;
        for other in together {
            unit.parameters.extend(other.parameters);
            unit.layouts.extend(other.layouts);
        }
        units.push(unit);
    }
    let stored = stored_formats(&entries.prefill, kind);
    let graph = &entries.prefill;
    let heads = graph.outputs().get("logits").map_or_else(Vec::new, |logits| graph.operands(logits.node));
    let heads: Vec<&str> = heads.iter().filter_map(|operand| graph.op(operand.node).source_name()).collect();
    let refused = |format: WeightFormat| targets.iter().any(|on| target::refuses(on.kind(), format).is_some());
    let checkpoint = model.has_weights().then(|| model.open_checkpoint()).transpose()?;
    let parameters = checkpoint.as_ref().map(jamba::bind).transpose()?;
    let source = parameters.as_ref().map(Source::new);
    for unit in &mut units {
        let is_head = heads.iter().any(|&head| unit.parameters.contains_key(head));
        let stored = unit.parameters.keys().filter_map(|name| stored.get(name)).max_by_key(|format| format.bits());
        let stored = stored.copied().unwrap_or(WeightFormat::Bf16);
        let smaller = [WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Int4, WeightFormat::Int3];
        let smaller = smaller
            .into_iter()
            .filter(|&format| format.bits() < stored.bits() && !refused(format) && !(is_head && format.bits() < 8));
        let mut choices = vec![Choice { format: stored, bytes: bytes(&unit.layouts, stored)?, loss: 0.0 }];
        let samples = samples(unit, source.as_ref())?;
        for format in smaller {
            let loss = samples.iter().map(|(name, rows)| sensitivity(name) * nearest_error(format, rows)).sum();
            choices.push(Choice { format, bytes: bytes(&unit.layouts, format)?, loss });
        }
        unit.formats = hull(choices);
    }
    Ok(units)
}

/// The formats that the checkpoint's parameters have by default.
fn stored_formats(graph: &Graph, kind: TargetKind) -> BTreeMap<String, WeightFormat> {
    let of = |node| match graph.op(node) {
        Op::Parameter { name, .. } => {
            let dtype = graph.ty(graph.result(node, 0)).dtype;
            Some((name.clone(), target::stored_format(kind, dtype)))
        }
        _ => None,
    };
    graph.order().into_iter().filter_map(of).collect()
}

/// Bytes of weights in a format, with their scales.
fn bytes(layouts: &[Layout], format: WeightFormat) -> Result<u64> {
    let of = |layout: &Layout| {
        let scales = layout.scales(format).map_or(Some(0), |(scales, stored)| scales.bytes(stored))?;
        layout.bytes(format)?.checked_add(scales)
    };
    layouts.iter().map(of).sum::<Option<u64>>().context("weights that no address space holds")
}

/// Sampled rows of each parameter of a unit. Without a checkpoint: normally distributed values.
fn samples(unit: &Unit, source: Option<&Source<'_, '_>>) -> Result<Vec<(String, Vec<Vec<f32>>)>> {
    let Layout { groups, k, .. } = unit.layouts[0];
    let rows_of = |(name, &n_rows): (&String, &u64)| {
        let Some(source) = source else { return Ok((name.clone(), vec![normal(k as usize)])) };
        let mut rows = Vec::new();
        for group in (0..groups).step_by(groups.div_ceil(EXPERTS) as usize) {
            for row in (0..n_rows).step_by(n_rows.div_ceil(ROWS) as usize) {
                let mut values = vec![0.0; k as usize];
                source.read_rows(name, group, row, 1, &mut values).with_context(|| name.clone())?;
                rows.push(values);
            }
        }
        Ok((name.clone(), rows))
    };
    unit.parameters.iter().map(rows_of).collect()
}

/// Values of a normal distribution, by sums of twelve uniform ones of an LCG (Knuth, MMIX).
fn normal(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

/// The end of a parameter's name that [`SENSITIVITIES`] lists; for others, all of it.
fn kind(parameter: &str) -> &str {
    let known = SENSITIVITIES.iter().map(|&(end, _)| end).find(|&end| parameter.ends_with(end));
    known.map_or(parameter, |end| end.strip_suffix(".weight").unwrap_or(end))
}

fn sensitivity(parameter: &str) -> f64 {
    SENSITIVITIES.iter().find(|(end, _)| parameter.ends_with(end)).map_or(OTHERS, |&(_, sensitivity)| sensitivity)
}

/// The choices on the lower convex hull of bytes and loss, from the first on. Choices have fewer and fewer bytes.
fn hull(choices: Vec<Choice>) -> Vec<Choice> {
    let slope = |from: &Choice, to: &Choice| (to.loss - from.loss) / (from.bytes - to.bytes) as f64;
    let mut hull: Vec<Choice> = Vec::new();
    for choice in choices {
        if hull.last().is_some_and(|last| last.bytes <= choice.bytes) {
            continue;
        }
        // A larger loss than that of a choice with fewer bytes, or a point above the line to it.
        while let [.., before, last] = &hull[..] {
            if slope(before, last) < slope(last, &choice) {
                break;
            }
            hull.pop();
        }
        hull.push(choice);
    }
    hull
}

/// Chooses anew, from the first format of each unit on, until `saved` bytes are saved. Returns false if that is not possible.
fn lower(units: &mut [Unit], saved: u64) -> bool {
    units.iter_mut().for_each(|unit| unit.chosen = 0);
    let mut left = saved;
    let mut steps = Vec::new();
    while left > 0 {
        let slopes = units.iter().enumerate().filter_map(|(index, unit)| Some((index, unit.slope()?)));
        let Some((index, _)) = slopes.min_by(|x, y| x.1.total_cmp(&y.1)) else { return false };
        let before = units[index].choice().bytes;
        units[index].chosen += 1;
        left = left.saturating_sub(before - units[index].choice().bytes);
        steps.push(index);
    }
    // The last step may save much more than was needed: earlier ones are taken back where the rest still suffices.
    let of = |units: &[Unit]| -> u64 { units.iter().map(|unit| unit.formats[0].bytes - unit.choice().bytes).sum() };
    for &index in steps.iter().rev() {
        units[index].chosen -= 1;
        if of(units) < saved {
            units[index].chosen += 1;
        }
    }
    true
}

/// The formats of units that are not the checkpoint's, as patterns.
fn patterns(units: &[Unit]) -> Result<Vec<ByPattern>> {
    let changed = units.iter().filter(|unit| unit.chosen > 0);
    let names = changed.flat_map(|unit| unit.parameters.keys().map(|name| (name, unit.choice().format.name())));
    names.map(|(name, format)| ByPattern::new(name.strip_suffix(".weight").unwrap_or(name), format)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mini() -> ModelFile {
        let mut model = ModelFile::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/jamba-mini")).unwrap();
        (model.limits.max_context, model.limits.max_sequences, model.limits.kv_tokens) = (32768, 1, None);
        model.weights.auto = true;
        model
    }

    #[test]
    fn more_memory_means_less_loss() {
        let mut before = f64::INFINITY;
        for gigabytes in [24, 26, 32, 48, 64, 110] {
            let (mut model, budget) = (mini(), gigabytes * 1_000_000_000);
            let chosen = choose(&mut model, budget).unwrap();
            assert!(!model.weights.auto && chosen.total <= budget, "{chosen}");
            assert_eq!(Fitter::new(&model).unwrap().total(&model.limits).unwrap(), chosen.total);
            // What is left is less than the smallest step.
            assert!(gigabytes == 110 || chosen.total > budget / 100 * 98, "{chosen}");
            assert!(chosen.loss() < before, "{gigabytes} GB: {} of {before}", chosen.loss());
            before = chosen.loss();
            let text = chosen.to_string();
            assert!(text.contains("mamba.in_proj") && text.contains("experts.*.down_proj"), "{text}");
        }
        assert_eq!(before, 0.0, "as stored");
    }

    #[test]
    fn a_mixture_loses_less_than_one_format_of_its_size() {
        let mut four = mini();
        (four.weights.auto, four.weights.default) = (false, Some(WeightFormat::Int4));
        let budget = Fitter::new(&four).unwrap().total(&four.limits).unwrap();
        let chosen = choose(&mut mini(), budget).unwrap();
        assert!(chosen.loss() < chosen.loss_in(WeightFormat::Int4), "{chosen}");
        // 3 bits for some experts, where 4 for all do not fit.
        let chosen = choose(&mut mini(), budget / 10 * 9).unwrap();
        assert!(chosen.by_kind()["experts.*.up_proj"].contains_key("int3"), "{chosen}");
    }

    #[test]
    fn formats_that_were_chosen_stay() {
        let mut model = mini();
        model.weights.experts = Some(WeightFormat::Int3);
        model.weights.patterns.push("*.out_proj=int8".parse().unwrap());
        let chosen = choose(&mut model, 26_000_000_000).unwrap();
        assert!(chosen.units.iter().all(|unit| unit.layouts[0].groups == 1), "{chosen}");
        assert!(chosen.units.iter().flat_map(|unit| unit.parameters.keys()).all(|name| !name.contains("out_proj")));
        let command = chosen.command(&model, Path::new("m"));
        for part in ["--weights auto --memory 26000000000", "--format '*.out_proj=int8'", "--experts int3"] {
            assert!(command.contains(part), "{command}");
        }
    }

    #[test]
    fn a_memory_that_nothing_fits_is_refused() {
        let error = choose(&mut mini(), 10_000_000_000).unwrap_err().to_string();
        for part in ["with the smallest formats", "10000000000", "--memory", "--max-context (32768)"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_hull_leaves_out_what_costs_more() {
        let choice = |bytes: u64, loss: f64| Choice { format: WeightFormat::Int8, bytes, loss };
        let of = |points: &[(u64, f64)]| {
            hull(points.iter().map(|&(bytes, loss)| choice(bytes, loss)).collect())
                .iter()
                .map(|choice| choice.bytes)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&[(16, 0.0), (8, 1.0), (4, 4.0), (3, 8.0)]), [16, 8, 4, 3]);
        // 8 bytes lose more than the line from 16 to 4; as many bytes as before are no choice.
        assert_eq!(of(&[(16, 0.0), (8, 3.0), (4, 4.0), (4, 9.0)]), [16, 4]);
        assert_eq!(of(&[(8, 0.0)]), [8]);
    }
}
