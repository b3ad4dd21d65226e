//! `jambac build`: a model file or a checkpoint into a plan, or into the text form of a phase.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use jamba_plan::format::TargetKind;
use jamba_plan::output::{Kind, Output, Outputs, Replace};
use jamba_runtime::{PlanFile, SigningKey, Verify, signature_of};
use jambac_codegen::pack::Measure;
use jambac_passes::PassManager;

use crate::bisect::{self, Verdict};
use crate::cached::{Cached, Found};
use crate::calibrate::{self, Text};
use crate::compile::{self, Outcome, Phase, Progress, Request, Resume, Spent};
use crate::locate::branches_of;
use crate::manifest::ModelFile;
use crate::model::ModelArgs;
use crate::outputs::{ForceArg, LOSSES, PHASE, SIGNATURE, claim, is_phase_file};
use crate::report::{print, print_raw, tell};
use crate::{defaults, fit, losses, precision, serving};

/// The options of `jambac build`.
#[derive(Args)]
pub struct Build {
    #[command(flatten)]
    model: ModelArgs,
    /// The plan to write; - is stdout. With --emit PHASE: the file for that phase's text.
    #[arg(short, value_name = "OUT.plan", required_unless_present_any = ["emit", "bisect", "cached"])]
    output: Option<PathBuf>,
    /// Build into the user's cache ($XDG_CACHE_HOME/jambac) unless the plan is there already, and print its path. A plan that is
    /// damaged, or whose model changed, is built again.
    #[arg(long, conflicts_with_all = ["output", "emit", "dump_dir", "from", "report_quantization", "lora"])]
    cached: bool,
    /// With --cached: build the plan again although it is there.
    #[arg(long, requires = "cached")]
    rebuild: bool,
    /// With --cached: do not compare the weights of a plan that is there with their digest, which reads all of them.
    #[arg(long, requires = "cached")]
    trust_weights: bool,
    /// Draw weights from this seed instead of reading a checkpoint: config.json is enough, and the plan holds the seed.
    #[arg(long, value_name = "SEED", conflicts_with = "lora")]
    synthetic_weights: Option<u64>,
    /// The chat template: the name of one of the checkpoint's, or a file. Default: all of the checkpoint's.
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// Write the text form of every phase into this folder.
    #[arg(long, value_name = "DIR")]
    dump_dir: Option<PathBuf>,
    /// Stop after a phase and print its text form: checkpoint, graph, optimized, schedule, mlir, llvm-dialect, llvm-ir or
    /// assembly.
    #[arg(long, value_name = "PHASE", value_parser = stop, conflicts_with = "report_quantization")]
    emit: Option<Phase>,
    /// Start from the text form of a phase: graph or optimized, and one file with both entries' graphs or one file for each.
    /// Put this option after the model. The phases before it are skipped; the model still gives weights, targets and limits.
    #[arg(long, num_args = 2..=3, value_names = ["PHASE", "FILE"])]
    from: Option<Vec<String>>,
    /// The text with which integer weights are calibrated, so that the rounding errors of inputs compensate each other: self
    /// (samples of the model), a file, or none (rounding to nearest). Default: self if there are int4 or int3 weights.
    #[arg(long, value_name = "self|none|FILE", value_parser = calibrate::text, conflicts_with = "synthetic_weights")]
    calibrate: Option<Text>,
    /// Write the quantization error of each parameter to this file: a table, or JSON where the name ends in .json; - is
    /// stdout.
    #[arg(long, value_name = "FILE|-", conflicts_with = "synthetic_weights")]
    report_quantization: Option<PathBuf>,
    /// Find the first rewrite of a pass after which a plan computes other logits than the interpreter, instead of writing a
    /// plan. For small models with weights, on this CPU.
    #[arg(long, conflicts_with_all = ["output", "synthetic_weights", "dump_dir", "emit", "from", "report_quantization", "cached", "lora"])]
    bisect: bool,
    /// Choose context, sequences and tokens of keys and values for a server with this memory: bytes, or a number with a unit
    /// (80G, 24GiB). Limits of model.toml and of options stay.
    #[arg(long, value_name = "MEMORY", value_parser = fit::bytes, conflicts_with_all = ["bisect", "cached"])]
    for_serving: Option<u64>,
    /// What the open plan takes with --weights auto: bytes, or a number with a unit (32G, 24GiB). Default: three quarters of this
    /// machine's memory, for sm_90a of 80 GB.
    #[arg(long, value_name = "SIZE", value_parser = fit::bytes)]
    memory: Option<u64>,
    /// Sign the plan with this Ed25519 key of ssh-keygen, without a passphrase, and write the signature to OUT.plan.sig. `jamba run
    /// --trusted-keys` checks it.
    #[arg(long, value_name = "KEY", conflicts_with_all = ["emit", "bisect", "cached"])]
    sign: Option<PathBuf>,
    #[command(flatten)]
    force: ForceArg,
    /// Print the time and the peak memory of each phase.
    #[arg(short, long)]
    verbose: bool,
}

