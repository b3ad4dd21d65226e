//! Kernel benchmarks at the sizes of real models: time, operations and bytes per second, and fraction of the machine's
//! roofline, for one thread.
//!
//!     cargo bench -p jambac-benches [-- [--sweep] [--target=NAME] [SYMBOL]]
//!
//! Each kernel is timed in the config that the schedule chooses for the step; with `--sweep` in every config that the step
//! allows, and the others are listed with the reason. CPU kernels have one config each so far.
//!
//! The sizes are the cases of `jambac_kernels::cases` that are too large for the scalar reference. The bandwidth peak is that
//! of main memory: arrays that stay in the last-level cache between runs are read faster and can exceed 100 %. The compute peak
//! is that of f32 multiply-adds, doubled for integers.

use jamba_plan::cpu::missing;
use jamba_plan::format::TargetKind;
use jambac_benches::roofline::{Cost, Roofline, seconds};
use jambac_codegen::compile;
use jambac_harness::{Filled, LoadedKernels, Slot, fill, step_of};
use jambac_kernels::cases::{self, Case};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::kernel::{Access, Config, Elem, Kernel as _, Param};
use jambac_kernels::target::CpuTarget;

/// Smaller calls are too short to time.
const LEAST_OPERATIONS: f64 = 1e6;

/// Multiplications per f32 multiply-add slot: pairs of 16-bit integers count twice.
fn multiply_rate(kernel: &AnySpec) -> f64 {
    match kernel {
        AnySpec::Linear(spec) if matches!(spec.format, Elem::I8 | Elem::I4 | Elem::I3) => 2.0,
        _ => 1.0,
    }
}

fn bench(
    case: &Case,
    config: Config,
    target: CpuTarget,
    roofline: &Roofline,
) -> Result<(), Box<dyn std::error::Error>> {
    let launch = case.kernel.lower(TargetKind::Cpu, config).pop().ok_or("a kernel without launches")?;
    let (symbol, operands, name) = (&launch.symbol, &launch.operands, config.to_string());
    let filled = operands.iter().map(|operand| fill(case, operands, operand)).collect::<Option<Vec<_>>>();
    let Some(mut filled) = filled else {
        println!("{symbol:<44} {name:<8} {:>6}  no benchmark: reads tables of pages", case.counts.tokens);
        return Ok(());
    };
    let code = compile(target, None, |module| module.add(&launch))?;
    let kernels = LoadedKernels::load(&code)?;
    let slots = filled.iter_mut().zip(operands).map(|(filled, operand)| match (filled, &operand.param) {
        (Filled::Integer(value), _) => Slot::Scalar(*value),
        (Filled::Array(bytes), Param::Buffer { access: Access::Read, .. }) => Slot::read(bytes.as_slice()),
        (Filled::Array(bytes), _) => Slot::write(bytes.as_mut_slice()),
    });
    let call = kernels.prepare(symbol, slots.collect())?;
    let (time, operations, bytes) = (seconds(|| call.run(0, 1)), case.operations(), case.bytes());
    let least = roofline.seconds(Cost { operations: operations / multiply_rate(&case.kernel), bytes });
    println!(
        "{symbol:<44} {name:<8} {:>6} {:>10.3} {:>8.1} {:>8.1} {:>6.0} %",
        case.counts.tokens,
        time * 1e3,
        operations / time / 1e9,
        bytes / time / 1e9,
        100.0 * least / time
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let sweep = std::env::args().any(|arg| arg == "--sweep");
    let named = std::env::args().find_map(|arg| arg.strip_prefix("--target=").map(str::to_owned));
    let target: CpuTarget = named.as_deref().unwrap_or("native").parse()?;
    if !target.runs_here() {
        return Err(format!(
            "--target={target}: this CPU lacks {}",
            missing(target.name()).unwrap_or_default().join(", ")
        )
        .into());
    }
    let roofline = Roofline::measure(target)?;
    println!("{}, one thread: {:.1} GFLOP/s, {:.1} GB/s", target.name(), roofline.flops / 1e9, roofline.bytes / 1e9);
    println!(
        "{:<44} {:<8} {:>6} {:>10} {:>8} {:>8} {:>8}",
        "kernel", "config", "tokens", "ms", "GFLOP/s", "GB/s", "of peak"
    );
    for case in cases::all() {
        if case.operations() < LEAST_OPERATIONS || !case.symbol().contains(&filter) {
            continue;
        }
        let candidates = case.kernel.configs(TargetKind::Cpu, &step_of(&case));
        let (accepted, rejected): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|candidate| candidate.rejected.is_none());
        for candidate in accepted.iter().take(if sweep { usize::MAX } else { 1 }) {
            bench(&case, candidate.config, target, &roofline)?;
        }
        for candidate in rejected.iter().filter(|_| sweep) {
            let reason = candidate.rejected.as_deref().unwrap_or_default();
            println!("{:<44} {:<8} not timed: {reason}", case.symbol(), candidate.config.to_string());
        }
    }
    Ok(())
}
