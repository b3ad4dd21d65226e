//! Runs compiled kernels on small arrays whose surroundings expose careless kernels: guard bytes (from `LoadedKernels`), NaN in
//! row padding, NaN in unwritten results, and threads in any order.

use std::collections::BTreeMap;
use std::thread;

use jamba_plan::format::{self as packed, Init, Layout, Part, PartOrder, TargetKind, Transform, WeightFormat};
use jambac_codegen::compile::compile;
use jambac_codegen::pack::{ParameterSource, pack};
use jambac_harness::{LoadedKernels, Slot};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::kernel::{Access, Config, Elem, Kernel as _, LANES, Launch, Param, padded};
use jambac_kernels::target::{CpuTarget, X86Level};
use jambac_reference::{Tolerance, compare};

/// The level for which most tests compile.
pub const V3: X86Level = X86Level::V3;

/// The launch of a kernel on CPUs.
pub fn on_cpu(kernel: &AnySpec) -> Launch {
    kernel.lower(TargetKind::Cpu, Config::Only).swap_remove(0)
}

/// Kernels compiled into one shared object and loaded.
pub struct Kernels {
    loaded: LoadedKernels,
}

impl Kernels {
    /// Compiles each kernel once for a level; returns `None`, with a notice, if the host does not support the level.
    pub fn compile<'k>(level: X86Level, kernels: impl IntoIterator<Item = &'k AnySpec>) -> Option<Kernels> {
        let target = CpuTarget::new(level);
        let launches = kernels.into_iter().map(on_cpu).map(|launch| (launch.symbol.clone(), launch));
        let launches: BTreeMap<String, Launch> = launches.collect();
        let shared_object = compile(target, None, |module| launches.values().for_each(|launch| module.add(launch)));
        let shared_object = shared_object.unwrap_or_else(|error| panic!("{error}"));
        if !target.runs_here() {
            eprintln!("SKIPPED: this machine does not run {target}");
            return None;
        }
        Some(Kernels { loaded: LoadedKernels::load(&shared_object).unwrap_or_else(|error| panic!("{error}")) })
    }

    /// The results of a call, one per written parameter, in order. The kernel runs with 1, 2, 3 and 7 threads: sequentially, in
    /// reverse order, and concurrently. All runs must give equal bits.
    pub fn run(&self, kernel: &AnySpec, args: &[Arg]) -> Vec<Array> {
        let expected = self.run_once(kernel, args, 1, Order::Ascending);
        for n_threads in [2, 3, 7] {
            for order in [Order::Ascending, Order::Descending, Order::Together] {
                let found = self.run_once(kernel, args, n_threads, order);
                let same = found.iter().zip(&expected).all(|(found, expected)| found.bits() == expected.bits());
                assert!(
                    same,
                    "{}: {n_threads} threads, {order:?}: other bits than one thread's",
                    on_cpu(kernel).symbol
                );
            }
        }
        expected
    }

    /// The results of a call with `n_threads` threads, executed sequentially.
    pub fn run_on(&self, n_threads: u64, kernel: &AnySpec, args: &[Arg]) -> Vec<Array> {
        self.run_once(kernel, args, n_threads, Order::Ascending)
    }

    fn run_once(&self, kernel: &AnySpec, args: &[Arg], n_threads: u64, order: Order) -> Vec<Array> {
        let launch = on_cpu(kernel);
        let (symbol, params) = (&launch.symbol, launch.params());
        assert_eq!(args.len(), params.len(), "{symbol}: arguments");
        let mut arrays: Vec<Option<Array>> = args.iter().map(|arg| arg.array().cloned()).collect();
        let slots = params.iter().zip(args).zip(&mut arrays).map(|((param, arg), array)| match (param, arg, array) {
            (Param::Buffer { name, access, elem, inner }, _, Some(array)) => {
                array.check(symbol, name, *elem, inner);
                array.slot(*access)
            }
            (Param::Scalar { .. }, Arg::Scalar(value), _) => Slot::Scalar(*value as u64),
            (param, ..) => panic!("{symbol}: an argument of another kind than {param:?}"),
        });
        let slots = slots.collect();
        let call = self.loaded.prepare(symbol, slots).unwrap_or_else(|error| panic!("{symbol}: {error}"));
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
        let written = |param: &Param| param.access().is_some_and(|access| access != Access::Read);
        params.iter().zip(arrays).filter(|(param, _)| written(param)).filter_map(|(_, array)| array).collect()
    }
}

