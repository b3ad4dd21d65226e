//! `jambac inspect`: the contents of a plan, and a comparison of its work with another plan's.

pub mod document;
pub mod drawing;
pub mod layers;
pub mod measured;
pub mod memory;
pub mod page;
pub mod work;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use jamba_plan::Plan;
use jamba_plan::format::{Pick, Program, ProgramInfo, Step, TargetKind};
use jamba_plan::output::unfinished;
use jamba_plan::text::Units;
use jamba_runtime::{PlanFile, Verify};

use crate::outputs::{DRAWING, ForceArg, PAGE, claim};
use crate::report::{Ours, check_plan, print};
use document::{Against, Document, calls};

/// The options of `jambac inspect`. Without any, it prints a summary.
#[derive(Args)]
pub struct Inspect {
    /// The plan.
    plan: PathBuf,
    #[command(flatten)]
    parts: Parts,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// Draw the map of the arena into this file, - for stdout: steps to the right, bytes upwards.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write one page with pools, weights, layers, arena and steps into this file; - is stdout.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Join measured times to the page of --html: the output of `jamba bench PLAN --json`, or a file of `jamba run PLAN
    /// --trace`. May be repeated.
    #[arg(long, value_name = "FILE", requires = "html")]
    measured: Vec<PathBuf>,
    /// Disassemble one kernel; of a GPU's kernel, print the PTX.
    #[arg(long, value_name = "KERNEL")]
    asm: Option<String>,
    /// The kind of target, where the plan has several: `cpu`, `sm_90a`. Default: the plan's first.
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Print steps, barriers, bytes and operations of another plan next to those of this one, or show them on the page of
    /// --html.
    #[arg(long, value_name = "OTHER.plan")]
    against: Option<PathBuf>,
    #[command(flatten)]
    force: ForceArg,
}

/// The parts of a plan to print.
#[derive(Args, Clone, Copy, Default)]
pub struct Parts {
    /// The memory of an open plan, and the map of its arena.
    #[arg(long)]
    pub memory: bool,
    /// The steps of each entry.
    #[arg(long)]
    pub steps: bool,
    /// The kernels and how often each is called.
    #[arg(long)]
    pub kernels: bool,
    /// Operations per byte of the machine, above which operations bound a step instead of bytes. Default: 10 for CPUs, 295 (an
    /// H100's) for sm_90a.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub balance: Option<f64>,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("expected a number above 0".to_owned()),
    }
}

/// What a plan holds for one kind of target.
#[derive(Clone, Copy)]
pub struct OfKind<'a> {
    pub plan: &'a Plan<'a>,
    pub info: &'a ProgramInfo,
    pub program: &'a Program,
}

impl<'a> OfKind<'a> {
    /// Of a kind of target by name, or of the plan's first.
    fn of(plan: &'a Plan<'a>, kind: Option<&str>) -> Result<OfKind<'a>> {
        let found = match kind {
            None => Some(plan.first()),
            Some(kind) => plan.programs().find(|(info, _)| info.kind.name() == kind),
        };
        let (info, program) = found.with_context(|| {
            let kinds: Vec<&str> = plan.programs().map(|(info, _)| info.kind.name()).collect();
            format!("--kind: found {}, expected one that the plan has: {}", kind.unwrap_or_default(), kinds.join(", "))
        })?;
        Ok(OfKind { plan, info, program })
    }
}

