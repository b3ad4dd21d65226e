//! `jambac`, the compiler's command line: one subcommand a file.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use jambac::{build, doctor, fit, graph, inspect, losses, manual, opt};

/// Compiles AI21's Jamba models ahead of time into one plan file that `jamba` runs.
#[derive(Parser)]
#[command(
    name = "jambac",
    version,
    after_help = "Exit codes: 0 done; 1 the input is at fault; 2 usage; 3 a fault of jambac's own."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compile a model file or a checkpoint's folder into a plan.
    Build(Build),
    /// Print what a plan holds.
    Inspect(Inspect),
    /// Print a model's memory within a card's, without its weights at hand.
    Fit(Fit),
    /// Print the layer graph of a model.
    Graph(Graph),
    /// Run passes over a graph in its text form.
    Opt(Opt),
    /// Say what building and running plans needs, what of it is here, and which command mends the rest.
    Doctor(Doctor),
    /// Print the script that completes jambac's command lines in a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print jambac's manual page, or a subcommand's.
    Man(Man),
}

/// What model.toml says, said on the command line instead.
#[derive(Args)]
struct Model {
    /// A model.toml, or a checkpoint's folder.
    path: PathBuf,
    /// A target: x86-64-v2, x86-64-v3, x86-64-v4, x86-64-v4-vnni, native, or sm_90a for H100 and H200. May be given more
    /// than once.
    #[arg(long = "target", value_name = "T")]
    targets: Vec<String>,
    /// Which fusions run: all, none, or names of passes with commas between them.
    #[arg(long, value_name = "all|none|LIST")]
    fusion: Option<String>,
    /// Weight format of all linear layers: f32, bf16, int8 or int4. Default: as the checkpoint stores them. Routers and the
    /// embedding table never become integers.
    #[arg(long, value_name = "FORMAT")]
    weights: Option<String>,
    /// Weight format of the experts alone.
    #[arg(long, value_name = "FORMAT")]
    experts: Option<String>,
    /// Stored type of keys and values: f32 or bf16.
    #[arg(long, value_name = "f32|bf16")]
    kv: Option<String>,
    /// Tokens of one sequence.
    #[arg(long, value_name = "N")]
    max_context: Option<u64>,
    /// Sequences at once.
    #[arg(long, value_name = "N")]
    max_sequences: Option<u64>,
    /// Tokens of KV cache, all sequences together.
    #[arg(long, value_name = "N")]
    kv_tokens: Option<u64>,
    /// Tokens of one prefill step.
    #[arg(long, value_name = "N")]
    prefill_chunk: Option<u64>,
    /// Rows of logits that one prefill step can return.
    #[arg(long, value_name = "N")]
    max_outputs: Option<u64>,
}

impl Model {
    fn open(self) -> anyhow::Result<jambac::manifest::ModelFile> {
        let mut model = jambac::manifest::ModelFile::open(&self.path)?;
        if !self.targets.is_empty() {
            model.build.targets = self.targets;
        }
        if let Some(fusion) = self.fusion {
            model.build.fusion = jambac::manifest::Fusion::Word(fusion);
        }
        model.weights.default = self.weights.or(model.weights.default);
        model.weights.experts = self.experts.or(model.weights.experts);
        let limits = &mut model.limits;
        limits.kv_dtype = self.kv.or(limits.kv_dtype.take());
        limits.max_context = self.max_context.unwrap_or(limits.max_context);
        limits.max_sequences = self.max_sequences.unwrap_or(limits.max_sequences);
        // A pool that was sized for other limits does not outlive them.
        if self.kv_tokens.is_some() || self.max_context.is_some() || self.max_sequences.is_some() {
            limits.kv_tokens = self.kv_tokens;
        }
        limits.prefill_chunk = self.prefill_chunk.unwrap_or(limits.prefill_chunk);
        limits.max_outputs = self.max_outputs.unwrap_or(limits.max_outputs);
        model.check()?;
        Ok(model)
    }
}

#[derive(Args)]
struct Build {
    #[command(flatten)]
    model: Model,
    /// The plan to write.
    #[arg(short, value_name = "OUT.plan")]
    output: PathBuf,
    /// Draw weights from this seed instead of reading a checkpoint: config.json is enough, and the plan holds the seed.
    #[arg(long, value_name = "SEED")]
    synthetic_weights: Option<u64>,
    /// Write the text form of every phase into this folder.
    #[arg(long, value_name = "DIR")]
    dump_dir: Option<PathBuf>,
    /// Write what each parameter lost as it was packed into this file: a table, or JSON where its name ends in .json; - is
    /// stdout. Reads the checkpoint once more.
    #[arg(long, value_name = "FILE|-", conflicts_with = "synthetic_weights")]
    report_quantization: Option<PathBuf>,
}

