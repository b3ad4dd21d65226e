//! The simulator as a [`Driver`] of the runtime.
//!
//! ```text
//! let device = Simulated::new(&Device { seed: 3, ..Device::default() });
//! let counters = device.counters();
//! let mut engine = Engine::open(path, OpenOptions { driver: Some(Box::new(device)), ..options })?;
//! …
//! assert_eq!(counters.read().replays, 63);
//! ```
//!
//! It is stricter than hardware: the faulting launch reports its fault, and so does every later call; between
//! [`Driver::begin_capture`] and [`Driver::end_capture`] only launches are valid; a download of unwritten bytes is an error
//! unless [`Downloads::Anything`] is set.

mod counters;

use std::time::Instant;

use jamba_plan::format;
use jamba_runtime::gpu::{DeviceCode, DeviceInfo, Driver, DriverError, GraphId, KernelNeeds, LaunchOf, TensorMapOf};

pub use counters::{Counters, Counts, KernelCounts};

use crate::gpu::MAX_SHARED;
use crate::{Element, Fault, FaultKind, Gpu, Launch, Module, Options, Swizzle, TensorMap};

/// Configuration of a simulated device.
#[derive(Debug, Clone)]
pub struct Device {
    /// Determines the order of blocks and warps, the completion of asynchronous work, and the error of approximate functions.
    /// Each launch and each replay makes new choices.
    pub seed: u64,
    /// Host threads. Results, counts and faults do not depend on them.
    pub threads: usize,
    /// Number of multiprocessors.
    pub n_sms: u32,
    /// Device memory in bytes. Allocations take 9/8 of their size on the host.
    pub total_bytes: u64,
    /// Most warp instructions per block.
    pub budget: u64,
    pub downloads: Downloads,
}

/// Which bytes the host may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Downloads {
    /// Bytes written by a kernel, an upload or a fill. Others are a fault.
    WrittenOnly,
    /// All bytes, for snapshots of rows with unwritten padding.
    Anything,
}

impl Default for Device {
    fn default() -> Device {
        let Options { seed, threads, budget, n_sms, .. } = Options::default();
        Device { seed, threads, n_sms, total_bytes: 4 << 30, budget, downloads: Downloads::WrittenOnly }
    }
}

/// A simulated GPU and its driver.
#[derive(Debug)]
pub struct Simulated {
    info: DeviceInfo,
    gpu: Gpu,
    downloads: Downloads,
    code: Option<Code>,
    held_bytes: u64,
    noting: Option<Vec<Noted>>,
    graphs: Vec<Vec<Noted>>,
    /// The fault that every later call reports.
    broken: Option<String>,
    counters: Counters,
}

#[derive(Debug)]
struct Code {
    module: Module,
    /// Symbols by kernel index.
    symbols: Vec<String>,
}

/// A launch in a graph.
#[derive(Debug, Clone)]
struct Noted {
    kernel: usize,
    launch: Launch,
    /// The parameters as they lie in the launch.
    words: Vec<u64>,
}

type Done<T = ()> = Result<T, DriverError>;

impl Simulated {
    /// A device without allocations or code.
    pub fn new(device: &Device) -> Simulated {
        let &Device { seed, threads, n_sms, total_bytes, budget, downloads } = device;
        let info = DeviceInfo {
            name: "PTX simulator".to_owned(),
            capability: (9, 0),
            n_sms,
            total_bytes,
            free_bytes: total_bytes,
            cuda: (12, 8),
        };
        Simulated {
            info,
            gpu: Gpu::new(Options { seed, threads, n_sms, budget, ..Options::default() }),
            downloads,
            code: None,
            held_bytes: 0,
            noting: None,
            graphs: Vec::new(),
            broken: None,
            counters: Counters::default(),
        }
    }

    /// A handle to the counts, which remains valid after the driver has moved into an engine.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// Error after a fault, and during capture.
    fn ready(&self, call: &'static str) -> Done {
        self.unbroken()?;
        match self.noting {
            Some(_) => Err(DriverError::Call { call, message: "launches are being captured".to_owned() }),
            None => Ok(()),
        }
    }

    fn unbroken(&self) -> Done {
        self.broken.as_ref().map_or(Ok(()), |message| Err(DriverError::Fault(message.clone())))
    }

    fn run(&mut self, noted: &Noted) -> Done {
        let (symbol, module) = symbol_of(&self.code, noted.kernel)?;
        let began = Instant::now();
        let parameters: Vec<u8> = noted.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        match self.gpu.launch_laid_out(module, symbol, noted.launch, &parameters) {
            Ok(stats) => {
                self.counters.note(|counts| counts.add(symbol, &stats, began.elapsed()));
                Ok(())
            }
            Err(fault) => {
                let message = fault.to_string();
                if fault.kind != FaultKind::Launch {
                    self.broken = Some(message.clone());
                }
                Err(DriverError::Fault(message))
            }
        }
    }
}

fn symbol_of(code: &Option<Code>, kernel: usize) -> Done<(&str, &Module)> {
    let refused = |message: String| DriverError::Call { call: "launch", message };
    let code = code.as_ref().ok_or_else(|| refused("no code is loaded".to_owned()))?;
    let symbol = code.symbols.get(kernel);
    let symbol = symbol.ok_or_else(|| refused(format!("kernel {kernel} of {}", code.symbols.len())))?;
    Ok((symbol, &code.module))
}

fn fault(fault: Fault) -> DriverError {
    DriverError::Fault(fault.to_string())
}