/// Runs the subcommand.
pub fn run(options: &Inspect) -> Result<()> {
    let inputs = std::iter::once(&options.plan).chain(&options.against).map(PathBuf::as_path);
    let mut outputs = options.force.outputs(inputs);
    let svg = claim(&mut outputs, "--svg", options.svg.as_deref(), DRAWING)?;
    let html = claim(&mut outputs, "--html", options.html.as_deref(), PAGE)?;
    let wrote_file = svg.is_some() || html.is_some();
    check_plan(&options.plan)?;
    let file = PlanFile::open(&options.plan)?;
    let plan = checked(&file)?;
    let of_kind = OfKind::of(&plan, options.kind.as_deref())?;
    if let Some(symbol) = &options.asm {
        return print(&disassemble(of_kind, symbol)?);
    }
    if let Some(svg) = svg {
        svg.write(drawing::program(of_kind.program).as_bytes())?;
    }
    let other = options.against.as_ref().map(|path| PlanFile::open(path)).transpose()?;
    let before = other.as_ref().map(checked).transpose()?;
    let before = before.as_ref().map(|before| OfKind::of(before, Some(of_kind.info.kind.name()))).transpose()?;
    if let Some(html) = html {
        let digest = plan.digest().to_hex();
        let measured = options.measured.iter().map(|path| measured::read(path, &digest)).collect::<Result<_>>()?;
        let against = options.against.as_ref().zip(before).map(|(path, before)| Against::new(path, before));
        let page = page::page(of_kind, options.parts.balance, page::Beside { measured, against })?;
        html.write(page.as_bytes())?;
    }
    if let Some(before) = before {
        return match options.html {
            Some(_) => Ok(()),
            None => print(&work::compare(before.program, of_kind.program)),
        };
    }
    if options.json {
        let document = Document::new(of_kind, options.parts);
        return print(&(serde_json::to_string_pretty(&document).ours("inspect")? + "\n"));
    }
    let tables = tables(of_kind, options.parts);
    print(&if tables.is_empty() && !wrote_file { summary(&plan) } else { tables })
}

fn tables(of_kind: OfKind<'_>, parts: Parts) -> String {
    let mut text = String::new();
    if parts.memory {
        text += &jamba_plan::text::memory(of_kind.plan.manifest(), Units::Human);
        text += &memory::table(of_kind.program);
    }
    if parts.kernels {
        text += &kernel_table(of_kind);
    }
    if parts.steps {
        text += &step_table(of_kind.program);
    }
    text
}

fn summary(plan: &Plan<'_>) -> String {
    [
        jamba_plan::text::manifest(plan.manifest()),
        jamba_plan::text::memory(plan.manifest(), Units::Human),
        jamba_plan::text::sections(plan, Units::Human),
        plan.programs().map(|(info, program)| step_counts(info, program)).collect(),
    ]
    .join("\n")
}

/// A mapped plan. The weights' digest is not checked: they may be larger than memory, and nothing here reads them.
fn checked(file: &PlanFile) -> Result<Plan<'_>> {
    file.plan(Verify::AllButWeights, &mut |_, _| ()).with_context(|| format!("{} is refused", file.path().display()))
}

fn step_counts(info: &ProgramInfo, program: &Program) -> String {
    let mut text = String::new();
    for entry in &program.entries {
        // Of the alternative steps that pick tokens, a run executes one.
        let steps = entry.steps_of(entry.picks.map(|_| Pick::Likeliest)).count();
        let (kind, entry_kind) = (info.kind.name(), entry.kind.name());
        let _ = match info.kind {
            TargetKind::Cpu => {
                let barriers = entry.steps.iter().filter(|step| step.barrier).count();
                writeln!(text, "{kind} {entry_kind}: {steps} steps, {barriers} barriers")
            }
            TargetKind::Sm90a => {
                writeln!(text, "{kind} {entry_kind}: {steps} launches, up to {} tokens", entry.max_tokens)
            }
        };
    }
    text
}

/// The steps of each entry with their work; `|` marks steps behind a barrier.
fn step_table(program: &Program) -> String {
    let mut text = String::new();
    for entry in &program.entries {
        let _ = writeln!(text, "{}: {} tokens of one sequence", entry.kind.name(), work::size(entry).tokens);
        let head = ["step", "kB", "kFLOP", "", "kernel and source"].map(str::to_owned);
        let works = work::of_steps(entry);
        let rows = entry.steps.iter().zip(works).enumerate().map(|(index, (step, work))| {
            let args: Vec<String> = step.args.iter().map(|&arg| jamba_plan::text::argument(arg)).collect();
            let symbol = &program.kernels[step.kernel as usize].symbol;
            [
                index.to_string(),
                format!("{:.1}", work.bytes / 1e3),
                format!("{:.1}", work.operations / 1e3),
                if step.barrier { "|" } else { "" }.to_owned(),
                format!("{symbol}({}){}  ; {}", args.join(", "), launch_text(step), step.source),
            ]
        });
        text += &jamba_plan::text::table(std::iter::once(head).chain(rows), |column| column == 4);
    }
    text
}

