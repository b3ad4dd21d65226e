//! Runs one sm_90a kernel on the simulator. Memory that it must not read is unwritten or NaN, memory that it must not write is
//! guarded. The seed determines the order of blocks and warps and the errors of approximate functions.

use half::bf16;
use jamba_plan::format::{Count, EntryKind, TargetKind};
use jambac_codegen::assemble::assemble;
use jambac_codegen::compile_ptx;
use jambac_kernels::cases::Counts;
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::hopper::{Swizzle, row_stride};
use jambac_kernels::kernel::{self, Access, Config, Elem, Kernel as _, Param, Rows, StepSize, TensorMap, choose};
use ptxsim::{Gpu, Launch, Module, Options};
use std::collections::BTreeMap;

use super::record::Recorder;
use super::toolkit;

/// Seeds for tests. Padding is unwritten for odd seeds and NaN for even ones.
pub const SEEDS: [u64; 3] = [1, 2, 3];

/// The counts of a step, from small integers.
pub fn counts(tokens: usize, sequences: usize, outputs: usize) -> Counts {
    Counts { tokens, sequences, outputs, context: 0 }
}

/// A launch and the rows that it processes.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub code: kernel::Launch,
    pub rows: Rows,
}

impl Kernel {
    /// The launches of a spec, with one row per token.
    pub fn all(spec: impl Into<AnySpec>, config: Config) -> Vec<Kernel> {
        let launches = spec.into().lower(TargetKind::Sm90a, config);
        launches.into_iter().map(|code| Kernel { code, rows: Rows::TOKENS }).collect()
    }

    /// The last launch of a spec, which computes its result.
    pub fn of(spec: impl Into<AnySpec>, config: Config) -> Kernel {
        Kernel::all(spec, config).pop().expect("a kernel has launches")
    }

    pub fn symbol(&self) -> String {
        self.code.symbol.clone()
    }

    pub fn params(&self) -> Vec<Param> {
        self.code.params()
    }

    /// Grid, threads and shared memory.
    pub fn launch(&self) -> jamba_plan::format::Launch {
        self.code.grid.expect("a GPU kernel has a grid").at(self.rows)
    }
}

/// With the config for prompts.
impl<S: Into<AnySpec>> From<S> for Kernel {
    fn from(spec: S) -> Kernel {
        let spec = spec.into();
        let step = StepSize { entry: EntryKind::Prefill, sequences: 1, rows: 1 };
        let config = choose(&spec, TargetKind::Sm90a, &step).expect("a config");
        Kernel::of(spec, config)
    }
}

/// The PTX of kernels.
pub fn ptx_of<'k>(kernels: impl IntoIterator<Item = &'k Kernel>) -> String {
    let launches: Vec<kernel::Launch> = kernels.into_iter().map(|kernel| kernel.code.clone()).collect();
    compile_ptx(&launches, None).unwrap_or_else(|error| panic!("{error}"))
}

/// Kernels as PTX, parsed by the simulator. If ptxas is installed, it must accept them without spills or warnings.
pub struct Kernels {
    module: Module,
    recorder: Option<Recorder>,
}

