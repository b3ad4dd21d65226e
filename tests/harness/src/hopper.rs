//! Kernels of sm_90a on the simulator: what they must not read is unwritten or NaN, what they must not touch is guarded, blocks
//! and warps run in an order of the seed, approximate functions err by the seed.

use std::collections::BTreeMap;

use jamba_plan::format::{Count, TargetKind};
use jambac_codegen::assemble::assemble;
use jambac_codegen::compile_ptx;
use jambac_kernels::cases::Counts;
use jambac_kernels::kernel::{self, Elem, Param, Swizzle, TensorMap};
use ptxsim::{Gpu, Launch, Module, Options};

use crate::arg::{Arg, Array};
use crate::kernel::Kernel;
use crate::layout::{Laid, is_written};
use crate::record::Recorder;
use crate::toolkit;

/// The PTX of kernels.
#[track_caller]
pub fn ptx_of<'k>(kernels: impl IntoIterator<Item = &'k Kernel>) -> String {
    let launches: Vec<kernel::Launch> = kernels.into_iter().map(|kernel| kernel.code.clone()).collect();
    compile_ptx(&launches, None).unwrap_or_else(|error| panic!("{error}"))
}

/// A module of kernels on the simulator.
pub(crate) struct Simulator {
    module: Module,
    recorder: Option<Recorder>,
}

impl Simulator {
    /// Compiles kernels. Where ptxas is installed, it must accept them without spills or warnings.
    #[track_caller]
    pub(crate) fn compile(kernels: &[Kernel]) -> Simulator {
        let ptx = ptx_of(kernels);
        check_assembly(kernels, &ptx);
        Simulator::new(&ptx, Recorder::of(&ptx))
    }

    #[track_caller]
    pub(crate) fn new(ptx: &str, recorder: Option<Recorder>) -> Simulator {
        let module = Module::parse(ptx).unwrap_or_else(|error| {
            let lines: Vec<&str> = ptx.lines().collect();
            panic!("{error}: {}", lines.get((error.line as usize).saturating_sub(1)).unwrap_or(&""))
        });
        Simulator { module, recorder }
    }

    /// The results of each launch, which run one after the other on a device of their own.
    #[track_caller]
    pub(crate) fn run(
        &self,
        options: Options,
        kernels: &[Kernel],
        counts: Counts,
        args: &[Vec<Arg>],
    ) -> Vec<Vec<Array>> {
        let is_unwritten = options.seed % 2 == 1;
        let (mut gpu, mut scratch) = (Gpu::new(options), Scratch::new());
        let memory = &mut Memory { gpu: &mut gpu, scratch: &mut scratch, padding_is_unwritten: is_unwritten };
        kernels.iter().zip(args).map(|(kernel, args)| self.run_on(memory, kernel, counts, args)).collect()
    }

    /// The results of a launch on a device: of the arguments that it writes, in order, without scratch and [`Arg::At`].
    #[track_caller]
    pub(crate) fn run_on(&self, memory: &mut Memory, kernel: &Kernel, counts: Counts, args: &[Arg]) -> Vec<Array> {
        let (params, symbol) = (kernel.params(), kernel.symbol());
        let placed: Vec<Placed> =
            params.iter().zip(args).map(|(param, arg)| memory.place(&symbol, param, arg)).collect();
        let recorded = self.recorder.as_ref().map(|recorder| (recorder, memory.held(&params, args)));
        self.launch(memory.gpu, kernel, counts, &placed);
        if let Some((recorder, before)) = recorded {
            recorder.note(memory.gpu, kernel, counts, args, &placed, before);
        }
        let written = params.iter().zip(args).zip(&placed);
        let written = written.filter(|((param, arg), _)| is_written(param) && arg.is_own());
        written.map(|((param, arg), placed)| read(memory.gpu, kernel, param, arg, placed.word)).collect()
    }

