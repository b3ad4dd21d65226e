//! Calibration: second moments of the inputs of products whose weights become integers, for packing with error feedback.
//!
//! 1. plan: the checkpoint's weights as stored, int8 for models beyond 8 B parameters; the lowest CPU level with fused
//!    multiply-adds, so that every machine computes the same bits
//! 2. text: samples that this plan draws from seeds, at temperature 1, each from the begin token; or a file
//! 3. moments: while the plan draws or reads the text, the inputs of its products are added up before each step
//!
//! The moments do not depend on the number of threads. They take 512 bytes for each input of a matrix.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use jamba_plan::format::{Arg, Program, Step, TargetKind, WeightFormat};
use jamba_plan::output::unfinished;
use jamba_runtime::{Engine, Feed, OpenOptions, Outputs, Sampler, SamplerOptions, SequenceId, StepObserver, Verify};
use jambac_codegen::link::KindParts;
use jambac_codegen::pack::Moments;
use jambac_kernels::kernel::{Launch, Operand, Source};
use jambac_kernels::target::Target;
use jambac_models::jamba;

use crate::compile::{self, Progress, Request};
use crate::manifest::{self, Limits, Weights};

/// Tokens of the text.
const TOKENS: usize = 8192;

/// Most tokens of a sample, and of a piece of a file.
const SAMPLE: usize = 512;

/// Samples that are drawn at a time.
const SEQUENCES: u64 = 32;

/// Least rows of inputs. The weights of a matrix that has seen fewer are rounded to nearest.
pub const LEAST_ROWS: u64 = 128;

/// Parameters of the largest model whose plan for calibration has the checkpoint's formats.
const MOST_AS_STORED: u64 = 8_000_000_000;

/// Fusions that leave the inputs of a product in no buffer.
const WITHOUT_INPUTS: [&str; 2] = ["fuse-norm-linear", "fuse-proj-conv"];

/// Levels of the plan: the first that this machine runs.
const LEVELS: [&str; 3] = ["x86-64-v3", "aarch64", "x86-64-v2"];

/// The text of a calibration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Text {
    /// Weights are rounded to nearest.
    #[default]
    None,
    /// Samples of the model.
    Samples,
    /// A file, by its tokenizer.
    File(PathBuf),
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Text::None => f.write_str("none"),
            Text::Samples => f.write_str("self"),
            Text::File(path) => path.display().fmt(f),
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        match text {
            "none" => Text::None,
            "self" => Text::Samples,
            path => Text::File(path.into()),
        }
    }
}

/// The moments of the inputs of matrices.
#[derive(Default)]
pub struct Calibration {
    of_matrices: BTreeMap<(String, u64), Arc<Moments>>,
    /// Tokens that were read.
    pub n_tokens: usize,
}

impl Calibration {
    /// The moments of matrix `group` of a parameter, if enough rows were seen.
    pub fn moments(&self, parameter: &str, group: u64) -> Option<&Arc<Moments>> {
        let found = self.of_matrices.get(&(parameter.to_owned(), group))?;
        (found.n_rows() >= LEAST_ROWS).then_some(found)
    }

    /// The matrices that saw fewer than [`LEAST_ROWS`] rows, and the number of all.
    pub fn rare(&self) -> (usize, usize) {
        let rare = self.of_matrices.values().filter(|moments| moments.n_rows() < LEAST_ROWS);
        (rare.count(), self.of_matrices.len())
    }
}

/// The parameters that a calibration helps: those that the programs pack as integers.
pub fn wanted(programs: &[&KindParts]) -> BTreeSet<String> {
    let weights = programs.iter().flat_map(|of_kind| &of_kind.schedule.program.weights);
    let integers = weights.filter(|weight| weight.format.is_integer());
    integers.flat_map(|weight| &weight.parts).map(|part| part.parameter.clone()).collect()
}