/// The order in which threads run.
#[derive(Clone, Copy, Debug)]
enum Order {
    Ascending,
    Descending,
    Together,
}

#[derive(Clone, Debug)]
pub enum Arg {
    /// A buffer with its content before the call.
    Array(Array),
    /// An integer.
    Scalar(usize),
}

impl Arg {
    /// Rows of `cols` columns, each padded with NaN.
    pub fn rows(cols: usize, values: &[f32]) -> Arg {
        Arg::Array(Array::Rows { cols, data: pad(cols, values) })
    }

    /// `n` result rows, initialized with NaN.
    pub fn unwritten(cols: usize, n: usize) -> Arg {
        Arg::rows(cols, &vec![f32::NAN; cols * n])
    }

    /// A packed vector, padded with zeros.
    pub fn vector(values: &[f32]) -> Arg {
        let mut data = values.to_vec();
        data.resize(padded(values.len()), 0.0);
        Arg::Array(Array::F32(data))
    }

    /// A dense array.
    pub fn f32(values: &[f32]) -> Arg {
        Arg::Array(Array::F32(values.to_vec()))
    }

    /// A table.
    pub fn i32(values: &[i32]) -> Arg {
        Arg::Array(Array::I32(values.to_vec()))
    }

    pub fn weight(weight: &Weight) -> Arg {
        Arg::Array(Array::Packed { elem: weight.elem, bytes: weight.bytes.clone() })
    }

    fn array(&self) -> Option<&Array> {
        match self {
            Arg::Array(array) => Some(array),
            Arg::Scalar(_) => None,
        }
    }
}

/// Contents of a buffer.
#[derive(Clone, Debug)]
pub enum Array {
    /// Padded rows of f32.
    Rows {
        /// Columns per row, excluding padding.
        cols: usize,
        /// All elements, including padding.
        data: Vec<f32>,
    },
    /// A dense array of f32.
    F32(Vec<f32>),
    /// A table of i32.
    I32(Vec<i32>),
    /// Elements of any type, as bytes.
    Packed { elem: Elem, bytes: Vec<u8> },
}

impl Array {
    /// The f32 elements, excluding padding.
    pub fn f32(&self) -> Vec<f32> {
        match self {
            Array::Rows { cols, data } => {
                data.chunks_exact(padded(*cols)).flat_map(|row| &row[..*cols]).copied().collect()
            }
            Array::F32(data) => data.clone(),
            _ => panic!("not an array of f32"),
        }
    }

    pub fn i32(&self) -> &[i32] {
        match self {
            Array::I32(data) => data,
            _ => panic!("not an array of i32"),
        }
    }

    /// The bits that must not depend on the number of threads: everything except padding.
    fn bits(&self) -> Vec<u32> {
        match self {
            Array::Rows { .. } | Array::F32(_) => self.f32().iter().map(|x| x.to_bits()).collect(),
            Array::I32(data) => data.iter().map(|&x| x as u32).collect(),
            Array::Packed { bytes, .. } => bytes.iter().map(|&byte| byte.into()).collect(),
        }
    }

    fn check(&self, symbol: &str, name: &str, elem: Elem, inner: &[usize]) {
        let found = match self {
            Array::Rows { .. } | Array::F32(_) => Elem::F32,
            Array::I32(_) => Elem::I32,
            Array::Packed { elem, .. } => *elem,
        };
        assert_eq!(found, elem, "{symbol}: element type of {name}");
        if let Array::Rows { cols, .. } = self {
            assert_eq!([padded(*cols)], *inner, "{symbol}: row of {name}");
        }
    }

    fn slot(&mut self, access: Access) -> Slot<'_> {
        match (self, access) {
            (Array::Rows { data, .. } | Array::F32(data), Access::Read) => Slot::read(data),
            (Array::Rows { data, .. } | Array::F32(data), _) => Slot::write(data),
            (Array::I32(data), Access::Read) => Slot::read(data),
            (Array::I32(data), _) => Slot::write(data),
            (Array::Packed { bytes, .. }, Access::Read) => Slot::read(bytes),
            (Array::Packed { bytes, .. }, _) => Slot::write(bytes),
        }
    }
}

