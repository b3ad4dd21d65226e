//! Kernels of CPUs, in this process: guard bytes around arrays ([`LoadedKernels`] lays them), NaN in the padding of rows and
//! where results go, threads in any order.

use std::thread;

use jamba_plan::format::TargetKind;
use jambac_codegen::compile::compile as compile_object;
use jambac_kernels::target::{CpuTarget, X86Level};

use crate::arg::{Arg, Array};
use crate::kernel::Kernel;
use crate::layout::{Laid, is_written};
use crate::loader::{LoadedKernels, Slot};

/// Compiles kernels for a level; `None`, with a line on stderr, when this machine is below it.
#[track_caller]
pub(crate) fn compile(level: X86Level, kernels: &[Kernel]) -> Option<LoadedKernels> {
    let target = CpuTarget::new(level);
    let shared_object =
        compile_object(target, None, |module| kernels.iter().for_each(|kernel| module.add(&kernel.code)));
    let shared_object = shared_object.unwrap_or_else(|error| panic!("{error}"));
    if !target.runs_here() {
        eprintln!("SKIPPED: this machine does not run {target}");
        return None;
    }
    Some(LoadedKernels::load(&shared_object).unwrap_or_else(|error| panic!("{error}")))
}

/// In which order threads run.
#[derive(Clone, Copy, Debug)]
enum Order {
    Ascending,
    Descending,
    Together,
}

/// The results with 1, 2, 3 and 7 threads in each order, which must have the same bits.
pub(crate) fn run(loaded: &LoadedKernels, kernel: &Kernel, args: &[Arg]) -> Vec<Array> {
    let expected = run_once(loaded, kernel, args, 1, Order::Ascending);
    for n_threads in [2, 3, 7] {
        for order in [Order::Ascending, Order::Descending, Order::Together] {
            let found = run_once(loaded, kernel, args, n_threads, order);
            let same = found.iter().zip(&expected).all(|(found, expected)| found.bits() == expected.bits());
            assert!(same, "{}: {n_threads} threads, {order:?}: other bits than one thread's", kernel.symbol());
        }
    }
    expected
}

/// The results with this many threads, one after the other.
pub(crate) fn run_on(loaded: &LoadedKernels, kernel: &Kernel, args: &[Arg], n_threads: u64) -> Vec<Array> {
    run_once(loaded, kernel, args, n_threads, Order::Ascending)
}

fn run_once(loaded: &LoadedKernels, kernel: &Kernel, args: &[Arg], n_threads: u64, order: Order) -> Vec<Array> {
    let (symbol, params) = (kernel.symbol(), kernel.params());
    let laid = params.iter().zip(args).map(|(param, arg)| Laid::of(TargetKind::Cpu, &symbol, param, arg));
    let laid: Vec<Option<Laid>> = laid.collect();
    // Bytes of 0xff are NaN as f32 and −1 as i32.
    let held = |laid: &Laid| laid.bytes.clone().unwrap_or_else(|| vec![0xff; laid.len()]);
    let mut memory: Vec<Vec<u8>> = laid.iter().map(|laid| laid.as_ref().map_or(Vec::new(), held)).collect();
    let slots = params.iter().zip(args).zip(&mut memory).map(|((param, arg), bytes)| match arg {
        Arg::Scalar(value) => Slot::Scalar(*value as u64),
        _ if is_written(param) => Slot::write(bytes.as_mut_slice()),
        _ => Slot::read(bytes.as_slice()),
    });
    let slots = slots.collect();
    let call = loaded.prepare(&symbol, slots).unwrap_or_else(|error| panic!("{symbol}: {error}"));
    match order {
        Order::Ascending => (0..n_threads).for_each(|thread| call.run(thread, n_threads)),
        Order::Descending => (0..n_threads).rev().for_each(|thread| call.run(thread, n_threads)),
        Order::Together => thread::scope(|scope| {
            for thread in 0..n_threads {
                let call = &call;
                scope.spawn(move || call.run(thread, n_threads));
            }
        }),
    }
    call.finish().unwrap_or_else(|error| panic!("{symbol}: {error}"));
    let written = params.iter().zip(args).zip(laid.iter().zip(&memory));
    let written = written.filter(|((param, arg), _)| is_written(param) && arg.is_own());
    let array = |laid: &Laid, bytes: &[u8]| laid.array(|at, n| bytes[at..at + n].to_vec());
    written.filter_map(|(_, (laid, bytes))| Some(array(laid.as_ref()?, bytes))).collect()
}
