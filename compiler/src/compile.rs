//! The pipeline: checkpoint, graph, optimized graph, schedule, code, plan.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use jamba_plan::format::{Manifest, TargetKind};
use jamba_plan::output::{Kind, Output, Replace};
use jamba_plan::text::size;
use jambac_checkpoint::{Adapter, Checkpoint, FileDigest, Metadata, Remark};
use jambac_codegen::CodegenError;
use jambac_codegen::link::{KindParts, Parts, link};
use jambac_codegen::loss::Loss;
use jambac_codegen::pack::Measure;
use jambac_graph::DType;
use jambac_kernels::target::Target;
use jambac_models::{ModelError, jamba};

use crate::calibrate::{self, Calibration};
use crate::manifest::{self, ModelFile};
use crate::report::Ours;
use crate::source::Source;

mod describe;
mod phase;
mod program;
mod relimit;
mod resume;
mod run;
mod text;

use program::{Compiled, Compiler};
use run::Run;
use text::Text;

pub use phase::{Phase, names};
pub use program::{Entries, fusion, graphs, memory, optimize, plan_limits, schedule, stored_graphs};
pub(crate) use program::{draw_kernels, drawn_formats};
pub use relimit::{model_of, relimit};
pub use resume::Resume;
pub use run::{Progress, Spent};

/// What to build.
#[derive(Clone)]
pub struct Request {
    pub model: ModelFile,
    /// The plan to write.
    pub output: PathBuf,
    /// Which existing files the plan and the text forms may replace.
    pub replace: Replace,
    /// Draws the weights from this seed. Of the checkpoint, config.json is enough then.
    pub synthetic_seed: Option<u64>,
    /// The folder for the text form of every phase.
    pub dump_dir: Option<PathBuf>,
    /// Start from the text form of a phase.
    pub from: Option<Resume>,
    /// Stop after this phase and return its text form.
    pub emit: Option<Phase>,
    /// The name of one of the checkpoint's chat templates, or a file, instead of all of them.
    pub chat_template: Option<String>,
    /// Whether to measure what packing loses.
    pub measure: Measure,
}

impl Request {
    /// A plan of the model's checkpoint, all phases.
    pub fn new(model: ModelFile, output: PathBuf) -> Request {
        Request {
            model,
            output,
            replace: Replace::default(),
            synthetic_seed: None,
            dump_dir: None,
            from: None,
            emit: None,
            chat_template: None,
            measure: Measure::Nothing,
        }
    }
}

/// The result of a request: the text form where it stops at a phase, the plan otherwise.
pub enum Outcome {
    Text(String),
    Built(Box<Built>),
}

/// A plan that was written, and what it was made of.
pub struct Built {
    pub summary: Summary,
    /// `None` where weights are synthetic.
    pub checkpoint: Option<Checkpoint>,
    /// One for each kind of target.
    pub programs: Vec<KindParts>,
    /// The parameters with a loss and the kind of target that they were packed for, if losses were measured.
    pub losses: Vec<(TargetKind, Loss)>,
}

/// Counts and sizes of a plan.
#[derive(Debug)]
pub struct Summary {
    /// The plan.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Bytes that an open plan takes; of several kinds of target, the most.
    pub memory: u64,
    /// Kernels of all kinds of targets.
    pub n_kernels: usize,
    /// Steps of all entries.
    pub n_steps: usize,
    pub elapsed: Duration,
    /// Time and memory of every phase, in order.
    pub spent: Vec<Spent>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}, {} kernels, {} steps, {} when open, built in {:.1} s",
            self.path.display(),
            size(self.bytes),
            self.n_kernels,
            self.n_steps,
            size(self.memory),
            self.elapsed.as_secs_f64()
        )
    }
}

/// Compiles a model into a plan.
///
/// # Errors
/// As [`run()`]; also a request that stops before the plan.
pub fn build(request: &Request, progress: &Progress) -> Result<Built> {
    match run(request, progress)? {
        Outcome::Built(built) => Ok(*built),
        Outcome::Text(_) => bail!("the request stops before the plan"),
    }
}