/// Rows of f32 padded with NaN.
fn pad(cols: usize, values: &[f32]) -> Vec<f32> {
    let mut data = Vec::new();
    for row in values.chunks_exact(cols) {
        data.extend_from_slice(row);
        data.resize(data.len().next_multiple_of(LANES), f32::NAN);
    }
    data
}

/// A stack of matrices, unpacked for the reference and packed.
#[derive(Clone)]
pub struct Weight {
    /// Elements `[groups, n, k]`, part after part, rounded to the stored type.
    pub values: Vec<f32>,
    elem: Elem,
    bytes: Vec<u8>,
}

impl Weight {
    /// Rounds one parameter to a stored type and packs it into a layout.
    pub fn pack(values: &[f32], layout: Layout, elem: Elem) -> Weight {
        Weight::pack_parts(&[values], PartOrder::Stacked, layout, elem)
    }

    /// Rounds parameters `[groups, rows, k]` to a stored type and packs them into one weight; the numbers of rows determine the
    /// layout's n.
    pub fn pack_parts(parts: &[&[f32]], order: PartOrder, layout: Layout, elem: Elem) -> Weight {
        let (format, dtype) = match elem {
            Elem::F32 => (WeightFormat::F32, jambac_graph::DType::F32),
            Elem::Bf16 => (WeightFormat::Bf16, jambac_graph::DType::Bf16),
            Elem::F16 => (WeightFormat::F16, jambac_graph::DType::F16),
            Elem::I32 | Elem::I8 | Elem::I4 => panic!("weights of {} are not packed here", elem.name()),
        };
        let rounded = |part: &&[f32]| part.iter().map(|&x| jambac_reference::round_to(dtype, x)).collect();
        let source = Matrices { groups: layout.groups, k: layout.k, parts: parts.iter().map(rounded).collect() };
        let part = |index: usize| Part {
            parameter: index.to_string(),
            first_row: 0,
            rows: source.rows(index),
            init: Init::Normal { mean: 0.0, std: 1.0 },
        };
        let parts: Vec<Part> = (0..parts.len()).map(part).collect();
        let n = Layout::rows_of(parts.iter().map(|part| part.rows), layout.lanes).expect("few rows");
        let layout = Layout { n, ..layout };
        let bytes = layout.bytes(format).expect("a small weight");
        let weight = packed::Weight { parts, order, offset: 0, bytes, layout, format, transform: Transform::None };
        let mut bytes = Vec::new();
        pack(&source, &weight, &mut bytes).expect("a Vec takes what is written");
        Weight { values: source.parts.concat(), elem, bytes }
    }
}

/// Parameters `[groups, rows, k]`, named by their index.
struct Matrices {
    groups: u64,
    k: u64,
    parts: Vec<Vec<f32>>,
}

impl Matrices {
    fn rows(&self, part: usize) -> u64 {
        self.parts[part].len() as u64 / (self.groups * self.k)
    }
}

impl ParameterSource for Matrices {
    fn read_rows(&self, part: &str, group: u64, first: u64, n_rows: u64, out: &mut [f32]) -> std::io::Result<()> {
        let part = part.parse().expect("an index");
        let start = (group * self.rows(part) + first) * self.k;
        out.copy_from_slice(&self.parts[part][start as usize..(start + n_rows * self.k) as usize]);
        Ok(())
    }
}

/// Numbers between −1 and 1, deterministic for a seed (xorshift64*, arXiv 1402.6246).
pub fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Integers in 0 … `end`, end exclusive.
pub fn random_indices(seed: u64, n: usize, end: usize) -> Vec<i32> {
    random(seed, n).iter().map(|x| (((x + 1.0) / 2.0 * end as f32) as usize).min(end - 1) as i32).collect()
}

/// Panics and prints the differences if found is not close to expected.
#[track_caller]
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: Tolerance) {
    let report = compare(found, expected, tolerance);
    println!("{what}: max |Δ| {:.1e}, relative RMS {:.1e}", report.max_abs, report.nmse.sqrt());
    assert!(report.ok(), "{what}: {report}");
}

/// Panics if the bits differ.
#[track_caller]
pub fn assert_same_bits(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}: elements");
    let differs = found.iter().zip(expected).position(|(found, expected)| found.to_bits() != expected.to_bits());
    if let Some(at) = differs {
        panic!("{what}: element {at} is {:e}, expected the bits of {:e}", found[at], expected[at]);
    }
}