impl Kernels {
    /// Compiles each kernel once.
    #[track_caller]
    pub fn compile<'k>(kernels: impl IntoIterator<Item = &'k Kernel>) -> Kernels {
        let kernels: BTreeMap<String, &Kernel> = kernels.into_iter().map(|kernel| (kernel.symbol(), kernel)).collect();
        let kernels: Vec<Kernel> = kernels.into_values().cloned().collect();
        let ptx = ptx_of(&kernels);
        check_assembly(&kernels, &ptx);
        let module = Module::parse(&ptx).unwrap_or_else(|error| {
            let lines: Vec<&str> = ptx.lines().collect();
            panic!("{error}: {}", lines.get(error.line as usize - 1).unwrap_or(&""))
        });
        Kernels { module, recorder: Recorder::of(&ptx) }
    }

    /// Loads kernels from modified PTX, for mutants.
    #[track_caller]
    pub fn of(ptx: &str) -> Kernels {
        Kernels { module: Module::parse(ptx).unwrap_or_else(|error| panic!("{error}")), recorder: None }
    }

    /// Sends launches to a recorder.
    pub fn recorded_by(self, recorder: Recorder) -> Kernels {
        Kernels { recorder: Some(recorder), ..self }
    }

    /// The results of a launch in a step with these counts, one per written parameter, in order.
    #[track_caller]
    pub fn run(&self, seed: u64, kernel: &Kernel, counts: Counts, args: &[Arg]) -> Vec<Array> {
        self.run_on(Options { seed, ..Options::default() }, kernel, counts, args)
    }

    /// Like [`run`](Self::run), on a device with these options.
    #[track_caller]
    pub fn run_on(&self, options: Options, kernel: &Kernel, counts: Counts, args: &[Arg]) -> Vec<Array> {
        let seed = options.seed;
        let mut gpu = Gpu::new(options);
        let placed = place(&mut gpu, seed, kernel, args);
        self.launch(&mut gpu, kernel, counts, &placed);
        if let Some(recorder) = &self.recorder {
            recorder.note(&gpu, kernel, counts, args, &placed);
        }
        let written = |param: &Param| param.access().is_some_and(|access| access != Access::Read);
        let results = kernel.params().into_iter().zip(args).zip(&placed).filter(|((param, _), _)| written(param));
        results.map(|((param, arg), &address)| read(&gpu, kernel, &param, arg, address)).collect()
    }

    /// One launch with arguments in device memory.
    #[track_caller]
    pub fn launch(&self, gpu: &mut Gpu, kernel: &Kernel, counts: Counts, args: &[u64]) {
        let launch = kernel.launch();
        let blocks = launch.blocks(gpu.options().n_sms, |count| match count {
            Count::Tokens => counts.tokens as u64,
            Count::Sequences => counts.sequences as u64,
            Count::Outputs => counts.outputs as u64,
        });
        let grid = blocks.map(|n| u32::try_from(n).expect("a small grid"));
        let launch = Launch { grid, block: [launch.threads, 1, 1], shared_bytes: launch.shared_bytes };
        if let Err(fault) = gpu.launch(&self.module, &kernel.symbol(), launch, args) {
            panic!("{}: {fault}", kernel.symbol());
        }
    }
}

/// Panics if ptxas rejects the text, spills or warns; prints a notice if ptxas is missing.
fn check_assembly(kernels: &[Kernel], ptx: &str) {
    let Some(ptxas) = toolkit::ptxas() else { return };
    let assembled = assemble(ptxas, ptx).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(assembled.warnings, Vec::<String>::new());
    for kernel in kernels {
        let usage = assembled.kernels[&kernel.symbol()];
        println!("{}: {} registers", kernel.symbol(), usage.registers);
        assert_eq!((usage.spill_store_bytes, usage.stack_bytes), (0, 0), "{}", kernel.symbol());
    }
}

/// An argument of a kernel, with the content of its buffer before the launch.
#[derive(Clone, Debug)]
pub enum Arg {
    /// Rows of `cols` columns with the stride that `row_stride` returns; f32 or bf16. Values are rounded.
    Rows {
        elem: Elem,
        cols: usize,
        /// The elements, excluding padding.
        values: Vec<f32>,
    },
    /// `n` unwritten rows.
    Unwritten { elem: Elem, cols: usize, n: usize },
    /// A dense array of f32.
    F32(Vec<f32>),
    /// A table.
    I32(Vec<i32>),
    /// A dense array with this many unwritten elements.
    UnwrittenDense(usize),
    /// Bytes of any element type.
    Bytes(Vec<u8>),
    /// A matrix accessed through a tensor map: its rows, including padding.
    Matrix {
        /// Number of rows.
        n: usize,
        bytes: Vec<u8>,
    },
    /// A count in memory.
    Count(usize),
    /// An integer.
    Scalar(usize),
}

