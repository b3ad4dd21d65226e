//! The peaks of one thread on this machine, measured in the same run with kernels from the same compiler.

use std::error::Error;
use std::time::Instant;

use jambac_codegen::compile;
use jambac_harness::{LoadedKernels, Slot};
use jambac_kernels::kernel::{Elem, LANES, Param};
use jambac_kernels::target::CpuTarget;

/// Elements in each of the four arrays that are read in parallel: a single stream is slower.
const STREAM: usize = 16 << 20;

/// Work of one call.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Arithmetic operations; a multiply-add counts as two.
    pub operations: f64,
    /// Bytes read and written, each counted once.
    pub bytes: f64,
}

/// Peak performance of one thread.
#[derive(Clone, Copy, Debug)]
pub struct Roofline {
    /// Floating-point operations per second; a fused multiply-add counts as two.
    pub flops: f64,
    /// Bytes per second, read from memory.
    pub bytes: f64,
}

impl Roofline {
    pub fn measure(target: CpuTarget) -> Result<Roofline, Box<dyn Error>> {
        let params = [Param::read("x", Elem::F32, &[]), Param::write("y", Elem::F32, &[]), Param::scalar("n")];
        let code = compile(target, None, |module| {
            // Ten sums of two vectors each hide the latency of two multiply-add units.
            module.kernel("multiply_add", &params, |b| {
                let (scale, shift) = (b.load_vector(b.buffer("x"), 0, 8), b.splat(0.5, 8));
                let sums = vec![shift; 10];
                let sums = b.for_range_vec(0, b.scalar("n"), 1, &sums, |_, sums| {
                    sums.iter().map(|sum| sum.mul_add(scale, shift)).collect()
                });
                for (i, sum) in sums.into_iter().enumerate() {
                    b.store(sum, b.buffer("y"), 8 * i);
                }
            });
            module.kernel("read", &params, |b| {
                let zero = b.splat(0.0, LANES);
                let sums = b.for_range(0, b.scalar("n"), LANES, [zero; 4], |i, sums| {
                    let at = |part: usize| b.load_vector(b.buffer("x"), i + part * STREAM, LANES);
                    [0, 1, 2, 3].map(|part| sums[part] + at(part))
                });
                for (i, sum) in sums.into_iter().enumerate() {
                    b.store(sum, b.buffer("y"), LANES * i);
                }
            });
        })?;
        let kernels = LoadedKernels::load(&code)?;
        let mut y = vec![0f32; 80];

        let (n, x) = (2_000_000u64, vec![0.5f32; 16]);
        let call = kernels.prepare("multiply_add", vec![Slot::read(&x), Slot::write(&mut y), Slot::Scalar(n)])?;
        let flops = (n * 10 * 8 * 2) as f64 / seconds(|| call.run(0, 1));
        drop(call);

        let x = vec![1f32; 4 * STREAM];
        let call = kernels.prepare("read", vec![Slot::read(&x), Slot::write(&mut y), Slot::Scalar(STREAM as u64)])?;
        let bytes = (x.len() * 4) as f64 / seconds(|| call.run(0, 1));
        Ok(Roofline { flops, bytes })
    }

    /// Lower bound of the time for this work, in seconds.
    pub fn seconds(&self, cost: Cost) -> f64 {
        (cost.operations / self.flops).max(cost.bytes / self.bytes)
    }
}

/// Minimum over several runs, in seconds: other load on the machine can only lengthen a run.
pub fn seconds(mut run: impl FnMut()) -> f64 {
    run();
    let mut best = f64::INFINITY;
    let began = Instant::now();
    for n_runs in 1.. {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
        if n_runs >= 5 && began.elapsed().as_secs_f64() > 0.3 {
            break;
        }
    }
    best
}