/// Runs the phases of a request.
///
/// # Errors
/// The checkpoint, the model file or a text form is at fault, or an [`OurFault`](crate::report::OurFault) with its phase.
pub fn run(request: &Request, progress: &Progress) -> Result<Outcome> {
    let began = Instant::now();
    let mut run = Run::new(request, progress)?;
    let input = run.work("checkpoint", || Input::read(request))?;
    let text = text::check(input.model.metadata(), request.chat_template.as_deref())?;
    // Synthetic weights make no text anyway.
    let no_tokenizer = input.model.checkpoint().and_then(|checkpoint| text::no_tokenizer(checkpoint.metadata()));
    input.model.remarks().iter().chain(&text.remarks).chain(&no_tokenizer).for_each(|remark| progress.remark(remark));
    let bind = |checkpoint| jamba::bind_adapted(checkpoint, &input.adapters);
    let parameters = input.model.checkpoint().map(bind).transpose()?;
    if let Some(parameters) = &parameters {
        widened(parameters, request, &input.kinds).iter().for_each(|remark| progress.remark(remark));
        run.text(Phase::Checkpoint, &Phase::Checkpoint.file_name(), || describe::checkpoint(parameters))?;
    }
    if run.stops_at(Phase::Checkpoint) {
        return Ok(Outcome::Text(run.emitted()));
    }

    let mut programs = Vec::new();
    for &kind in &input.kinds {
        let compiler = Compiler { request, kind, targets: &input.targets };
        let dtype = |name: &str| stored_dtype(parameters.as_ref(), kind, name);
        programs.extend(compiler.compile(&mut run, input.model.metadata().config(), &dtype)?);
    }
    if programs.len() < input.kinds.len() {
        return Ok(Outcome::Text(run.emitted()));
    }

    let calibration = calibration(&mut run, request, &input.model, &programs)?;
    let source = parameters.as_ref().map(|parameters| Source::new(parameters).calibrated(calibration));
    let Written { manifest, programs, bytes, losses } =
        write_plan(&mut run, request, &input, &text, source.as_ref(), programs)?;
    if run.wants_text(Phase::Plan) {
        let written =
            std::fs::read(&request.output).with_context(|| format!("reading {} back", request.output.display()))?;
        let plan = jamba_plan::Plan::parse(&written).ours("reading the plan back")?;
        run.text(Phase::Plan, &Phase::Plan.file_name(), || jamba_plan::text::plan(&plan))?;
    }
    if run.stops_at(Phase::Plan) {
        return Ok(Outcome::Text(run.emitted()));
    }
    let summary = Summary {
        path: request.output.clone(),
        bytes,
        memory: manifest.programs.iter().map(|info| info.memory.total(&manifest.limits)).max().unwrap_or(0),
        n_kernels: programs.iter().map(|parts| parts.schedule.kernels.len()).sum(),
        n_steps: programs.iter().flat_map(|parts| &parts.schedule.program.entries).map(|entry| entry.steps.len()).sum(),
        elapsed: began.elapsed(),
        spent: run.spent,
    };
    Ok(Outcome::Built(Box::new(Built { summary, checkpoint: input.model.into_checkpoint(), programs, losses })))
}

/// A note on fp8 weights that a GPU gets in bf16: those with several scales for a row.
fn widened(parameters: &jamba::Parameters<'_>, request: &Request, kinds: &[TargetKind]) -> Option<Remark> {
    let is_widened = |name: &str| parameters.dtype(name) != parameters.dtype_in_rows(name);
    (parameters.iter().any(|(name, _)| is_widened(name)) && kinds.contains(&TargetKind::Sm90a) && request.model.weights.default.is_none()).then(|| {
        let path = parameters.checkpoint().dir().display();
        Remark::Note(format!(
            "{path}: sm_90a multiplies fp8 with one scale for each row, and this checkpoint has scales of blocks: weights become \
             bf16 there; --weights fp8 and --weights int8 round them once more and make them smaller"
        ))
    })
}