impl Driver for Simulated {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Parses the PTX and ignores the cubin. Errors have the line of the text.
    fn load(&mut self, code: DeviceCode<'_>, kernels: &[KernelNeeds<'_>]) -> Done {
        self.ready("load")?;
        if self.code.is_some() {
            return Err(DriverError::Code("code is loaded already".to_owned()));
        }
        let module = Module::parse(code.ptx).map_err(|error| DriverError::Code(error.to_string()))?;
        kernels.iter().try_for_each(|needs| check(&module, needs))?;
        let symbols = kernels.iter().map(|needs| needs.symbol.to_owned()).collect();
        self.code = Some(Code { module, symbols });
        Ok(())
    }

    fn allocate(&mut self, what: &'static str, bytes: u64) -> Done<u64> {
        self.ready("allocate")?;
        let free = self.info.total_bytes - self.held_bytes;
        if bytes > free {
            return Err(DriverError::OutOfMemory { wanted: bytes, free });
        }
        self.held_bytes += bytes;
        self.counters.note(|counts| counts.allocated_bytes += bytes);
        Ok(self.gpu.alloc(what, bytes))
    }

    fn upload(&mut self, to: u64, bytes: &[u8]) -> Done {
        self.ready("upload")?;
        self.counters.note(|counts| counts.uploaded_bytes += bytes.len() as u64);
        self.gpu.write(to, bytes).map_err(fault)
    }

    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Done {
        self.ready("download")?;
        self.counters.note(|counts| counts.downloaded_bytes += bytes.len() as u64);
        match self.downloads {
            Downloads::WrittenOnly => self.gpu.read(from, bytes).map_err(fault),
            Downloads::Anything => self.gpu.read_unchecked(from, bytes).map_err(fault),
        }
    }

    /// Unwritten bytes are unwritten in the copy.
    fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Done {
        self.ready("copy")?;
        self.gpu.copy(from, to, bytes).map_err(fault)
    }

    fn fill(&mut self, at: u64, bytes: u64, value: u8) -> Done {
        self.ready("fill")?;
        self.gpu.write(at, &vec![value; bytes as usize]).map_err(fault)
    }

    fn tensor_map(&mut self, map: &TensorMapOf) -> Done<[u8; 128]> {
        self.unbroken()?;
        let elem = match map.elem {
            format::TensorElem::F32 => Element::F32,
            format::TensorElem::Bf16 => Element::Bf16,
            format::TensorElem::I32 => Element::I32,
            format::TensorElem::I8 => Element::U8,
        };
        let swizzle = match map.swizzle {
            format::Swizzle::None => Swizzle::None,
            format::Swizzle::B128 => Swizzle::Bytes128,
        };
        let encoded = TensorMap {
            address: map.address,
            elem,
            dims: vec![map.cols, map.rows],
            strides: vec![map.row_stride],
            box_dims: vec![map.box_cols, map.box_rows],
            swizzle,
        }
        .encode();
        let refused = |message| DriverError::Call { call: "tensor_map", message };
        TensorMap::decode(&encoded).map_err(refused)?;
        Ok(encoded)
    }

    fn launch(&mut self, launch: &LaunchOf<'_>) -> Done {
        self.unbroken()?;
        let noted = Noted {
            kernel: launch.kernel,
            launch: Launch { grid: launch.grid, block: [launch.threads, 1, 1], shared_bytes: launch.shared_bytes },
            words: launch.args.to_vec(),
        };
        let Some(graph) = &mut self.noting else { return self.run(&noted) };
        let (symbol, module) = symbol_of(&self.code, noted.kernel)?;
        module.launchable(symbol, noted.launch, 8 * noted.words.len()).map_err(fault)?;
        graph.push(noted);
        Ok(())
    }

    fn synchronize(&mut self) -> Done {
        self.ready("synchronize")
    }

    fn begin_capture(&mut self) -> Done {
        self.ready("begin_capture")?;
        self.noting = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&mut self) -> Done<GraphId> {
        self.unbroken()?;
        let Some(graph) = self.noting.take() else {
            let message = "no launches are being captured".to_owned();
            return Err(DriverError::Call { call: "end_capture", message });
        };
        self.graphs.push(graph);
        self.counters.note(|counts| counts.graphs += 1);
        Ok(GraphId(self.graphs.len() - 1))
    }

    fn replay(&mut self, graph: GraphId) -> Done {
        self.ready("replay")?;
        let Some(launches) = self.graphs.get(graph.0).cloned() else {
            let message = format!("graph {} of {}", graph.0, self.graphs.len());
            return Err(DriverError::Call { call: "replay", message });
        };
        self.counters.note(|counts| counts.replays += 1);
        launches.iter().try_for_each(|noted| self.run(noted))
    }
}

/// The code contains the kernel, and its parameters and shared memory fit the launches.
fn check(module: &Module, needs: &KernelNeeds) -> Done {
    let symbol = needs.symbol;
    let Some(program) = module.program(symbol) else {
        let known: Vec<&str> = module.entries().collect();
        return Err(DriverError::Code(format!("the PTX has no entry `{symbol}`; it has {known:?}")));
    };
    let refused = |what: String| DriverError::Code(format!("PTX line {}: `{symbol}` {what}", program.line));
    if program.parameters.len() != needs.n_args {
        return Err(refused(format!("takes {} parameters, launches give {}", program.parameters.len(), needs.n_args)));
    }
    let is_known = |bytes: u32| bytes == 8 || bytes as usize == format::TENSOR_MAP_BYTES;
    if let Some((index, (_, bytes))) = program.parameters.iter().enumerate().find(|(_, (_, bytes))| !is_known(*bytes)) {
        return Err(refused(format!("takes {bytes} bytes as parameter {index}, launches give 8 or a tensor map")));
    }
    let shared = program.fixed_shared() + needs.shared_bytes;
    if shared > MAX_SHARED {
        return Err(refused(format!("takes {shared} bytes of shared memory, {MAX_SHARED} are there")));
    }
    Ok(())
}