/// A phase to stop at. The last one is the whole build, which `jambac inspect` prints.
fn stop(name: &str) -> Result<Phase> {
    let phase: Phase = name.parse()?;
    ensure!(phase != Phase::Plan, "found plan, expected an earlier phase: `jambac inspect` prints a plan");
    Ok(phase)
}

/// Runs the subcommand.
pub fn run(mut options: Build) -> Result<()> {
    let progress = Progress::on_terminal();
    let mut model = options.model.clone().open()?;
    let formats = precision::resolve(&mut model, options.memory)?;
    ensure!(
        options.memory.is_none() || formats.is_some(),
        "--memory: found no --weights auto, whose formats it decides; --for-serving and `jambac fit` choose limits"
    );
    choose_text(&mut model, &options)?;
    let cached = match options.cached {
        true => Some(Cached::new(&model, options.synthetic_weights, options.chat_template.as_deref())?),
        false => None,
    };
    if let Some(cached) = &cached {
        let path = cached.plan();
        let verify = if options.trust_weights { Verify::AllButWeights } else { Verify::Everything };
        match if options.rebuild { Found::Nothing } else { cached.find(verify) } {
            Found::Plan => return print_raw(&format!("{}\n", path.display())),
            Found::Stale(reason) => tell(&format!("jambac: {}: {reason}: building it again", path.display())),
            Found::Nothing => {}
        }
        options.output = Some(path.to_owned());
    }
    // Whatever is at a plan's place in the cache gives way.
    let replace = if options.cached { Replace::AnyFile } else { options.force.replace() };
    let mut outputs = Outputs::new(replace);
    let branches = branches_of(&model.checkpoint);
    let template = options.chat_template.as_deref().map(Path::new);
    let inputs = [Some(options.model.path()), Some(&*model.checkpoint), branches.as_deref(), template];
    inputs.into_iter().flatten().for_each(|input| outputs.reads(input));
    let key = options.sign.as_deref().map(SigningKey::read).transpose().context("--sign")?;
    let Claimed { text, report, signature } = Claimed::new(&mut outputs, &options)?;
    let from = options.from.as_deref().and_then(<[String]>::split_first);
    let from = from.map(|(phase, files)| {
        let phase = phase.parse().context("--from")?;
        Resume::read(phase, &files.iter().map(PathBuf::from).collect::<Vec<_>>())
    });
    let chosen = match options.for_serving {
        Some(memory) => Some(serving::choose(&mut model, memory)?.to_string()),
        None if options.bisect => None,
        None => defaults::choose(&mut model)?.map(|chosen| chosen.to_string()),
    };
    let request = Request {
        synthetic_seed: options.synthetic_weights,
        dump_dir: options.dump_dir,
        from: from.transpose()?,
        emit: options.emit,
        replace,
        chat_template: options.chat_template,
        measure: if report.is_some() { Measure::Loss } else { Measure::Nothing },
        ..Request::new(model, options.output.clone().unwrap_or_default())
    };
    if options.bisect {
        return bisect(&request, &progress);
    }
    let built = match compile::run(&request, &progress)? {
        Outcome::Built(built) => built,
        Outcome::Text(emitted) => {
            return match text {
                Some(file) => Ok(file.write(emitted.as_bytes())?),
                None => print(&emitted),
            };
        }
    };
    if let Some(to) = report {
        losses::write(&built.losses, to)?;
    }
    if let (Some(key), Some(file)) = (key, signature) {
        file.write(key.sign(digest(&request.output)?)?.as_bytes())?;
    }
    if options.verbose {
        tell(spent_table(&built.summary.spent).trim_end());
    }
    formats.iter().for_each(|formats| tell(&formats.to_string()));
    if let Some(chosen) = chosen {
        tell(&chosen);
    }
    tell(&built.summary.to_string());
    match cached {
        Some(cached) => {
            cached.keep()?;
            // A program reads the path.
            print_raw(&format!("{}\n", request.output.display()))
        }
        None => Ok(()),
    }
}