#[derive(Args)]
struct Inspect {
    /// The plan.
    plan: PathBuf,
    /// One JSON document.
    #[arg(long)]
    json: bool,
    /// The memory an open plan takes, and the map of its arena.
    #[arg(long)]
    memory: bool,
    /// Draw the map of the arena, steps to the right and bytes upwards, into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write one page that shows everything into this file: pools, weights, layers, the arena, steps.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Operations that the machine does in the time of a byte, which says what bounds a step. Default: 10, a CPU's, and
    /// 295 of a program for sm_90a, an H100's.
    #[arg(long, value_name = "N", value_parser = positive)]
    balance: Option<f64>,
    /// The steps of each entry.
    #[arg(long)]
    steps: bool,
    /// The kernels and how often each is called.
    #[arg(long)]
    kernels: bool,
    /// Disassembly of one kernel; PTX of one of a GPU.
    #[arg(long, value_name = "KERNEL")]
    asm: Option<String>,
    /// The kind of target to look at, where the plan has several: `cpu`, `sm_90a`. Default: the plan's first.
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Steps, barriers, bytes and operations of another plan, and of this one.
    #[arg(long, value_name = "OTHER.plan")]
    against: Option<PathBuf>,
}

#[derive(Args)]
struct Doctor {
    /// A plan that this machine should run.
    plan: Option<PathBuf>,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Man {
    /// The subcommand.
    subcommand: Option<String>,
    /// Write all pages into this folder.
    #[arg(long, value_name = "DIR", conflicts_with = "subcommand")]
    dir: Option<PathBuf>,
}

#[derive(Args)]
struct Fit {
    #[command(flatten)]
    model: Model,
    /// The memory to fit in: bytes, or with a unit (80GB, 24GiB).
    #[arg(long, value_name = "SIZE")]
    memory: String,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Graph {
    #[command(flatten)]
    model: Model,
    /// Graphviz instead of the text form.
    #[arg(long, conflicts_with = "svg")]
    dot: bool,
    /// A drawing instead of the text form.
    #[arg(long)]
    svg: bool,
    /// The graph before any pass.
    #[arg(long)]
    unfused: bool,
}

#[derive(Args)]
struct Opt {
    /// A graph in its text form.
    #[arg(required_unless_present = "list")]
    graph: Option<PathBuf>,
    /// Passes to run, in the pipeline's order. Default: all.
    #[arg(long = "pass", value_name = "NAME")]
    passes: Vec<String>,
    /// Print the difference instead of the result.
    #[arg(long)]
    diff: bool,
    /// Stop after this many rewrites and say what the last one was.
    #[arg(long, value_name = "N")]
    bisect: Option<u64>,
    /// Print the graph after every pass, on stderr.
    #[arg(long)]
    print_after_all: bool,
    /// List the passes, and why each stands where it does.
    #[arg(long)]
    list: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("expected a number above 0".to_owned()),
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Build(Build { model, output, synthetic_weights, dump_dir, report_quantization }) => {
            let progress = build::Progress::on_terminal();
            let model = model.open()?;
            let request = build::Request { model, output, synthetic_seed: synthetic_weights, dump_dir };
            let summary =
                build::build_then(&request, &progress, |source, programs| match (source, report_quantization) {
                    (Some(source), Some(to)) => losses::write(source, programs, &to),
                    _ => Ok(()),
                })?;
            eprintln!("{summary}");
            Ok(())
        }
        Command::Inspect(Inspect { plan, json, memory, svg, html, balance, steps, kernels, asm, kind, against }) => {
            inspect::run(&plan, &inspect::What { json, memory, svg, html, balance, steps, kernels, asm, kind, against })
        }
        Command::Fit(Fit { model, memory, json }) => fit::run(&model.open()?, &memory, json),
        Command::Graph(Graph { model, dot, svg, unfused }) => {
            let form = if dot {
                graph::Form::Dot
            } else if svg {
                graph::Form::Svg
            } else {
                graph::Form::Text
            };
            let stage = if unfused { graph::Stage::Unfused } else { graph::Stage::Optimized };
            graph::run(&model.open()?, form, stage)
        }
        Command::Opt(Opt { graph: Some(graph), passes, diff, bisect, print_after_all, list: false }) => {
            opt::run(&graph, &opt::What { passes, diff, bisect, print_after_all })
        }
        Command::Opt(_) => opt::list(),
        Command::Doctor(Doctor { plan, json }) => doctor::run(plan.as_deref(), json),
        Command::Completions { shell } => manual::completions(Cli::command(), shell),
        Command::Man(Man { dir: Some(folder), .. }) => manual::write_pages(Cli::command(), &folder),
        Command::Man(Man { subcommand, dir: None }) => manual::page(Cli::command(), subcommand.as_deref()),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse(); // usage errors exit with 2
    jambac::report::guard(|| run(cli.command))
}
