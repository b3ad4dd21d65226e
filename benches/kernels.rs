//! Kernels at the sizes of real models: time, operations and bytes a second, share of the machine's roofline; one thread.
//!
//!     cargo bench -p jambac-benches [-- SYMBOL]
//!
//! The sizes are those of `jambac_kernels::cases` that a scalar reference would take long for. The peak of bytes is that of
//! memory: arrays that stay in the last-level cache between runs are read faster, and show more than 100 %. The peak of
//! operations is that of f32 multiply-adds, for integers twice that.

use jambac_benches::roofline::{Roofline, seconds};
use jambac_codegen::compile;
use jambac_harness::{LoadedKernels, Slot};
use jambac_kernels::cases::{self, Case};
use jambac_kernels::cpu::integer::{n_scales, padded_inputs};
use jambac_kernels::kernel::{Access, Cost, Elem, Kernel, LANES, Param, padded};
use jambac_kernels::target::CpuTarget;

/// Below this a call is over before it can be timed.
const LEAST_FLOPS: f64 = 1e6;

/// Multiplications that start together where one f32 multiply-add would: pairs of 16-bit integers are twice as many.
fn multiply_rate(kernel: &Kernel) -> f64 {
    match kernel {
        Kernel::Linear(spec) if n_scales(spec.format, spec.n, spec.k) > 0 => 2.0,
        _ => 1.0,
    }
}

/// Elements of a weight or a state: an array whose length follows from the spec. `None` for kernels with tables of pages or
/// slots, which have no benchmark yet.
fn elements(kernel: &Kernel, name: &str) -> Option<usize> {
    Some(match (kernel, name) {
        (Kernel::Linear(spec), "weight") if n_scales(spec.format, spec.n, spec.k) > 0 => {
            padded(spec.n) * padded_inputs(spec.k) * spec.format.bits() / 8
        }
        (Kernel::Linear(spec), "weight") => padded(spec.n) * spec.k,
        (Kernel::Linear(spec), "scales") => n_scales(spec.format, spec.n, spec.k),
        (Kernel::Linear(spec), _) => padded(spec.n),
        (Kernel::SplitLinear(spec), _) => spec.sizes.iter().map(|&n| padded(n) * spec.k).sum(),
        (Kernel::LinearSwiglu(spec), _) => 2 * padded(spec.n) * spec.k,
        (Kernel::GroupedLinear(spec), "weight") => spec.n_experts * padded(spec.n) * spec.k,
        (Kernel::GroupedSwiglu(spec), "weight") => spec.n_experts * 2 * padded(spec.n) * spec.k,
        (Kernel::GroupedCombine(spec), "weight") => spec.n_experts * padded(spec.n) * spec.k,
        (Kernel::RmsNorm(spec), _) => padded(spec.cols),
        (Kernel::Elementwise(spec), _) => padded(spec.cols),
        (Kernel::CausalConv1d(spec), "weight" | "state") => padded(spec.channels) * spec.taps,
        (Kernel::CausalConv1d(spec), _) => padded(spec.channels),
        (Kernel::SelectiveScan(spec), "a" | "state") => padded(spec.channels) * spec.d_state,
        (Kernel::SelectiveScan(spec), "dt_weight") => {
            padded(spec.channels) * spec.selection.projection().map_or(0, |projection| projection.dt_rank)
        }
        (Kernel::SelectiveScan(spec), "dt_norm") => {
            padded(spec.selection.projection().map_or(0, |projection| projection.dt_rank))
        }
        (Kernel::SelectiveScan(spec), "b_norm" | "c_norm") => padded(spec.d_state),
        (Kernel::SelectiveScan(spec), _) => padded(spec.channels),
        _ => return None,
    })
}

/// What a slot holds: bytes of an array, or an integer.
enum Filled {
    Array(Vec<u8>),
    Integer(u64),
}

/// Experts, and experts per token, of a kernel of experts.
fn experts(kernel: &Kernel) -> Option<(usize, usize)> {
    match kernel {
        Kernel::GroupedLinear(spec) => Some((spec.n_experts, spec.top_k)),
        Kernel::GroupedSwiglu(spec) => Some((spec.n_experts, spec.top_k)),
        Kernel::GroupedCombine(spec) => Some((spec.n_experts, spec.top_k)),
        _ => None,
    }
}