/// Sets the text of the calibration.
fn choose_text(model: &mut ModelFile, options: &Build) -> Result<()> {
    let weights = &mut model.weights;
    weights.calibrate = options.calibrate.clone().or_else(|| weights.calibrate.take());
    if weights.calibrate.is_none() && weights.has_few_bits() && options.synthetic_weights.is_none() {
        weights.calibrate = Some(Text::Samples);
    }
    if let Some(Text::File(path)) = &weights.calibrate {
        // A plan in the cache is found again by its inputs, and the text is not one of them.
        ensure!(!options.cached, "--cached: found --calibrate {}, expected self or none", path.display());
    }
    Ok(())
}

/// The outputs of a build, checked before it begins. The pipeline opens the plan and the dumped texts itself.
struct Claimed {
    /// The file of --emit.
    text: Option<Output>,
    report: Option<Output>,
    signature: Option<Output>,
}

impl Claimed {
    fn new(outputs: &mut Outputs, options: &Build) -> Result<Claimed> {
        for file in options.from.iter().flatten().skip(1) {
            outputs.reads(Path::new(file));
        }
        let folder_of = |file: &Option<PathBuf>| file.as_deref().and_then(Path::parent).map(Path::to_owned);
        let folders = [folder_of(&options.output), folder_of(&options.report_quantization)];
        if options.dump_dir.is_some() && folders.contains(&options.dump_dir) {
            options.dump_dir.iter().try_for_each(|folder| outputs.folder("--dump-dir", folder))?;
        }
        let kind = if options.emit.is_some() { PHASE } else { Kind::PLAN };
        let output = claim(outputs, "-o", options.output.as_deref(), kind)?;
        let report = claim(outputs, "--report-quantization", options.report_quantization.as_deref(), LOSSES)?;
        let signature = match (&options.sign, &output) {
            (Some(_), Some(plan)) if plan.is_stdout() => bail!("--sign: found -o -, expected a file for the plan"),
            (Some(key), Some(_)) => {
                outputs.reads(key);
                let path = options.output.as_deref().map(signature_of);
                claim(outputs, "--sign", path.as_deref(), SIGNATURE)?
            }
            _ => None,
        };
        if let Some(folder) = &options.dump_dir {
            let is_stdout = output.as_ref().is_some_and(Output::is_stdout);
            ensure!(!is_stdout || options.emit.is_some(), "--dump-dir: found -o -, expected a file for the plan");
            outputs.fills("--dump-dir", folder, PHASE, is_phase_file)?;
        }
        Ok(Claimed { text: output.filter(|_| options.emit.is_some()), report, signature })
    }
}

/// The digest of a plan that was just built.
fn digest(plan: &Path) -> Result<blake3::Hash> {
    let file = PlanFile::open(plan)?;
    Ok(file.plan(Verify::AllButWeights, &mut |_, _| ())?.digest())
}

fn bisect(request: &Request, progress: &Progress) -> Result<()> {
    let fusion = compile::fusion(&request.model, TargetKind::Cpu);
    let verdict = bisect::bisect(request, &|| PassManager::new(&fusion), progress)?;
    print(&format!("{verdict}\n"))?;
    match verdict {
        Verdict::Agrees { .. } => Ok(()),
        Verdict::Unoptimized { .. } => bail!("the plan differs from the interpreter without any pass"),
        Verdict::Rewrite(finding) => bail!("the plan differs from the interpreter after {}", finding.place),
    }
}

fn spent_table(spent: &[Spent]) -> String {
    let head = ["seconds", "peak MB", "phase"].map(str::to_owned);
    let row = |spent: &Spent| {
        let peak = spent.peak_bytes.map_or("?".to_owned(), |bytes| format!("{:.1}", bytes as f64 / 1e6));
        [format!("{:.3}", spent.time.as_secs_f64()), peak, spent.work.clone()]
    };
    jamba_plan::text::table(std::iter::once(head).chain(spent.iter().map(row)), |column| column == 2)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn phases_are_listed_with_time_and_memory() {
        let spent = [
            Spent { work: "graph".into(), time: Duration::from_millis(12), peak_bytes: Some(3_400_000) },
            Spent { work: "weights and plan".into(), time: Duration::from_secs(2), peak_bytes: None },
        ];
        let table = spent_table(&spent);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["seconds", "peak", "MB", "phase"]);
        assert_eq!(lines[1], ["0.012", "3.4", "graph"]);
        assert_eq!(lines[2], ["2.000", "?", "weights", "and", "plan"]);
    }

    #[test]
    fn a_plan_is_not_a_phase_to_stop_at() {
        assert_eq!(stop("schedule").unwrap(), Phase::Schedule);
        assert!(stop("plan").unwrap_err().to_string().contains("jambac inspect"));
    }
}