/// Calibrates the `wanted` parameters of a request's checkpoint.
///
/// # Errors
/// The plan cannot be built or run on this machine, or the file has too few tokens.
pub fn calibrate(request: &Request, text: &Text, wanted: &BTreeSet<String>) -> Result<Calibration> {
    if *text == Text::None || wanted.is_empty() {
        return Ok(Calibration::default());
    }
    // The plan is as large as the checkpoint: the output's disk is more likely to have the room than that of temporary files.
    let near = request.output.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = match near {
        Some(near) => unfinished::Entry::folder_in(near),
        None if request.output == Path::new("-") => unfinished::Entry::folder(),
        None => unfinished::Entry::folder_in(Path::new(".")),
    };
    let folder = folder.context("a folder for the plan of the calibration")?;
    let plan = folder.path().join("calibration.plan");
    let (parts, mut engine) = open(request, &plan)?;
    let mut moments = Observer::new(&parts, wanted);
    moments.check()?;
    match text {
        Text::File(path) => read(&mut engine, path, &mut moments)?,
        _ => sample(&mut engine, &mut moments)?,
    }
    Ok(Calibration { n_tokens: moments.n_tokens, of_matrices: moments.finish() })
}

/// Builds and opens the plan.
fn open(request: &Request, output: &Path) -> Result<(KindParts, Engine)> {
    let mut model = request.model.clone();
    let level =
        manifest::targets(&LEVELS)?.into_iter().find(|target| matches!(target, Target::Cpu(cpu) if cpu.runs_here()));
    let level = level.with_context(|| {
        format!("--calibrate: this machine runs none of {}: build with --calibrate none", LEVELS.join(", "))
    })?;
    model.build.targets = vec![level];
    model.build.fusion = model.build.fusion.without(&WITHOUT_INPUTS);
    let config = model.read_config()?;
    let is_large = jamba::n_parameters(&config) as u64 > MOST_AS_STORED;
    model.weights = Weights { default: is_large.then_some(WeightFormat::Int8), ..Weights::default() };
    let max_context = (SAMPLE as u64).min(config.max_positions as u64);
    model.limits = Limits {
        max_context,
        max_sequences: SEQUENCES,
        prefill_chunk: max_context,
        max_outputs: max_context,
        ..Limits::default()
    };
    let built = compile::build(&Request::new(model, output.to_owned()), &Progress::hidden())?;
    let of_cpu = built.programs.into_iter().find(|parts| parts.schedule.kind == TargetKind::Cpu);
    let parts = of_cpu.context("the plan of the calibration has no program for a CPU")?;
    let options = OpenOptions { verify: Verify::AllButWeights, ..OpenOptions::default() };
    Ok((parts, Engine::open(output, options)?))
}

/// A sample that is being drawn.
struct Drawn {
    sequence: SequenceId,
    next: u32,
    sampler: Sampler,
    n_tokens: usize,
}

/// Draws samples, [`SEQUENCES`] at a time, until the model has read [`TOKENS`] tokens of them.
fn sample(engine: &mut Engine, moments: &mut Observer) -> Result<()> {
    let model = &engine.manifest().model;
    let first = model.bos.or_else(|| model.eos.first().copied()).unwrap_or_default();
    let (vocab, eos) = (model.vocab as usize, model.eos.clone());
    let length = engine.manifest().limits.max_context as usize;
    let mut seeds = 0..;
    let mut begin = |engine: &mut Engine| -> Result<Drawn> {
        let options = SamplerOptions { seed: seeds.next(), temperature: 1.0, ..SamplerOptions::GREEDY };
        let mut sampler = Sampler::new(options, vocab)?;
        sampler.observe(&[first]);
        Ok(Drawn { sequence: engine.add_sequence()?, next: first, sampler, n_tokens: 0 })
    };
    let mut drawn = (0..SEQUENCES).map(|_| begin(engine)).collect::<Result<Vec<_>>>()?;
    while moments.n_tokens < TOKENS {
        let feeds: Vec<Feed<'_>> = drawn
            .iter()
            .map(|drawn| Feed {
                sequence: drawn.sequence,
                tokens: std::slice::from_ref(&drawn.next),
                outputs: Outputs::Last,
            })
            .collect();
        moments.n_rows = feeds.len();
        let logits = engine.step_observed(&feeds, moments)?;
        let picks = logits.rows().zip(&mut drawn).map(|(row, drawn)| drawn.sampler.pick(row));
        let picks = picks.collect::<std::result::Result<Vec<u32>, _>>()?;
        moments.n_tokens += picks.len();
        for (drawn, pick) in drawn.iter_mut().zip(picks) {
            drawn.n_tokens += 1;
            drawn.next = pick;
            if eos.contains(&pick) || drawn.n_tokens == length {
                engine.remove_sequence(drawn.sequence)?;
                *drawn = begin(engine)?;
            }
        }
    }
    Ok(())
}

