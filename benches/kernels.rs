//! Kernel benchmarks at the sizes of real models: time, operations and bytes per second, and fraction of the machine's
//! roofline, for one thread.
//!
//!     cargo bench -p jambac-benches [-- SYMBOL]
//!
//! The sizes are the cases of `jambac_kernels::cases` that are too large for the scalar reference. The bandwidth peak is that
//! of main memory: arrays that stay in the last-level cache between runs are read faster and can exceed 100 %. The compute peak
//! is that of f32 multiply-adds, doubled for integers.

use jambac_benches::roofline::{Cost, Roofline, seconds};
use jambac_codegen::compile;
use jambac_harness::{LoadedKernels, Slot};
use jambac_kernels::cases::{self, Case};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::kernel::{Access, Elem, LANES, Operand, Param, Per, Source};
use jambac_kernels::target::CpuTarget;

/// Smaller calls are too short to time.
const LEAST_OPERATIONS: f64 = 1e6;

/// Multiplications per f32 multiply-add slot: pairs of 16-bit integers count twice.
fn multiply_rate(kernel: &AnySpec) -> f64 {
    match kernel {
        AnySpec::Linear(spec) if matches!(spec.format, Elem::I8 | Elem::I4) => 2.0,
        _ => 1.0,
    }
}

/// The value of a slot: bytes of an array, or an integer.
enum Filled {
    Array(Vec<u8>),
    Integer(u64),
}

/// The size of a dimension in the case's step.
fn size(case: &Case, per: Per) -> u64 {
    let n = match per {
        Per::Row => case.counts.tokens * case.rows.per as usize,
        Per::Token => case.counts.tokens,
        Per::Sequence => case.counts.sequences,
        Per::Output => case.counts.outputs,
    };
    n as u64
}

fn words(numbers: impl IntoIterator<Item = usize>) -> Filled {
    Filled::Array(numbers.into_iter().flat_map(|n| (n as i32).to_le_bytes()).collect())
}

/// Slots sorted by expert, or the offset of each expert; slot s belongs to expert s modulo the number of experts.
fn routing(operand: &Operand, n_experts: usize, n_slots: usize) -> Filled {
    let of_expert = |expert| (expert..n_slots).step_by(n_experts);
    match operand.name() {
        "slots" => words((0..n_experts).flat_map(of_expert)),
        _ => words((0..=n_experts).map(|end| (0..end).map(|expert| of_expert(expert).len()).sum())),
    }
}

/// The value of an operand; `None` for kernels that read page tables, which have no benchmark yet.
fn fill(case: &Case, operands: &[Operand], operand: &Operand) -> Option<Filled> {
    let n_experts = operands.iter().find(|operand| operand.name() == "offsets").map(|found| found.extent.fixed - 1);
    if let (Some(n_experts), "slots" | "offsets", Source::Operand(_)) = (n_experts, operand.name(), &operand.source) {
        let slots = operands.iter().find(|operand| operand.name() == "slots")?;
        return Some(routing(operand, n_experts, slots.extent.rows(|per| size(case, per))? as usize));
    }
    let bytes = match &operand.source {
        Source::Count(per, factor) => return Some(Filled::Integer(size(case, *per) * u64::from(*factor))),
        Source::SlotStride => return Some(Filled::Integer(0)),
        Source::Weight(weight) => weight.layout.bytes(operand.param.elem()?.weight_format()?)?,
        Source::Scales => operands.iter().find_map(|operand| match &operand.source {
            Source::Weight(weight) => {
                let (layout, format) = weight.layout.scales(operand.param.elem()?.weight_format()?)?;
                layout.bytes(format)
            }
            _ => None,
        })?,
        Source::Table(_) | Source::Input(..) => {
            return match operand.name() {
                "starts" => Some(words([0, case.counts.tokens])),
                "slots" => Some(words([0])),
                "sequence_of" => Some(words(vec![0; case.counts.tokens])),
                "ids" | "rows" => Some(words((0..case.counts.tokens).map(|at| at % 50))),
                _ => None,
            };
        }
        Source::Operand(_) | Source::Result(_) | Source::Scratch(_) | Source::State => {
            operand.bytes(|per| size(case, per))?
        }
        Source::SlotsOf(_) | Source::Pages(_) | Source::PageStride(_) | Source::PagesPerSequence | Source::Caller => {
            return None;
        }
    };
    // Whole vectors are loaded, so there is slack after the buffer, as after every pool.
    let n = bytes as usize + 4 * LANES;
    let elem = operand.param.elem()?;
    // Small values of both signs; step sizes and decay rates may be arbitrary.
    let value = |i: usize| ((i * 7919) % 255) as f32 / 128.0 - 1.0;
    let values = (0..).flat_map(|i| {
        let bytes = value(i).to_le_bytes();
        match elem {
            Elem::F32 | Elem::I32 => bytes.to_vec(),
            Elem::Bf16 | Elem::F16 => bytes[2..].to_vec(),
            Elem::I8 | Elem::I4 => bytes[3..].to_vec(),
        }
    });
    Some(Filled::Array(values.take(n).collect()))
}

fn bench(case: &Case, target: CpuTarget, roofline: &Roofline) -> Result<(), Box<dyn std::error::Error>> {
    let launch = case.on_cpu();
    let (symbol, operands) = (&launch.symbol, &launch.operands);
    let filled = operands.iter().map(|operand| fill(case, operands, operand)).collect::<Option<Vec<_>>>();
    let Some(mut filled) = filled else {
        println!("{symbol:<44} {:>6}  no benchmark: reads tables of pages", case.counts.tokens);
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
        "{symbol:<44} {:>6} {:>10.3} {:>8.1} {:>8.1} {:>6.0} %",
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
    let target = CpuTarget::native()?;
    let roofline = Roofline::measure(target)?;
    println!("{}, one thread: {:.1} GFLOP/s, {:.1} GB/s", target.name(), roofline.flops / 1e9, roofline.bytes / 1e9);
    println!("{:<44} {:>6} {:>10} {:>8} {:>8} {:>8}", "kernel", "tokens", "ms", "GFLOP/s", "GB/s", "of peak");
    for case in cases::all() {
        if case.operations() >= LEAST_OPERATIONS && case.symbol().contains(&filter) {
            bench(&case, target, &roofline)?;
        }
    }
    Ok(())
}