/// What a build reads besides the parameters.
struct Input {
    /// The checkpoint, or its metadata where weights are synthetic.
    model: Opened,
    /// To be merged, each with a factor.
    adapters: Vec<(Adapter, f32)>,
    /// The best first.
    targets: Vec<Target>,
    kinds: Vec<TargetKind>,
}

impl Input {
    fn read(request: &Request) -> Result<Input> {
        let model = &request.model;
        let opened = match request.synthetic_seed {
            Some(_) => Opened::Metadata(Metadata::read(&model.checkpoint, &model.ignore, model.links)?),
            None => Opened::Checkpoint(model.open_checkpoint()?),
        };
        let config = opened.metadata().config();
        model.check_context(config)?;
        let targets = manifest::by_preference(&model.build.targets);
        let has = |kind: &TargetKind| targets.iter().any(|target| target.kind() == *kind);
        let kinds: Vec<TargetKind> = TargetKind::ALL.into_iter().filter(has).collect();
        if let (Some(from), [first, second, ..]) = (&request.from, &kinds[..]) {
            bail!("--from {}: found targets for {} and {}, expected one kind", from.phase, first.name(), second.name());
        }
        Ok(Input { model: opened, adapters: model.open_adapters()?, targets, kinds })
    }
}

/// An open checkpoint, or one without its tensors.
enum Opened {
    Checkpoint(Checkpoint),
    Metadata(Metadata),
}

impl Opened {
    fn metadata(&self) -> &Metadata {
        match self {
            Opened::Checkpoint(checkpoint) => checkpoint.metadata(),
            Opened::Metadata(metadata) => metadata,
        }
    }

    /// `None` where weights are synthetic.
    fn checkpoint(&self) -> Option<&Checkpoint> {
        match self {
            Opened::Checkpoint(checkpoint) => Some(checkpoint),
            Opened::Metadata(_) => None,
        }
    }

    fn into_checkpoint(self) -> Option<Checkpoint> {
        match self {
            Opened::Checkpoint(checkpoint) => Some(checkpoint),
            Opened::Metadata(_) => None,
        }
    }

    fn remarks(&self) -> Vec<Remark> {
        self.checkpoint().map_or_else(|| self.metadata().remarks().to_vec(), Checkpoint::remarks)
    }

    /// Digests of all files that were read.
    fn digests(&self) -> Vec<FileDigest> {
        let metadata = self.metadata();
        match self.checkpoint() {
            Some(checkpoint) => checkpoint.digests(),
            None => jambac_checkpoint::digest::small_files(metadata),
        }
    }
}

/// Calibrates the parameters that become integers, if the request has a text for it.
fn calibration(run: &mut Run<'_>, request: &Request, model: &Opened, programs: &[Compiled]) -> Result<Calibration> {
    let has_weights = model.checkpoint().is_some();
    let text = request.model.weights.calibrate.as_ref().filter(|_| has_weights).unwrap_or(&calibrate::Text::None);
    if *text == calibrate::Text::None {
        return Ok(Calibration::default());
    }
    if *text == calibrate::Text::Samples && model.metadata().config().head != jamba::Head::Logits {
        let path = model.metadata().dir().display();
        run.progress.remark(&Remark::Note(format!(
            "{path}: a model without logits draws no samples, so weights are rounded to nearest: --calibrate FILE takes a text"
        )));
        return Ok(Calibration::default());
    }
    let parts: Vec<&KindParts> = programs.iter().map(|program| &program.parts).collect();
    let wanted = calibrate::wanted(&parts);
    let calibration = run.work("calibration", || calibrate::calibrate(request, text, &wanted))?;
    let (rare, all) = calibration.rare();
    if rare > 0 {
        run.progress.remark(&Remark::Note(format!(
            "{rare} of {all} matrices had fewer than {} of the {} calibration tokens, so their weights are rounded to nearest",
            calibrate::LEAST_ROWS,
            calibration.n_tokens
        )));
    }
    Ok(calibration)
}

