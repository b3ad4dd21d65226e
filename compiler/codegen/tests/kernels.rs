//! Kernels through the whole chain: MLIR, LLVM, lld, and run here.

use jambac_codegen::compile;
use jambac_codegen::ffi::{LoadedKernels, Slot};
use jambac_kernels::builder::Builder;
use jambac_kernels::kernel::{Elem, Param};
use jambac_kernels::target::CpuTarget;

/// Targets that run on this machine.
fn targets() -> Vec<CpuTarget> {
    let named = CpuTarget::NAMES[..3].iter().map(|name| name.parse::<CpuTarget>().unwrap());
    named.filter(CpuTarget::runs_here).collect()
}

fn load(target: CpuTarget, name: &str, params: &[Param], emit: impl FnOnce(&Builder)) -> LoadedKernels {
    let object = compile(target, None, |module| module.kernel(name, params, emit)).unwrap();
    LoadedKernels::load(&object).unwrap()
}

#[test]
fn adds_vectors_with_a_tail() {
    let params = [
        Param::read("x", Elem::F32, &[]),
        Param::read("y", Elem::F32, &[]),
        Param::write("out", Elem::F32, &[]),
        Param::scalar("n"),
    ];
    for target in targets() {
        let kernels = load(target, "add", &params, |b| {
            let (x, y, out) = (b.buffer("x"), b.buffer("y"), b.buffer("out"));
            let lanes = b.index(16);
            let n = b.scalar("n");
            let (first, last) = b.thread_range(b.ceil_div(n, lanes));
            b.for_each(first, last, 1, |block| {
                let i = b.mul(block, lanes);
                let rest = b.sub(n, i);
                let sum = b.add(b.load_partial(x, &[i], 16, rest), b.load_partial(y, &[i], 16, rest));
                b.store_partial(sum, out, &[i], rest);
            });
        });
        for n in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..n).map(|i| i as f32 * 0.5).collect();
            let y: Vec<f32> = (0..n).map(|i| 100.0 - i as f32).collect();
            let mut out = vec![0.0f32; n];
            let slots = vec![Slot::read(&x), Slot::read(&y), Slot::write(&mut out), Slot::Scalar(n as u64)];
            kernels.call("add", 3, slots).unwrap();
            let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
            assert_eq!(out, expected, "{target}, n = {n}");
        }
    }
}
