//! `jambac verify`: whether a plan is undamaged and, with `--code`, whether its kernels are those of this compiler.
//!
//! A plan's digests say that it is whole. They say nothing about who made it: a plan is a program, and its code could do
//! anything. But builds are reproducible. `--code` makes each kernel of its recipe again, compares what it takes with what the plan
//! states, compiles all kernels in the plan's order, and compares the code byte by byte. The arguments of the steps were checked
//! against these statements when the plan was read. So a plan that passes runs the catalog's kernels inside its own memory and
//! nothing else, whoever made it. What the model says, its tokenizer and its chat template are not judged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use jamba_plan::Plan;
use jamba_plan::format::{KernelRecord, Program, ProgramInfo, Step, TargetKind};
use jamba_runtime::{PlanFile, Verify};
use jambac_codegen::assemble::{assemble, find_ptxas};
use jambac_codegen::compile_kernels;
use jambac_kernels::catalog::Recipe;
use jambac_kernels::kernel::Launch;
use jambac_kernels::target::{self, Target};
use serde_json::json;

use crate::compile::{draw_kernels, drawn_formats};
use crate::report::{Ours, check_plan, print, tell};

/// The options of `jambac verify`.
#[derive(Args)]
pub struct VerifyPlan {
    /// The plan.
    plan: PathBuf,
    /// Compile the plan's kernels again and compare the code byte by byte. Needs no checkpoint. A plan that passes was not
    /// necessarily built by jambac, but runs nothing except jambac's kernels on its own memory.
    #[arg(long)]
    code: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// A plan that is damaged, or whose kernels, statements or code are not this compiler's.
pub fn run(options: &VerifyPlan) -> Result<()> {
    check_plan(&options.plan)?;
    let file = PlanFile::open(&options.plan)?;
    let plan = file.plan(Verify::Everything, &mut |_, _| ())?;
    let path = || options.plan.display().to_string();
    let mut same = Vec::new();
    if options.code {
        for (info, program) in plan.programs() {
            same.extend(code(&plan, info, program).map_err(|error| beside(error, &plan)).with_context(path)?);
        }
    }
    let digest = plan.digest().to_hex();
    if options.json {
        let code = options.code.then_some(&same);
        return print(&format!("{}\n", json!({ "undamaged": true, "digest": digest.as_str(), "same_code": code })));
    }
    let claim = match options.code {
        true => format!("undamaged, and its code is what this jambac compiles for {}", same.join(", ")),
        false => {
            "undamaged, which says nothing about who made it; --code compares its kernels with jambac's".to_owned()
        }
    };
    print(&format!("{}: {claim}\n{digest}\n", path()))
}

/// Adds the compilers to an error if they are not the same.
fn beside(error: anyhow::Error, plan: &Plan<'_>) -> anyhow::Error {
    let manifest = plan.manifest();
    let built_with =
        manifest.provenance.as_ref().map_or("an unknown LLVM".to_owned(), |from| format!("LLVM {}", from.llvm));
    let ours = jambac_codegen::toolchain::llvm_version();
    error.context(format!(
        "this is not the code of jambac {} with LLVM {ours}; the plan says that jambac {} made it with {built_with}. Use the \
         jambac that built it; if that says the same, trust the plan as little as any program of a stranger",
        env!("CARGO_PKG_VERSION"),
        manifest.compiler,
    ))
}

/// Compares the kernels and the code of one kind of target. Returns the targets whose code is the same.
fn code(plan: &Plan<'_>, info: &ProgramInfo, program: &Program) -> Result<Vec<String>> {
    let mut kernels = program.kernels.iter().map(|record| launch(info.kind, record)).collect::<Result<Vec<_>>>()?;
    for (at, entry) in program.entries.iter().enumerate() {
        for (index, step) in entry.steps.iter().enumerate() {
            let kernel = kernels.get(step.kernel as usize).context("a kernel")?;
            ensure!(
                grid(kernel, step),
                "entries[{at}].steps[{index}].launch: found {:?}, expected the grid of {}",
                step.launch,
                kernel.symbol
            );
        }
    }
    let draws = target::draws(info.kind, drawn_formats(plan.manifest().synthetic_seed, &program.weights));
    let expected = draw_kernels(draws.clone());
    ensure!(
        info.draw_kernels == expected,
        "{}.draw_kernels: found {:?}, expected {expected:?}",
        info.kind.name(),
        info.draw_kernels
    );
    kernels.extend(draws.into_iter().map(|(_, launch)| launch));
    let mut same = Vec::new();
    for name in &info.targets {
        let target: Target = name.parse()?;
        ensure!(target.name() == name, "target {name}: expected a target, for which code can be compared");
        let compiled = compile_kernels(target, &kernels, None).ours("codegen")?;
        let found = plan.code(name).unwrap_or_default();
        compare(&format!("code/{name}"), found, &compiled)?;
        if let Some(cubin) = plan.cubin(name) {
            let ptxas = find_ptxas(None).ok_or_else(|| {
                anyhow!("code/{name}.cubin: ptxas is not here, so the assembled code cannot be compared: set CUDA_HOME")
            })?;
            compare(
                &format!("code/{name}.cubin"),
                cubin,
                &assemble(&ptxas, &String::from_utf8_lossy(&compiled))?.cubin,
            )?;
        }
        tell(&format!("{name}: {} kernels, {} bytes of code: the same", kernels.len(), compiled.len()));
        same.push(name.clone());
    }
    Ok(same)
}

/// The catalog's launch for a kernel of the plan.
pub(crate) fn launch(kind: TargetKind, record: &KernelRecord) -> Result<Launch> {
    let symbol = &record.symbol;
    let recipe = Recipe::parse(&record.recipe)
        .map_err(|reason| anyhow!("kernel {symbol}: its recipe is not one of this jambac's catalog: {reason}"))?;
    // Specs of a stranger's plan may have sizes that no model has.
    let launches = catch_unwind(AssertUnwindSafe(|| recipe.lower(kind)));
    let launches =
        launches.map_err(|_| anyhow!("kernel {symbol}: no kernel has the sizes of its recipe {}", record.recipe))?;
    let launches =
        launches.map_err(|reason| anyhow!("kernel {symbol}: {} has no such kernel: {}", kind.name(), reason.0))?;
    let symbols: Vec<String> = launches.iter().map(|launch| launch.symbol.clone()).collect();
    let Some(launch) = launches.into_iter().find(|launch| launch.symbol == *symbol && launch.op == record.op) else {
        bail!("kernel {symbol}: found a recipe of {symbols:?}, expected one of this kernel");
    };
    let expected = launch.signature();
    ensure!(
        expected.as_ref() == Some(&record.operands),
        "kernel {symbol}: the plan states that it takes {:?}, expected {expected:?}",
        record.operands
    );
    Ok(launch)
}

/// Whether a step has the grid of its kernel.
fn grid(kernel: &Launch, step: &Step) -> bool {
    kernel.grid.map(|grid| grid.at(step.rows)) == step.launch
}

fn compare(section: &str, found: &[u8], expected: &[u8]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let at = found.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(found.len().min(expected.len()));
    bail!("{section}: found {} bytes, expected {}, which differ from byte {at} on", found.len(), expected.len())
}