impl Arg {
    pub fn f32_rows(cols: usize, values: &[f32]) -> Arg {
        Arg::Rows { elem: Elem::F32, cols, values: values.to_vec() }
    }

    pub fn bf16_rows(cols: usize, values: &[f32]) -> Arg {
        Arg::Rows { elem: Elem::Bf16, cols, values: values.to_vec() }
    }

    /// Rows of bf16 accessed through a tensor map; padding is NaN, which the map must exclude.
    pub fn bf16_matrix(cols: usize, values: &[f32]) -> Arg {
        let n = values.len() / cols;
        Arg::Matrix { n, bytes: rows(Elem::Bf16, cols, values) }
    }
}

/// Contents of a buffer after the launch, excluding padding.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// f32 or bf16.
    F32(Vec<f32>),
    /// A table.
    I32(Vec<i32>),
}

impl Array {
    #[track_caller]
    pub fn f32(&self) -> &[f32] {
        match self {
            Array::F32(values) => values,
            other => panic!("not f32: {other:?}"),
        }
    }

    #[track_caller]
    pub fn i32(&self) -> &[i32] {
        match self {
            Array::I32(values) => values,
            other => panic!("not i32: {other:?}"),
        }
    }
}

/// The nearest bf16 values.
pub fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect()
}

/// Rows in memory, padded with NaN.
pub fn rows(elem: Elem, cols: usize, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in values.chunks_exact(cols) {
        let padding = row_stride(elem, cols) - cols;
        let row = row.iter().copied().chain(std::iter::repeat_n(f32::NAN, padding));
        match elem {
            Elem::F32 => row.for_each(|x| bytes.extend(x.to_le_bytes())),
            Elem::Bf16 => row.for_each(|x| bytes.extend(bf16::from_f32(x).to_le_bytes())),
            _ => panic!("rows of {}", elem.name()),
        }
    }
    bytes
}

/// Copies arguments to the device and returns the kernel's parameters.
#[track_caller]
pub fn place(gpu: &mut Gpu, seed: u64, kernel: &Kernel, args: &[Arg]) -> Vec<u64> {
    let params = kernel.params();
    assert_eq!(params.len(), args.len(), "{}: arguments", kernel.symbol());
    let pairs = params.iter().zip(args);
    pairs.map(|(param, arg)| place_one(gpu, seed, param, arg)).collect()
}

