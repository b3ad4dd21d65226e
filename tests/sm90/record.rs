//! Launches that the harness records for a device.

use gpu_bench::cases::{self, Cases};
use jambac_harness::{Arg, Kernel, Runner, counts, ptx_of};
use jambac_kernels::kernel::Elem;
use jambac_kernels::rms_norm;
use ptxsim::driver::{Device, Simulated};

/// A recorded launch runs on another device, and a wrong result is detected there.
#[test]
fn recorded_launches_run_again() {
    let kernel = Kernel::from(rms_norm::Spec { cols: 40, eps: 1e-6, residual: false, out: Elem::Bf16 });
    let ptx = ptx_of([&kernel]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.cases");
    let values: Vec<f32> = (0..120).map(|at| (at * 37 % 101) as f32 * 0.02 - 1.0).collect();
    let args =
        [Arg::f32_rows(40, &values), Arg::F32(vec![1.5; 40]), Arg::unwritten(40, 3).of(Elem::Bf16), Arg::Scalar(3)];
    let kernels = Runner::recorded_to(path.clone(), &ptx);
    kernels.run(1, &kernel, counts(3, 1, 1), &args);
    drop(kernels);
    let mut cases = Cases::read(&path).expect("cases");
    assert_eq!(cases.cases.len(), 1);
    let device = || Box::new(Simulated::new(&Device { seed: 5, ..Device::default() }));
    let verdicts = cases.run(device()).expect("the same results");
    assert!(verdicts.len() == 1 && verdicts[0].error < 1.0, "{verdicts:?}");
    let Some(cases::Arg::Buffer(_, Some(after))) = cases.cases[0].args.get_mut(2) else { panic!("a result") };
    after.bytes[3] ^= 0x40;
    let error = format!("{:#}", cases.run(device()).expect_err("another result"));
    assert!(error.contains("parameter 2: element 1 is"), "{error}");
}