/// Slots by expert, or where each expert's begin: slot s goes to expert s modulo their number.
fn routing(name: &str, n_experts: usize, n_slots: usize) -> Filled {
    let of_expert = |expert| (expert..n_slots).step_by(n_experts);
    let numbers: Vec<usize> = match name {
        "slots" => (0..n_experts).flat_map(of_expert).collect(),
        _ => (0..=n_experts).map(|end| (0..end).map(|expert| of_expert(expert).len()).sum()).collect(),
    };
    Filled::Array(numbers.iter().flat_map(|&n| (n as i32).to_le_bytes()).collect())
}

fn fill(case: &Case, param: &Param) -> Option<Filled> {
    let tokens = case.counts.tokens;
    if let (Some((n_experts, top_k)), "slots" | "offsets") = (experts(&case.kernel), param.name()) {
        return Some(routing(param.name(), n_experts, tokens * top_k));
    }
    Some(match param {
        Param::Scalar { name: "sequences" } => Filled::Integer(1),
        Param::Scalar { name: "slot_stride" } => Filled::Integer(0),
        Param::Scalar { .. } => Filled::Integer(tokens as u64),
        // Of kernels for a GPU, which are measured elsewhere.
        Param::Count { .. } | Param::TensorMap { .. } => return None,
        Param::Buffer { name: "starts", .. } => {
            Filled::Array([0, tokens as i32].iter().flat_map(|n| n.to_le_bytes()).collect())
        }
        Param::Buffer { name: "slots", .. } => Filled::Array(vec![0; 4]),
        Param::Buffer { name: "sequence_of", .. } => Filled::Array(vec![0; 4 * tokens]),
        Param::Buffer { name, elem, inner, .. } => {
            let n = match inner.as_slice() {
                [] => elements(&case.kernel, name)?,
                // A row per slot, at most.
                [stride] => tokens * experts(&case.kernel).map_or(1, |(_, top_k)| top_k) * stride,
                _ => return None,
            } + LANES;
            // Small values of both signs; step sizes and decay rates may be anything.
            let value = |i: usize| ((i * 7919) % 255) as f32 / 128.0 - 1.0;
            let bytes = (0..n).flat_map(|i| {
                let bytes = value(i).to_le_bytes();
                match elem {
                    Elem::F32 | Elem::I32 => bytes.to_vec(),
                    Elem::Bf16 | Elem::F16 => bytes[2..].to_vec(),
                    Elem::I8 | Elem::I4 => bytes[3..].to_vec(),
                }
            });
            Filled::Array(bytes.collect())
        }
    })
}

fn bench(case: &Case, target: CpuTarget, roofline: &Roofline) -> Result<(), Box<dyn std::error::Error>> {
    let (kernel, symbol, params) = (&case.kernel, case.kernel.symbol(), case.kernel.params());
    let Some(mut filled) = params.iter().map(|param| fill(case, param)).collect::<Option<Vec<_>>>() else {
        println!("{symbol:<44} {:>6}  no benchmark: reads tables of pages or slots", case.counts.tokens);
        return Ok(());
    };
    let code = compile(target, None, |module| module.kernel(&symbol, &params, |b| kernel.emit(b)))?;
    let kernels = LoadedKernels::load(&code)?;
    let slots = filled.iter_mut().zip(&params).map(|(filled, param)| match filled {
        Filled::Integer(value) => Slot::Scalar(*value),
        Filled::Array(bytes) => match param.access() {
            Some(Access::Read) => Slot::read(bytes.as_slice()),
            _ => Slot::write(bytes.as_mut_slice()),
        },
    });
    let call = kernels.prepare(&symbol, slots.collect())?;
    let (time, cost) = (seconds(|| call.run(0, 1)), kernel.cost(case.counts));
    let least = roofline.seconds(Cost { flops: cost.flops / multiply_rate(kernel), ..cost });
    println!(
        "{symbol:<44} {:>6} {:>10.3} {:>8.1} {:>8.1} {:>6.0} %",
        case.counts.tokens,
        time * 1e3,
        cost.flops / time / 1e9,
        cost.bytes / time / 1e9,
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
        if case.kernel.cost(case.counts).flops >= LEAST_FLOPS && case.kernel.symbol().contains(&filter) {
            bench(&case, target, &roofline)?;
        }
    }
    Ok(())
}
