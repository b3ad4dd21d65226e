//! Records the launches of tests as cases for a device. With `JAMBA_KERNEL_CASES=FOLDER`, each kernel module that a test
//! compiles writes a file to the folder with every launch, its arguments and its results (`tests/gpu` copies them to a GPU and
//! runs them).

use std::path::PathBuf;
use std::sync::Mutex;

use gpu_bench::cases::{self, After, Before, Case, Cases, Element, Matrix};
use jambac_kernels::cases::Counts;
use jambac_kernels::hopper::row_stride;
use jambac_kernels::kernel::{Access, Elem, Param, TensorMap};
use jambac_kernels::rms_norm;
use ptxsim::Gpu;
use ptxsim::driver::{Device, Simulated};

use super::harness::{Arg, Kernel, Kernels, counts, ptx_of, rows};

/// Launches of one module, written when the recorder is dropped.
pub struct Recorder {
    path: PathBuf,
    cases: Mutex<Cases>,
}

impl Recorder {
    /// A recorder, if the environment variable is set.
    pub fn of(ptx: &str) -> Option<Recorder> {
        let folder = PathBuf::from(std::env::var_os("JAMBA_KERNEL_CASES")?);
        let name = std::thread::current().name().unwrap_or("kernels").replace("::", ".");
        let taken = |path: &PathBuf| std::fs::File::create_new(path).is_ok();
        let path = (0..).map(|nth| folder.join(format!("{name}.{nth}.cases"))).find(taken)?;
        Some(Recorder::to(path, ptx))
    }

    fn to(path: PathBuf, ptx: &str) -> Recorder {
        Recorder { path, cases: Mutex::new(Cases { ptx: ptx.to_owned(), cases: Vec::new() }) }
    }

    /// Records a launch after it ran; one per kernel and counts.
    pub fn note(&self, gpu: &Gpu, kernel: &Kernel, counts: Counts, args: &[Arg], placed: &[u64]) {
        let counts = [counts.tokens, counts.sequences, counts.outputs].map(|count| count as u64);
        let mut cases = self.cases.lock().expect("no test panics while it records");
        if cases.cases.iter().any(|case| case.symbol == kernel.symbol() && case.counts == counts) {
            return;
        }
        let params = kernel.params();
        let args = params.iter().zip(args).zip(placed).map(|((param, arg), &at)| record(gpu, param, arg, at)).collect();
        cases.cases.push(Case { symbol: kernel.symbol(), launch: kernel.launch(), counts, args });
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let cases = self.cases.get_mut().expect("no test panics while it records");
        // Remove the file if no launch was recorded: such a test checks its launches itself.
        let written = if cases.cases.is_empty() {
            std::fs::remove_file(&self.path).map_err(Into::into)
        } else {
            cases.write(&self.path)
        };
        if let Err(error) = written {
            eprintln!("{error:#}");
        }
    }
}

fn record(gpu: &Gpu, param: &Param, arg: &Arg, at: u64) -> cases::Arg {
    match (param, arg) {
        (Param::TensorMap { map, .. }, Arg::Matrix { n, bytes }) => cases::Arg::Map(matrix(map, *n), bytes.clone()),
        (_, Arg::Count(count)) => cases::Arg::Count(*count as u64),
        (_, Arg::Scalar(value)) => cases::Arg::Scalar(*value as u64),
        _ => {
            let elem = param.elem().expect("a buffer has elements");
            let words = |n: usize| n * elem.bytes();
            let before = match arg {
                Arg::Rows { elem, cols, values } => Before::Bytes(rows(*elem, *cols, values)),
                Arg::Unwritten { elem, cols, n } => {
                    Before::Unwritten((n * row_stride(*elem, *cols) * elem.bytes()) as u64)
                }
                Arg::F32(values) => Before::Bytes(values.iter().flat_map(|x| x.to_le_bytes()).collect()),
                Arg::I32(values) => Before::Bytes(values.iter().flat_map(|x| x.to_le_bytes()).collect()),
                Arg::UnwrittenDense(n) => Before::Unwritten(words(*n) as u64),
                Arg::Bytes(bytes) | Arg::Matrix { bytes, .. } => Before::Bytes(bytes.clone()),
                Arg::Count(_) | Arg::Scalar(_) => Before::Unwritten(0),
            };
            let (stride, row, n) = match arg {
                Arg::Rows { cols, values, .. } => (words(row_stride(elem, *cols)), words(*cols), values.len() / cols),
                Arg::Unwritten { cols, n, .. } => (words(row_stride(elem, *cols)), words(*cols), *n),
                Arg::F32(values) => (words(values.len()), words(values.len()), 1),
                Arg::I32(values) => (words(values.len()), words(values.len()), 1),
                Arg::UnwrittenDense(n) => (words(*n), words(*n), 1),
                Arg::Bytes(bytes) | Arg::Matrix { bytes, .. } => (bytes.len(), bytes.len(), 1),
                Arg::Count(_) | Arg::Scalar(_) => (0, 0, 0),
            };
            let after = param.access().is_some_and(|access| access != Access::Read).then(|| {
                let mut bytes = vec![0; row * n];
                for (index, row) in bytes.chunks_exact_mut(row.max(1)).enumerate() {
                    gpu.read_unchecked(at + (index * stride) as u64, row).expect("a result is in memory");
                }
                let elem = match (elem, arg) {
                    (_, Arg::Bytes(_)) => Element::Bits,
                    (Elem::F32, _) => Element::F32,
                    (Elem::Bf16, _) => Element::Bf16,
                    _ => Element::Bits,
                };
                After { elem, stride: stride as u64, row: row as u64, bytes }
            });
            cases::Arg::Buffer(before, after)
        }
    }
}

fn matrix(map: &TensorMap, n: usize) -> Matrix {
    Matrix {
        elem: map.tensor_elem(),
        rows_cols: [n as u64, map.cols as u64],
        row_stride: map.row_bytes() as u64,
        box_rows_cols: [map.box_rows as u32, map.box_cols as u32],
        swizzle: map.swizzle,
    }
}

/// A recorded launch runs on another device, and a wrong result is detected there.
#[test]
fn recorded_launches_run_again() {
    let kernel = Kernel::from(rms_norm::Spec { cols: 40, eps: 1e-6, residual: false, out: Elem::Bf16 });
    let ptx = ptx_of([&kernel]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.cases");
    let values: Vec<f32> = (0..120).map(|at| (at * 37 % 101) as f32 * 0.02 - 1.0).collect();
    let args = [
        Arg::f32_rows(40, &values),
        Arg::F32(vec![1.5; 40]),
        Arg::Unwritten { elem: Elem::Bf16, cols: 40, n: 3 },
        Arg::Count(3),
    ];
    let kernels = Kernels::of(&ptx).recorded_by(Recorder::to(path.clone(), &ptx));
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