#[track_caller]
fn place_one(gpu: &mut Gpu, seed: u64, param: &Param, arg: &Arg) -> u64 {
    let name = param.name();
    let put = |gpu: &mut Gpu, bytes: &[u8]| {
        let address = gpu.alloc(name, bytes.len() as u64);
        gpu.write(address, bytes).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        address
    };
    match (param, arg) {
        (Param::Buffer { elem, inner, .. }, Arg::Rows { elem: found, cols, values }) => {
            assert_eq!((found, &[row_stride(*elem, *cols)][..]), (elem, &inner[..]), "rows of {name}");
            let address = put(gpu, &rows(*elem, *cols, values));
            let stride = (row_stride(*elem, *cols) * elem.bytes()) as u64;
            let padding = stride - (cols * elem.bytes()) as u64;
            if seed % 2 == 1 && padding > 0 {
                for row in 0..(values.len() / cols) as u64 {
                    let at = address + row * stride + stride - padding;
                    gpu.forget(at, padding).unwrap_or_else(|fault| panic!("{name}: {fault}"));
                }
            }
            address
        }
        (Param::Buffer { elem, inner, .. }, Arg::Unwritten { elem: found, cols, n }) => {
            assert_eq!((found, &[row_stride(*elem, *cols)][..]), (elem, &inner[..]), "rows of {name}");
            gpu.alloc(name, (n * row_stride(*elem, *cols) * elem.bytes()) as u64)
        }
        (Param::Buffer { elem: Elem::F32, .. }, Arg::F32(values)) => {
            put(gpu, &values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
        }
        (Param::Buffer { elem: Elem::I32, .. }, Arg::I32(values)) => {
            put(gpu, &values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
        }
        (Param::Buffer { elem, .. }, Arg::UnwrittenDense(n)) => gpu.alloc(name, (n * elem.bytes()) as u64),
        (Param::Buffer { .. }, Arg::Bytes(bytes)) => put(gpu, bytes),
        (Param::TensorMap { map, .. }, Arg::Matrix { n, bytes }) => {
            assert_eq!(bytes.len(), n * map.row_bytes(), "the matrix of {name}");
            let address = put(gpu, bytes);
            put(gpu, &encoded(map, address, *n))
        }
        (Param::Count { .. }, Arg::Count(count)) => put(gpu, &(*count as u64).to_le_bytes()),
        (Param::Scalar { .. }, Arg::Scalar(value)) => *value as u64,
        _ => panic!("an argument of another kind than {param:?}"),
    }
}

/// The encoded map of a matrix with `n` rows.
pub fn encoded(map: &TensorMap, address: u64, n: usize) -> [u8; 128] {
    let elem = match map.elem {
        Elem::Bf16 => ptxsim::Element::Bf16,
        Elem::F32 => ptxsim::Element::F32,
        Elem::I32 => ptxsim::Element::I32,
        Elem::F16 => ptxsim::Element::F16,
        Elem::I8 | Elem::I4 => ptxsim::Element::U8,
    };
    let swizzle = match map.swizzle {
        Swizzle::None => ptxsim::Swizzle::None,
        Swizzle::B128 => ptxsim::Swizzle::Bytes128,
    };
    ptxsim::TensorMap {
        address,
        elem,
        dims: vec![map.cols as u64, n as u64],
        strides: vec![map.row_bytes() as u64],
        box_dims: vec![map.box_cols as u32, map.box_rows as u32],
        swizzle,
    }
    .encode()
}

/// Reads the content of an argument's buffer after a launch.
#[track_caller]
fn read(gpu: &Gpu, kernel: &Kernel, param: &Param, arg: &Arg, address: u64) -> Array {
    let (symbol, name) = (kernel.symbol(), param.name());
    let bytes = |at: u64, n: usize| {
        let mut bytes = vec![0; n];
        gpu.read(address + at, &mut bytes).unwrap_or_else(|fault| panic!("{symbol}: {name}: {fault}"));
        bytes
    };
    let elem = param.elem().expect("a buffer has elements");
    let rows = |cols: usize, n: usize| {
        let stride = row_stride(elem, cols) * elem.bytes();
        (0..n).flat_map(|row| bytes((row * stride) as u64, cols * elem.bytes())).collect::<Vec<u8>>()
    };
    let bytes = match arg {
        Arg::Rows { cols, values, .. } => rows(*cols, values.len() / cols),
        Arg::Unwritten { cols, n, .. } => rows(*cols, *n),
        Arg::F32(values) => bytes(0, 4 * values.len()),
        Arg::I32(values) => bytes(0, 4 * values.len()),
        Arg::UnwrittenDense(n) => bytes(0, n * elem.bytes()),
        Arg::Bytes(_) | Arg::Matrix { .. } | Arg::Count(_) | Arg::Scalar(_) => {
            panic!("{symbol}: {name} is not written")
        }
    };
    let words = bytes.chunks_exact(elem.bytes());
    match elem {
        Elem::F32 => Array::F32(words.map(|word| f32::from_le_bytes(word.try_into().expect("four bytes"))).collect()),
        Elem::I32 => Array::I32(words.map(|word| i32::from_le_bytes(word.try_into().expect("four bytes"))).collect()),
        Elem::Bf16 => {
            let value = |word: &[u8]| bf16::from_le_bytes(word.try_into().expect("two bytes")).to_f32();
            Array::F32(words.map(value).collect())
        }
        other => panic!("{symbol}: {name} of {}", other.name()),
    }
}
