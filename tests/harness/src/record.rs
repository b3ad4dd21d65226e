//! Records launches as cases for a device. With `JAMBA_KERNEL_CASES=FOLDER`, each module of kernels that a test compiles for
//! Hopper writes a file to the folder with every launch, its arguments and its results (`tests/gpu` copies them to a GPU and
//! runs them).

use std::path::PathBuf;
use std::sync::Mutex;

use gpu_bench::cases::{self, After, Before, Case, Cases, Element, Matrix};
use jamba_plan::format::TargetKind;
use jambac_kernels::cases::Counts;
use jambac_kernels::kernel::{Elem, Param, TensorMap};
use ptxsim::Gpu;

use crate::arg::Arg;
use crate::hopper::{Placed, contents};
use crate::kernel::Kernel;
use crate::layout::{Laid, is_written};

/// Launches of one module, written when the recorder is dropped.
pub(crate) struct Recorder {
    path: PathBuf,
    cases: Mutex<Cases>,
}

impl Recorder {
    /// A recorder, if the environment variable is set.
    pub(crate) fn of(ptx: &str) -> Option<Recorder> {
        let folder = PathBuf::from(std::env::var_os("JAMBA_KERNEL_CASES")?);
        let name = std::thread::current().name().unwrap_or("kernels").replace("::", ".");
        let taken = |path: &PathBuf| std::fs::File::create_new(path).is_ok();
        let path = (0..).map(|nth| folder.join(format!("{name}.{nth}.cases"))).find(taken)?;
        Some(Recorder::to(path, ptx))
    }

    pub(crate) fn to(path: PathBuf, ptx: &str) -> Recorder {
        Recorder { path, cases: Mutex::new(Cases { ptx: ptx.to_owned(), cases: Vec::new() }) }
    }

    /// Notes one launch of each kernel and counts.
    pub(crate) fn note(
        &self,
        gpu: &Gpu,
        kernel: &Kernel,
        counts: Counts,
        args: &[Arg],
        placed: &[Placed],
        before: Vec<Option<Vec<u8>>>,
    ) {
        let counts = [counts.tokens, counts.sequences, counts.outputs].map(|count| count as u64);
        let mut cases = self.cases.lock().expect("no test panics while it records");
        if cases.cases.iter().any(|case| case.symbol == kernel.symbol() && case.counts == counts) {
            return;
        }
        let (symbol, params) = (kernel.symbol(), kernel.params());
        let args = params.iter().zip(args).zip(placed).zip(before).map(|(((param, arg), placed), held)| {
            if let (Arg::At(at), Some(held)) = (arg, &held) {
                return shared(gpu, param, held.clone(), *at);
            }
            let arg = held.map_or_else(|| arg.clone(), Arg::bytes);
            record(gpu, &symbol, param, &arg, placed.word)
        });
        let args = args.collect();
        cases.cases.push(Case { symbol, launch: kernel.launch(), counts, args });
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

/// Memory that launches share: all of it from the address on, before the launch and, if the kernel writes it, after.
fn shared(gpu: &Gpu, param: &Param, before: Vec<u8>, at: u64) -> cases::Arg {
    let after = is_written(param).then(|| {
        let bytes = contents(gpu, at);
        let elem = if param.elem() == Some(Elem::F32) { Element::F32 } else { Element::Bits };
        After { elem, stride: bytes.len() as u64, row: bytes.len() as u64, bytes }
    });
    cases::Arg::Buffer(Before::Bytes(before), after)
}

fn record(gpu: &Gpu, symbol: &str, param: &Param, arg: &Arg, at: u64) -> cases::Arg {
    let laid = match (param, arg, Laid::of(TargetKind::Sm90a, symbol, param, arg)) {
        (Param::Count { .. }, Arg::Scalar(count), _) => return cases::Arg::Count(*count as u64),
        (_, Arg::Scalar(value), _) => return cases::Arg::Scalar(*value as u64),
        (.., laid) => laid.expect("an argument that is no integer has a buffer"),
    };
    let length = laid.len();
    let before = match laid.bytes.clone() {
        Some(bytes) => Before::Bytes(bytes),
        None => Before::Unwritten(length as u64),
    };
    if let (Param::TensorMap { map, .. }, Before::Bytes(bytes)) = (param, &before) {
        return cases::Arg::Map(matrix(map, length / map.row_bytes()), bytes.clone());
    }
    // A scratch buffer has padding that nothing writes.
    let has_result = is_written(param) && arg.is_own();
    let after = has_result.then(|| {
        let mut bytes = vec![0; laid.row * laid.n];
        for (index, row) in bytes.chunks_exact_mut(laid.row.max(1)).enumerate() {
            gpu.read_unchecked(at + (index * laid.stride) as u64, row).expect("a result is in memory");
        }
        let elem = match laid.elem {
            _ if laid.is_packed() => Element::Bits,
            Elem::F32 => Element::F32,
            Elem::Bf16 => Element::Bf16,
            _ => Element::Bits,
        };
        After { elem, stride: laid.stride as u64, row: laid.row as u64, bytes }
    });
    cases::Arg::Buffer(before, after)
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
