//! `jambac inspect`: what a plan holds, in whole or in part, and how it differs from another.

pub mod document;
pub mod drawing;
pub mod layers;
pub mod memory;
pub mod page;
pub mod work;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use jamba_plan::Plan;
use jamba_plan::format::{Pick, Program, ProgramInfo, Step, TargetKind};
use jamba_runtime::{PlanFile, Verify};

use crate::report::{Ours, print};
use document::{Document, calls};

/// Which parts to print; none of them means a summary.
#[derive(Clone, Default)]
pub struct What {
    /// One JSON document.
    pub json: bool,
    /// The memory of an open plan, and the map of its arena.
    pub memory: bool,
    /// Where the map of the arena is drawn.
    pub svg: Option<PathBuf>,
    /// Where the page that shows everything is written.
    pub html: Option<PathBuf>,
    /// Operations that a machine does in the time of a byte; a CPU's, unless given.
    pub balance: Option<f64>,
    /// The steps.
    pub steps: bool,
    /// The kernels.
    pub kernels: bool,
    /// Disassembly of this kernel, or its PTX.
    pub asm: Option<String>,
    /// The kind of target to look at; the plan's first, unless given.
    pub kind: Option<String>,
    /// The plan to compare this one with.
    pub against: Option<PathBuf>,
}

/// Prints the parts asked for.
pub fn run(path: &Path, what: &What) -> Result<()> {
    let file = PlanFile::open(path)?;
    let plan = checked(&file)?;
    let of_kind = of_kind(&plan, what.kind.as_deref())?;
    let (manifest, program) = (plan.manifest(), of_kind.1);
    if let Some(symbol) = &what.asm {
        return print(&disassemble(&plan, of_kind, symbol)?);
    }
    if let Some(drawing) = &what.svg {
        std::fs::write(drawing, drawing::program(program)).with_context(|| format!("writing {}", drawing.display()))?;
    }
    if let Some(page) = &what.html {
        std::fs::write(page, page::page(&plan, of_kind, what)?)
            .with_context(|| format!("writing {}", page.display()))?;
    }
    if let Some(other) = &what.against {
        let file = PlanFile::open(other)?;
        let before = checked(&file)?;
        let before = self::of_kind(&before, Some(of_kind.0.kind.name()))?;
        return print(&work::compare(before.1, program));
    }
    if what.json {
        let document = Document::new(&plan, of_kind, what);
        return print(&(serde_json::to_string_pretty(&document).ours("inspect")? + "\n"));
    }
    let mut text = String::new();
    if what.memory {
        text += &jamba_plan::text::memory(manifest);
        text += &memory::table(program);
    }
    if what.kernels {
        text += &kernel_table(of_kind);
    }
    if what.steps {
        text += &step_table(program);
    }
    if text.is_empty() && what.svg.is_none() && what.html.is_none() {
        text = [
            jamba_plan::text::manifest(manifest),
            jamba_plan::text::memory(manifest),
            jamba_plan::text::sections(&plan),
            plan.programs().map(|(info, program)| step_counts(info, program)).collect(),
        ]
        .join("\n");
    }
    print(&text)
}

/// A mapped plan, checked in all but its weights: they may be larger than the machine's memory, and nothing here reads them.
fn checked(file: &PlanFile) -> Result<Plan<'_>> {
    file.plan(Verify::AllButWeights, &mut |_, _| ()).with_context(|| format!("{} is refused", file.path().display()))
}

/// The program of a kind of target, or the plan's first.
fn of_kind<'a>(plan: &'a Plan<'_>, kind: Option<&str>) -> Result<(&'a ProgramInfo, &'a Program)> {
    let Some(kind) = kind else { return Ok(plan.first()) };
    plan.programs().find(|(info, _)| info.kind.name() == kind).with_context(|| {
        let kinds: Vec<&str> = plan.programs().map(|(info, _)| info.kind.name()).collect();
        format!("--kind: found {kind}, expected one that the plan has: {}", kinds.join(", "))
    })
}

fn step_counts(info: &ProgramInfo, program: &Program) -> String {
    let mut text = String::new();
    for entry in &program.entries {
        let steps = entry.steps_of(entry.picks.map(|_| Pick::Likeliest)).count(); // one of those that pick, where there are some
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

/// The steps of each entry with their work; `|` begins one that waits for all before it.
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

/// How a GPU launches a step, behind its arguments.
fn launch_text(step: &Step) -> String {
    step.launch.map_or(String::new(), |launch| format!(" <{}>", jamba_plan::text::launch(&launch)))
}

fn kernel_table((info, program): (&ProgramInfo, &Program)) -> String {
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

fn disassemble(plan: &Plan<'_>, (info, program): (&ProgramInfo, &Program), symbol: &str) -> Result<String> {
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
    let file = tempfile::NamedTempFile::new().context("a temporary file for the code")?;
    std::fs::write(file.path(), code).context("writing the code")?;
    let tool = concat!(env!("LLVM_SYS_191_PREFIX"), "/bin/llvm-objdump");
    let output = Command::new(tool)
        .args(["--disassemble", "--no-show-raw-insn", &format!("--disassemble-symbols={symbol},{symbol}.body")])
        .arg(file.path())
        .output()
        .with_context(|| format!("running {tool}; compiler/setup installs it"))?;
    if !output.status.success() {
        bail!("{tool} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    // The tool's own heading names the temporary file.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let listing = text.split_once("Disassembly of section .text:").map_or(text.as_str(), |(_, listing)| listing);
    Ok(format!("; {target}{listing}"))
}

/// The entry of a kernel in PTX: from its heading to the brace that closes it.
fn ptx_of(ptx: &str, symbol: &str) -> Option<String> {
    let heading =
        |line: &&str| line.contains(&format!(".entry {symbol}(")) || line.ends_with(&format!(".entry {symbol}"));
    let lines: Vec<&str> = ptx.lines().collect();
    let begin = lines.iter().position(heading)?;
    let length = lines[begin..].iter().position(|&line| line == "}")?;
    Some(lines[begin..=begin + length].join("\n") + "\n")
}
