//! The pipeline: checkpoint, graph, optimized graph, schedule, code, plan.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jamba_plan::format::{Manifest, Model, Provenance, SourceFile, TargetKind, Weight};
use jambac_checkpoint::{Checkpoint, FileDigest, JambaConfig, TokenizerFiles};
use jambac_codegen::link::{KindParts, Parts, link};
use jambac_graph::DType;
use jambac_models::jamba;
use jambac_schedule::Schedule;

use crate::manifest::ModelFile;
use crate::report::Ours;
use crate::source::Source;

mod program;

use program::{Compiled, Compiler};
pub use program::{Entries, fusion, graphs, optimize, schedule, targets};

/// What to build.
pub struct Request {
    /// The model.
    pub model: ModelFile,
    /// The plan to write.
    pub output: PathBuf,
    /// Draw weights from this seed; config.json is all that is read then.
    pub synthetic_seed: Option<u64>,
    /// Where the text form of every phase goes.
    pub dump_dir: Option<PathBuf>,
}

/// What was built.
#[derive(Debug)]
pub struct Summary {
    /// The plan.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Everything an open plan holds, in bytes.
    pub memory: u64,
    /// Kernels compiled for each target.
    pub n_kernels: usize,
    /// Steps of prefill and decode.
    pub n_steps: usize,
    /// How long it took.
    pub elapsed: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {:.1} MB, {} kernels, {} steps, {:.1} MB when open, built in {:.1} s",
            self.path.display(),
            self.bytes as f64 / 1e6,
            self.n_kernels,
            self.n_steps,
            self.memory as f64 / 1e6,
            self.elapsed.as_secs_f64()
        )
    }
}

/// Tells a person how far the build is; quiet when stderr is no terminal.
pub struct Progress(ProgressBar);

impl Progress {
    /// On stderr where it is a terminal.
    pub fn on_terminal() -> Progress {
        Progress(ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()))
    }

    /// Nowhere.
    pub fn hidden() -> Progress {
        Progress(ProgressBar::hidden())
    }

    fn phase(&self, message: &str) {
        self.0.set_message(message.to_owned());
        self.0.tick();
    }

    fn weights(&self, done: u64, total: u64) {
        if self.0.length() != Some(total) {
            let style = ProgressStyle::with_template("packing weights {bar:40} {bytes}/{total_bytes} {eta}");
            self.0.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            self.0.set_length(total);
        }
        self.0.set_position(done);
    }
}

/// Compiles a model into a plan.
pub fn build(request: &Request, progress: &Progress) -> Result<Summary> {
    build_then(request, progress, |_, _| Ok(()))
}

/// As [`build()`]; `then` gets the parameters, where there are any, and the programs, once the plan is written.
pub fn build_then(
    request: &Request,
    progress: &Progress,
    then: impl FnOnce(Option<&Source<'_, '_>>, &[KindParts]) -> Result<()>,
) -> Result<Summary> {
    let began = Instant::now();
    let Request { model, output, synthetic_seed, dump_dir } = request;
    let dump = Dumps::new(dump_dir.as_deref())?;
    let targets = targets(&model.build.targets)?;

    progress.phase("reading the checkpoint");
    let checkpoint = match synthetic_seed {
        Some(_) => None,
        None => Some(Checkpoint::open(&model.checkpoint)?),
    };
    let parameters = checkpoint.as_ref().map(jamba::bind).transpose()?;
    let config = match &checkpoint {
        Some(checkpoint) => checkpoint.config().clone(),
        None => JambaConfig::read(&model.checkpoint.join("config.json"))?,
    };
    if model.limits.max_context > config.max_positions as u64 {
        bail!(
            "limits.max_context: found {}, expected at most {}, the max_position_embeddings of {}",
            model.limits.max_context,
            config.max_positions,
            model.checkpoint.join("config.json").display()
        );
    }
    if let Some(parameters) = &parameters {
        dump.write("01.checkpoint.txt", || checkpoint_text(parameters))?;
    }

    let kinds = TargetKind::ALL.into_iter().filter(|&kind| targets.iter().any(|target| target.kind() == kind));
    let programs = kinds
        .map(|kind| {
            let dtype = |name: &str| stored_dtype(parameters.as_ref(), name);
            let compiler =
                Compiler { model, kind, targets: &targets, synthetic_seed: *synthetic_seed, dump: &dump, progress };
            compiler.compile(&config, &dtype)
        })
        .collect::<Result<Vec<_>>>()?;
    dump.finish()?;

    let files = match &checkpoint {
        Some(checkpoint) => Cow::Borrowed(checkpoint.tokenizer()),
        None => Cow::Owned(TokenizerFiles::read(&model.checkpoint)?),
    };
    let digests = match &checkpoint {
        Some(checkpoint) => checkpoint.digests()?,
        None => jambac_checkpoint::digest::small_files(&model.checkpoint, &files)?,
    };
    let provenance = provenance(model, &programs, digests);
    let weights: u64 = programs.iter().map(|program| program.info.memory.weights).sum();
    let manifest = Manifest {
        compiler: format!("jambac {}", env!("CARGO_PKG_VERSION")),
        model: describe(model, &config, checkpoint.as_ref(), &programs[0].parts.schedule),
        limits: programs[0].parts.schedule.limits.clone(),
        programs: programs.iter().map(|program| program.info.clone()).collect(),
        synthetic_seed: *synthetic_seed,
        provenance: Some(provenance),
    };
    let source = parameters.as_ref().map(Source);
    let of_kinds: Vec<KindParts> = programs.into_iter().map(|program| program.parts).collect();
    let parts = Parts {
        manifest: &manifest,
        programs: &of_kinds,
        parameters: source.as_ref().map(|source| source as _),
        tokenizer: files.tokenizer.as_deref(),
        tokenizer_config: files.tokenizer_config.as_deref(),
        chat_template: files.chat_template.as_deref().map(str::as_bytes),
    };
    if synthetic_seed.is_none() {
        check_disk(output, weights)?;
    }
    let bytes = link(output, &parts, |done, total| progress.weights(done, total))
        .with_context(|| format!("writing {}", output.display()))?;
    progress.0.finish_and_clear();
    then(source.as_ref(), &of_kinds)?;
    if dump.active() {
        let written = std::fs::read(output).with_context(|| format!("reading {} back", output.display()))?;
        let plan = jamba_plan::Plan::parse(&written).ours("reading the plan back")?;
        dump.write("08.plan.txt", || jamba_plan::text::plan(&plan))?;
    }
    Ok(Summary {
        path: output.clone(),
        bytes,
        memory: manifest.programs.iter().map(|info| info.memory.total(&manifest.limits)).max().unwrap_or(0),
        n_kernels: of_kinds.iter().map(|parts| parts.schedule.kernels.len()).sum(),
        n_steps: of_kinds.iter().flat_map(|parts| &parts.schedule.program.entries).map(|entry| entry.steps.len()).sum(),
        elapsed: began.elapsed(),
    })
}