/// Reads a file in pieces.
fn read(engine: &mut Engine, path: &Path, moments: &mut Observer) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("--calibrate {}", path.display()))?;
    let tokens = engine.tokenizer().context("--calibrate FILE needs the checkpoint's tokenizer")?.encode(&text)?;
    ensure!(
        tokens.len() as u64 >= LEAST_ROWS,
        "--calibrate {}: found {} tokens, expected at least {LEAST_ROWS}, better {TOKENS}",
        path.display(),
        tokens.len()
    );
    let length = engine.manifest().limits.max_context as usize;
    for piece in tokens[..tokens.len().min(TOKENS)].chunks(length) {
        let sequence = engine.add_sequence()?;
        moments.n_rows = piece.len();
        engine.step_observed(&[Feed { sequence, tokens: piece, outputs: Outputs::All }], moments)?;
        moments.n_tokens += piece.len();
        engine.remove_sequence(sequence)?;
    }
    Ok(())
}

/// The inputs of a product of a step.
struct Inputs {
    /// Offset of its rows in the arena, in bytes.
    offset: usize,
    /// Elements from one row to the next.
    stride: usize,
    /// Index of its moments; of experts the first.
    moments: usize,
    experts: Option<Experts>,
}

/// Which rows belong to which expert.
struct Experts {
    /// Offsets of the tables `slots` and `offsets` of a grouped product in the arena, in bytes.
    slots: usize,
    offsets: usize,
    n_experts: usize,
    /// Slots that share a row of the inputs.
    slots_per_row: usize,
}

struct Observer {
    /// By entry and step.
    inputs: Vec<Vec<Vec<Inputs>>>,
    moments: Vec<Moments>,
    /// The matrices of each of the moments.
    matrices: Vec<Vec<(String, u64)>>,
    /// Rows of the current run.
    n_rows: usize,
    /// Tokens of all runs.
    n_tokens: usize,
    gathered: Vec<f32>,
}

impl Observer {
    fn new(parts: &KindParts, wanted: &BTreeSet<String>) -> Observer {
        let program = &parts.schedule.program;
        let mut observer = Observer {
            inputs: Vec::new(),
            moments: Vec::new(),
            matrices: Vec::new(),
            n_rows: 0,
            n_tokens: 0,
            gathered: Vec::new(),
        };
        let mut known = BTreeMap::new();
        for entry in &program.entries {
            let of_step = |step: &Step| {
                let launch = &parts.schedule.kernels[step.kernel as usize];
                observer.of_step(program, launch, &step.args, wanted, &mut known)
            };
            let steps = entry.steps.iter().map(of_step).collect();
            observer.inputs.push(steps);
        }
        observer
    }

    /// Checks that each entry shows the inputs of the same parameters.
    fn check(&self) -> Result<()> {
        let seen = |steps: &Vec<Vec<Inputs>>| {
            let matrices = steps.iter().flatten().flat_map(|inputs| &self.matrices[inputs.moments]);
            matrices.map(|(parameter, _)| parameter.as_str()).collect::<BTreeSet<&str>>()
        };
        let of_entries: Vec<BTreeSet<&str>> = self.inputs.iter().map(seen).collect();
        let differences = of_entries.windows(2).flat_map(|pair| pair[0].symmetric_difference(&pair[1]));
        match differences.into_iter().next() {
            Some(parameter) => bail!("--calibrate: some steps that multiply {parameter} show no inputs"),
            None => Ok(()),
        }
    }