/// The launch of a GPU step, printed after its arguments.
fn launch_text(step: &Step) -> String {
    step.launch.map_or(String::new(), |launch| format!(" <{}>", jamba_plan::text::launch(&launch)))
}

fn kernel_table(OfKind { info, program, .. }: OfKind<'_>) -> String {
    let names: Vec<String> =
        (0..program.entries.len()).map(|entry| jamba_plan::text::entry_name(&program.entries, entry)).collect();
    let mut text = format!("kernels: calls in {}, symbol\n", names.join(", "));
    for (kernel, calls) in calls(program) {
        let calls: Vec<String> = calls.iter().map(|n| format!("{n:>5}")).collect();
        let mut steps = program.entries.iter().flat_map(|entry| &entry.steps);
        let launch = steps.find(|step| step.kernel == kernel).map_or(String::new(), launch_text);
        let _ = writeln!(text, "  {}  {}{launch}", calls.join(" "), program.kernels[kernel as usize].symbol);
    }
    for kernel in &info.draw_kernels {
        let launch = jamba_plan::text::launch(&kernel.launch);
        let _ = writeln!(text, "  draws {} weights: {} <{launch}>", kernel.format.name(), kernel.symbol);
    }
    text
}

fn disassemble(OfKind { plan, info, program }: OfKind<'_>, symbol: &str) -> Result<String> {
    let draws = info.draw_kernels.iter().map(|kernel| &kernel.symbol);
    if !program.kernels.iter().map(|kernel| &kernel.symbol).chain(draws).any(|known| known == symbol) {
        bail!("--asm: found {symbol}, expected a kernel of the plan (inspect --kernels lists them)");
    }
    let target = info.targets.first().context("the plan names no target")?;
    let code = plan.code(target).context("the plan holds no code")?;
    if info.kind == TargetKind::Sm90a {
        let ptx = std::str::from_utf8(code).context("the plan's PTX is no text")?;
        return ptx_of(ptx, symbol).with_context(|| format!("--asm: the plan's PTX has no entry {symbol}"));
    }
    let folder = unfinished::Entry::folder().context("a temporary folder for the code")?;
    let file = folder.path().join("code.so");
    std::fs::write(&file, code).context("writing the code")?;
    let tool = concat!(env!("LLVM_SYS_191_PREFIX"), "/bin/llvm-objdump");
    let output = limited(tool)
        .args(["--disassemble", "--no-show-raw-insn", &format!("--disassemble-symbols={symbol},{symbol}.body")])
        .arg(&file)
        .output()
        .with_context(|| format!("running {tool}; compiler/setup installs it"))?;
    if !output.status.success() {
        bail!("{tool} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    // The heading names the temporary file.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let listing = text.split_once("Disassembly of section .text:").map_or(text.as_str(), |(_, listing)| listing);
    Ok(format!("; {target}{listing}"))
}

/// A program that reads a stranger's code, which LLVM's tools do not promise to survive: with a minute of CPU time and 8 GiB of addresses.
fn limited(tool: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -t 60 && ulimit -v 8388608 && exec \"$0\" \"$@\"", tool]);
    command
}

/// The entry of a kernel in PTX, from its heading to its closing brace.
fn ptx_of(ptx: &str, symbol: &str) -> Option<String> {
    let heading =
        |line: &&str| line.contains(&format!(".entry {symbol}(")) || line.ends_with(&format!(".entry {symbol}"));
    let lines: Vec<&str> = ptx.lines().collect();
    let begin = lines.iter().position(heading)?;
    let length = lines[begin..].iter().position(|&line| line == "}")?;
    Some(lines[begin..=begin + length].join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_reads_strangers_code_has_limits() {
        let output =
            limited("/bin/sh").args(["-c", "ulimit -t; ulimit -v; echo \"$1\"", "sh", "a b"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "60\n8388608\na b\n");
    }
}