/// Refuses to begin a plan that its disk has no room for. An old plan of that name stays until the new one is written.
fn check_disk(output: &Path, weights: u64) -> Result<()> {
    let folder = output.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let disk = rustix::fs::statvfs(folder).with_context(|| format!("{}: the folder of the plan", folder.display()))?;
    let free = disk.f_bavail * disk.f_frsize;
    if free < weights {
        bail!(
            "{}: found {free} bytes free on its disk, expected at least {weights} for the weights: make room, write elsewhere \
             with -o, or choose a smaller format (--weights int8, --experts int4)",
            output.display()
        );
    }
    Ok(())
}

fn stored_dtype(parameters: Option<&jamba::Parameters<'_>>, name: &str) -> DType {
    parameters.map_or(DType::Bf16, |parameters| parameters.dtype(name))
}

fn describe(model: &ModelFile, config: &JambaConfig, checkpoint: Option<&Checkpoint>, schedule: &Schedule) -> Model {
    let mut formats: Vec<(String, String)> = Vec::new();
    for (group, experts) in [("linear", false), ("experts", true)] {
        let big = |weight: &&Weight| weight.layout.k > 1 && (weight.layout.groups > 1) == experts;
        let largest = schedule.program.weights.iter().filter(big).max_by_key(|weight| weight.bytes);
        formats.extend(largest.map(|weight| (group.to_owned(), weight.format.name().to_owned())));
    }
    Model {
        name: model.name.clone(),
        n_parameters: jamba::n_parameters(config) as u64,
        n_layers: config.n_layers as u64,
        d_model: config.d_model as u64,
        vocab: config.vocab as u64,
        bos: config.bos,
        eos: checkpoint.map_or(config.eos.as_slice(), Checkpoint::eos).to_vec(),
        formats,
    }
}

/// What a plan was built from: the options in the words of model.toml, and the files.
fn provenance(model: &ModelFile, programs: &[Compiled], digests: Vec<FileDigest>) -> Provenance {
    let as_stored = || "as stored".to_owned();
    let weights = model.weights.default.clone().unwrap_or_else(as_stored);
    let experts = model.weights.experts.clone().unwrap_or_else(|| weights.clone());
    let mut kv_dtypes: Vec<String> = programs.iter().map(|program| program.kv_dtype.to_string()).collect();
    kv_dtypes.dedup();
    let options = [
        ("build.fusion", model.build.fusion.as_text()),
        ("weights.default", weights),
        ("weights.experts", experts),
        ("limits.kv_dtype", kv_dtypes.join(", ")),
    ];
    let file = |digest: FileDigest| SourceFile {
        name: digest.name,
        bytes: digest.bytes,
        blake3: digest.blake3,
        covers: digest.covers.name().to_owned(),
    };
    Provenance {
        llvm: jambac_codegen::toolchain::llvm_version(),
        options: options.map(|(key, value)| (key.to_owned(), value)).to_vec(),
        files: digests.into_iter().map(file).collect(),
    }
}

fn checkpoint_text(parameters: &jamba::Parameters<'_>) -> String {
    let mut text = format!("{:#?}\n", parameters.config());
    for (name, parameter) in parameters.iter() {
        text += &format!("{name} : {}{:?}\n", parameter.dtype, parameter.shape);
    }
    text
}

/// Text forms of the phases, written where `--dump-dir` says.
struct Dumps<'a> {
    folder: Option<&'a Path>,
    failed: std::cell::RefCell<Option<anyhow::Error>>,
}

impl<'a> Dumps<'a> {
    fn new(folder: Option<&'a Path>) -> Result<Dumps<'a>> {
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        Ok(Dumps { folder, failed: None.into() })
    }

    fn active(&self) -> bool {
        self.folder.is_some()
    }

    fn write(&self, name: &str, text: impl FnOnce() -> String) -> Result<()> {
        let Some(folder) = self.folder else { return Ok(()) };
        let path = folder.join(name);
        std::fs::write(&path, text()).with_context(|| format!("writing {}", path.display()))
    }

    /// Keeps the first error of a callback that cannot return one.
    fn fail(&self, error: anyhow::Error) {
        self.failed.borrow_mut().get_or_insert(error);
    }

    fn finish(&self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
}