/// A plan on the disk.
struct Written {
    manifest: Manifest,
    programs: Vec<KindParts>,
    bytes: u64,
    losses: Vec<(TargetKind, Loss)>,
}

/// Packs the weights and writes the plan.
fn write_plan(
    run: &mut Run<'_>,
    request: &Request,
    input: &Input,
    text: &Text<'_>,
    source: Option<&Source<'_, '_>>,
    programs: Vec<Compiled>,
) -> Result<Written> {
    let metadata = input.model.metadata();
    let mut digests = input.model.digests();
    digests.extend(input.adapters.iter().flat_map(|(adapter, _)| adapter.digests()));
    let manifest = describe::manifest(request, metadata, &programs, digests);
    let config = config_section(metadata)?;
    let programs: Vec<KindParts> = programs.into_iter().map(|program| program.parts).collect();
    let parts = Parts {
        manifest: &manifest,
        programs: &programs,
        parameters: source.map(|source| source as _),
        tokenizer: text.tokenizer.as_deref(),
        tokenizer_config: text.tokenizer_config.as_deref(),
        chat_template: text.chat_template.as_deref().map(str::as_bytes),
        config: Some(&config),
    };
    let output = Output::at(&request.output, Kind::PLAN, request.replace)?;
    if request.synthetic_seed.is_none() {
        check_disk(&output, manifest.programs.iter().map(|program| program.memory.weights).sum())?;
    }
    let progress = run.progress;
    let (bytes, losses) = run.work("weights and plan", || {
        link(output, &parts, request.measure, |done, total| progress.weights(done, total)).map_err(weight_error)
    })?;
    progress.clear();
    Ok(Written { manifest, programs, bytes, losses })
}

/// config.json without the keys that would be refused, so that `jambac limits` can read it.
fn config_section(metadata: &Metadata) -> Result<Cow<'_, [u8]>> {
    let (text, dropped) = (metadata.config_json(), metadata.dropped_keys());
    if dropped.is_empty() {
        return Ok(Cow::Borrowed(text));
    }
    let mut keys: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(text).with_context(|| metadata.file("config.json").display().to_string())?;
    keys.retain(|key, _| !dropped.contains(key));
    serde_json::to_vec_pretty(&keys).map(Cow::Owned).ours("config section")
}

/// The error of a link. An error of a weight names the checkpoint's file and needs no more context.
fn weight_error(error: CodegenError) -> anyhow::Error {
    let error = anyhow::Error::from(error);
    let io_error = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    match io_error.and_then(|error| error.get_ref()?.downcast_ref::<ModelError>()) {
        Some(weight) => anyhow!("{weight}"),
        None => error,
    }
}

/// Checks that the disk has room for the plan. An old plan of that name stays until the new one is complete.
fn check_disk(output: &Output, weights: u64) -> Result<()> {
    let folder = output.folder();
    let disk = rustix::fs::statvfs(&folder).with_context(|| format!("{}: the folder of the plan", folder.display()))?;
    let free = disk.f_bavail * disk.f_frsize;
    if free < weights {
        bail!(
            "{}: found {free} bytes free on its disk, expected at least {weights} for the weights: make room, write elsewhere \
             with -o, or choose a smaller format (--weights int8, --experts int4)",
            output.path().display()
        );
    }
    Ok(())
}

fn stored_dtype(parameters: Option<&jamba::Parameters<'_>>, kind: TargetKind, name: &str) -> DType {
    parameters.map_or(DType::Bf16, |parameters| match kind {
        TargetKind::Cpu => parameters.dtype(name),
        TargetKind::Sm90a => parameters.dtype_in_rows(name),
    })
}
