//! Kernels of CPUs, in this process or on an emulated CPU: guard bytes around arrays, NaN in the padding of rows and where results
//! go, threads in any order.

use std::thread;

use jamba_plan::format::TargetKind;
use jambac_codegen::compile::compile as compile_object;
use jambac_kernels::target::CpuTarget;

use crate::arg::{Arg, Array};
use crate::emulator::{Emulator, Order};
use crate::kernel::Kernel;
use crate::layout::{Laid, is_written};
use crate::loader::{LoadError, LoadedKernels, Slot};

/// Kernels that can be called.
pub(crate) enum Kernels {
    Here(LoadedKernels),
    Emulated(Emulator),
}

/// Compiles kernels for a target; `None`, with a line on stderr, when this machine neither has nor emulates its instructions.
#[track_caller]
pub(crate) fn compile(target: CpuTarget, kernels: &[Kernel]) -> Option<Kernels> {
    let shared_object =
        compile_object(target, None, |module| kernels.iter().for_each(|kernel| module.add(&kernel.code)));
    let shared_object = shared_object.unwrap_or_else(|error| panic!("{error}"));
    if target.runs_here() {
        return Some(Kernels::Here(LoadedKernels::load(&shared_object).unwrap_or_else(|error| panic!("{error}"))));
    }
    if let Some(missing) = Emulator::missing(target) {
        eprintln!("SKIPPED: this machine does not run {target}, and lacks {missing}");
        return None;
    }
    Some(Kernels::Emulated(Emulator::start(target, &shared_object).unwrap_or_else(|error| panic!("{target}: {error}"))))
}

impl Kernels {
    fn call(&self, symbol: &str, n_threads: u64, order: Order, slots: Vec<Slot>) -> Result<(), LoadError> {
        let loaded = match self {
            Kernels::Here(loaded) => loaded,
            Kernels::Emulated(emulator) => return emulator.call(symbol, n_threads, order, slots),
        };
        let call = loaded.prepare(symbol, slots)?;
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
        call.finish()
    }
}

/// The results with 1, 2, 3 and 7 threads in each order, which must have the same bits; in an emulator, which is slow, with 1 and 3.
pub(crate) fn run(loaded: &Kernels, kernel: &Kernel, args: &[Arg]) -> Vec<Array> {
    let expected = run_once(loaded, kernel, args, 1, Order::Ascending);
    let (threads, orders): (&[u64], &[Order]) = match loaded {
        Kernels::Here(_) => (&[2, 3, 7], &[Order::Ascending, Order::Descending, Order::Together]),
        Kernels::Emulated(_) => (&[3], &[Order::Together]),
    };
    for &n_threads in threads {
        for &order in orders {
            let found = run_once(loaded, kernel, args, n_threads, order);
            let same = found.iter().zip(&expected).all(|(found, expected)| found.bits() == expected.bits());
            assert!(same, "{}: {n_threads} threads, {order:?}: other bits than one thread's", kernel.symbol());
        }
    }
    expected
}

/// The results with this many threads, one after the other.
pub(crate) fn run_on(loaded: &Kernels, kernel: &Kernel, args: &[Arg], n_threads: u64) -> Vec<Array> {
    run_once(loaded, kernel, args, n_threads, Order::Ascending)
}

fn run_once(loaded: &Kernels, kernel: &Kernel, args: &[Arg], n_threads: u64, order: Order) -> Vec<Array> {
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
    loaded.call(&symbol, n_threads, order, slots).unwrap_or_else(|error| panic!("{symbol}: {error}"));
    let written = params.iter().zip(args).zip(laid.iter().zip(&memory));
    let written = written.filter(|((param, arg), _)| is_written(param) && arg.is_own());
    let array = |laid: &Laid, bytes: &[u8]| laid.array(|at, n| bytes[at..at + n].to_vec());
    written.filter_map(|(_, (laid, bytes))| Some(array(laid.as_ref()?, bytes))).collect()
}