    /// The products of a step that are wanted.
    fn of_step(
        &mut self,
        program: &Program,
        launch: &Launch,
        args: &[Arg],
        wanted: &BTreeSet<String>,
        known: &mut BTreeMap<u32, usize>,
    ) -> Vec<Inputs> {
        let named = |name: &str| launch.operands.iter().position(|operand| operand.name() == name);
        let arena = |name: &str| match args[named(name)?] {
            Arg::Arena(offset) => Some(offset as usize),
            _ => None,
        };
        let Some((x, offset)) = named("x").zip(arena("x")) else { return Vec::new() };
        let rows_of = |operand: &Operand| operand.extent.factor;
        let stride = launch.operands[x].param.row_elements();
        let mut inputs = Vec::new();
        for (operand, arg) in launch.operands.iter().zip(args) {
            let (Source::Weight(_), &Arg::Weight(index)) = (&operand.source, arg) else { continue };
            let weight = &program.weights[index as usize];
            let k = weight.layout.k as usize;
            if !weight.parts.iter().any(|part| wanted.contains(&part.parameter)) {
                continue;
            }
            let n_groups = weight.layout.groups;
            let first = *known.entry(index).or_insert_with(|| {
                let first = self.moments.len();
                for group in 0..n_groups {
                    let names: BTreeSet<_> = weight.parts.iter().map(|part| (part.parameter.clone(), group)).collect();
                    self.moments.push(Moments::new(k));
                    self.matrices.push(names.into_iter().collect());
                }
                first
            });
            let experts =
                arena("slots").zip(arena("offsets")).zip(named("slots")).map(|((slots, offsets), at)| Experts {
                    slots,
                    offsets,
                    n_experts: n_groups as usize,
                    slots_per_row: rows_of(&launch.operands[at]) / rows_of(&launch.operands[x]),
                });
            inputs.push(Inputs { offset, stride, moments: first, experts });
        }
        inputs
    }

    fn finish(self) -> BTreeMap<(String, u64), Arc<Moments>> {
        let mut found = BTreeMap::new();
        for (moments, matrices) in self.moments.into_iter().zip(self.matrices) {
            let moments = Arc::new(moments);
            found.extend(matrices.into_iter().map(|matrix| (matrix, moments.clone())));
        }
        found
    }
}

impl StepObserver for Observer {
    fn before(&mut self, entry: usize, step: usize, arena: &mut [u8]) {
        for inputs in &self.inputs[entry][step] {
            let rows: &[f32] = bytemuck::cast_slice(&arena[inputs.offset..arena.len() / 4 * 4]);
            let Some(experts) = &inputs.experts else {
                self.moments[inputs.moments].add(&rows[..self.n_rows * inputs.stride], inputs.stride);
                continue;
            };
            let words = |offset: usize| -> &[i32] { bytemuck::cast_slice(&arena[offset..arena.len() / 4 * 4]) };
            let (slots, offsets) = (words(experts.slots), words(experts.offsets));
            for expert in 0..experts.n_experts {
                let [begin, end] = [offsets[expert], offsets[expert + 1]].map(|offset| offset as usize);
                self.gathered.clear();
                for &slot in &slots[begin..end] {
                    let row = slot as usize / experts.slots_per_row * inputs.stride;
                    self.gathered.extend_from_slice(&rows[row..row + inputs.stride]);
                }
                self.moments[inputs.moments + expert].add(&self.gathered, inputs.stride);
            }
        }
    }

    fn after(&mut self, _: usize, _: usize, _: &[u8]) {}
}

/// Parses the text of `--calibrate`.
///
/// # Errors
/// The file is missing.
pub fn text(found: &str) -> Result<Text> {
    let text = Text::from(found);
    if let Text::File(path) = &text
        && !path.is_file()
    {
        bail!("--calibrate: found {found}, expected self, none, or a file with text");
    }
    Ok(text)
}