    /// One launch with arguments that are on the device.
    #[track_caller]
    fn launch(&self, gpu: &mut Gpu, kernel: &Kernel, counts: Counts, args: &[Placed]) {
        let launch = kernel.launch();
        let blocks = launch.blocks(gpu.options().n_sms, |count| match count {
            Count::Tokens => counts.tokens as u64,
            Count::Sequences => counts.sequences as u64,
            Count::Outputs => counts.outputs as u64,
        });
        let grid = blocks.map(|n| u32::try_from(n).expect("a small grid"));
        let launch = Launch { grid, block: [launch.threads, 1, 1], shared_bytes: launch.shared_bytes };
        let args: Vec<Vec<u8>> = args.iter().map(Placed::parameter).collect();
        if let Err(fault) = gpu.launch_bytes(&self.module, &kernel.symbol(), launch, &args) {
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

fn put(gpu: &mut Gpu, name: &str, bytes: &[u8]) -> u64 {
    let address = gpu.alloc(name, bytes.len() as u64);
    gpu.write(address, bytes).unwrap_or_else(|fault| panic!("{name}: {fault}"));
    address
}

/// An argument on the device.
pub(crate) struct Placed {
    /// The address of its buffer or matrix, or an integer.
    pub(crate) word: u64,
    /// The encoded tensor map of a matrix.
    map: Option<[u8; 128]>,
}

impl Placed {
    fn of(word: u64) -> Placed {
        Placed { word, map: None }
    }

    /// The bytes of the parameter.
    fn parameter(&self) -> Vec<u8> {
        self.map.map_or_else(|| self.word.to_le_bytes().to_vec(), |map| map.to_vec())
    }
}

/// Buffers that launches share, by name.
type Scratch = BTreeMap<&'static str, u64>;

/// Memory of a device that launches share.
pub(crate) struct Memory<'a> {
    pub(crate) gpu: &'a mut Gpu,
    pub(crate) scratch: &'a mut Scratch,
    /// Whether the padding of rows is unwritten; NaN otherwise.
    pub(crate) padding_is_unwritten: bool,
}

impl Memory<'_> {
    /// Puts an argument on the device.
    #[track_caller]
    fn place(&mut self, symbol: &str, param: &Param, arg: &Arg) -> Placed {
        let (name, gpu) = (param.name(), &mut *self.gpu);
        let laid = match (Laid::of(TargetKind::Sm90a, symbol, param, arg), arg) {
            (Some(laid), _) => laid,
            (None, Arg::At(address)) => return Placed::of(*address),
            (None, Arg::Scalar(value)) if matches!(param, Param::Count { .. }) => {
                return Placed::of(put(gpu, name, &(*value as u64).to_le_bytes()));
            }
            (None, Arg::Scalar(value)) => return Placed::of(*value as u64),
            (None, _) => panic!("{symbol}: an argument of another kind than {param:?}"),
        };
        let address = match (&laid.bytes, arg) {
            (Some(bytes), _) => put(gpu, name, bytes),
            (None, Arg::Scratch { name, .. }) => {
                *self.scratch.entry(name).or_insert_with(|| gpu.alloc(name, laid.len() as u64))
            }
            (None, _) => gpu.alloc(name, laid.len() as u64),
        };
        if let Param::TensorMap { map, .. } = param {
            // The padding stays NaN, which the map must keep out.
            return Placed { word: address, map: Some(encoded(map, address, laid.len() / map.row_bytes())) };
        }
        let padding = (laid.stride - laid.row) as u64;
        if self.padding_is_unwritten && padding > 0 && laid.bytes.is_some() {
            for row in 0..laid.n as u64 {
                let at = address + row * laid.stride as u64 + laid.row as u64;
                gpu.forget(at, padding).unwrap_or_else(|fault| panic!("{name}: {fault}"));
            }
        }
        Placed::of(address)
    }

    /// What buffers hold before a launch that are not this launch's own.
    fn held(&self, params: &[Param], args: &[Arg]) -> Vec<Option<Vec<u8>>> {
        let held = |(param, arg): (&Param, &Arg)| match arg {
            Arg::Scratch { name, bytes } if !is_written(param) => {
                let mut held = vec![0; *bytes];
                self.gpu.read_unchecked(self.scratch[name], &mut held).expect("a buffer is in memory");
                Some(held)
            }
            Arg::At(address) => Some(contents(self.gpu, *address)),
            _ => None,
        };
        params.iter().zip(args).map(held).collect()
    }
}

/// The bytes from an address to the end of its allocation. Unwritten bytes are 0xff: NaN as f32 and bf16, as a device is given them.
pub(crate) fn contents(gpu: &Gpu, address: u64) -> Vec<u8> {
    let n = gpu.extent(address).unwrap_or_else(|fault| panic!("{fault}")) as usize;
    let mut bytes = vec![0; n];
    gpu.read_unchecked(address, &mut bytes).unwrap_or_else(|fault| panic!("{fault}"));
    let written = gpu.written(address, n).unwrap_or_else(|fault| panic!("{fault}"));
    bytes.iter_mut().zip(written).filter(|(_, written)| !written).for_each(|(byte, _)| *byte = 0xff);
    bytes
}

/// The map of a matrix of `n` rows.
fn encoded(map: &TensorMap, address: u64, n: usize) -> [u8; 128] {
    let elem = match map.elem {
        Elem::Bf16 => ptxsim::Element::Bf16,
        Elem::F32 => ptxsim::Element::F32,
        Elem::I32 => ptxsim::Element::I32,
        Elem::F16 => ptxsim::Element::F16,
        Elem::I8 | Elem::I4 | Elem::I3 | Elem::F8 => ptxsim::Element::U8,
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

/// What a launch left in an argument's buffer.
#[track_caller]
fn read(gpu: &Gpu, kernel: &Kernel, param: &Param, arg: &Arg, address: u64) -> Array {
    let (symbol, name) = (kernel.symbol(), param.name());
    let laid = Laid::of(TargetKind::Sm90a, &symbol, param, arg).expect("a result has a buffer");
    laid.array(|at, n| {
        let mut bytes = vec![0; n];
        gpu.read(address + at as u64, &mut bytes).unwrap_or_else(|fault| panic!("{symbol}: {name}: {fault}"));
        bytes
    })
}
