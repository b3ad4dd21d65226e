//! The simulated device: memory and launches.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::decode;
use crate::exec::{Block, Env};
use crate::fault::{Fault, FaultKind, ParseError};
use crate::isa::approx::Error;
use crate::memory::global::{Bad, Global};
use crate::program::Program;
use crate::rng::Rng;
use crate::stats::Stats;

/// Bytes of shared memory per block on sm_90.
pub(crate) const MAX_SHARED: u32 = 227 * 1024;

/// The decoded kernels of a PTX module.
#[derive(Debug)]
pub struct Module {
    kernels: BTreeMap<String, Program>,
}

impl Module {
    /// Parses and decodes PTX text. Instructions that are not simulated are errors.
    pub fn parse(text: &str) -> Result<Module, ParseError> {
        Ok(Module { kernels: decode::decode(text)? })
    }

    /// Names of the entries.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.kernels.keys().map(String::as_str)
    }

    pub(crate) fn program(&self, entry: &str) -> Option<&Program> {
        self.kernels.get(entry)
    }

    /// The program of an entry, if the launch with parameters of `n_bytes` bytes is valid for it.
    pub(crate) fn launchable(&self, entry: &str, launch: Launch, n_bytes: usize) -> Result<&Program, Fault> {
        let refuse = |what: String| Fault { kernel: entry.to_owned(), ..Fault::host(FaultKind::Launch, what) };
        let Some(program) = self.kernels.get(entry) else {
            let known: Vec<&str> = self.entries().collect();
            return Err(refuse(format!("no entry of that name; there are {known:?}")));
        };
        check(program, launch, n_bytes).map_err(refuse)?;
        Ok(program)
    }

    /// Static shared memory of an entry, in bytes.
    pub fn static_shared(&self, entry: &str) -> Option<u32> {
        self.kernels.get(entry).map(|program| program.shared_end - decode::SHARED_BASE)
    }
}

/// How the device behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Determines the order of blocks and warps, the completion of asynchronous work, and the error of approximate functions.
    pub seed: u64,
    /// Approximate functions are rounded to nearest, without a random error.
    pub exact_math: bool,
    /// Host threads for kernels without global atomics or strong accesses.
    pub threads: usize,
    /// Most warp instructions per block; more are a [`FaultKind::Budget`].
    pub budget: u64,
    /// Number of multiprocessors.
    pub n_sms: u32,
    /// Lanes of a warp may diverge at accesses to shared memory, and reconverge at the next instruction for the whole warp, as
    /// the hardware permits. Unsuitable for kernels with `cp.async`, whose groups belong to the warp.
    pub split_lanes: bool,
}

impl Default for Options {
    fn default() -> Options {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        Options { seed: 0, exact_math: false, threads, budget: 2_000_000_000, n_sms: 132, split_lanes: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Number of blocks.
    pub grid: [u32; 3],
    /// Threads per block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
}

/// A simulated device: its memory, and launches on it.
#[derive(Debug)]
pub struct Gpu {
    options: Options,
    memory: Global,
    /// Reused between launches.
    blocks: Vec<Block>,
    launches: u64,
    total: Stats,
}

impl Gpu {
    /// A device without allocations.
    pub fn new(options: Options) -> Gpu {
        Gpu { options, memory: Global::new(), blocks: Vec::new(), launches: 0, total: Stats::default() }
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Allocates unwritten memory at a multiple of 256. The name appears in faults.
    pub fn alloc(&mut self, name: &str, bytes: u64) -> u64 {
        self.memory.allocate(name, bytes)
    }

    /// Frees an allocation. Its first address is required.
    pub fn free(&mut self, address: u64) -> Result<(), Fault> {
        self.memory.free(address).map_err(host)
    }

    /// Copies from the host.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.memory.write(address, bytes).map_err(host)
    }

    /// Copies to the host. Unwritten bytes are a fault.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let mut first = None;
        self.memory
            .read(address, bytes, |at, written| {
                if !written && first.is_none() {
                    first = Some(at);
                }
            })
            .map_err(host)?;
        match first {
            Some(at) => {
                let place = self.memory.place(address + at as u64);
                Err(Fault::host(FaultKind::Poison, format!("the host reads unwritten memory: {place}")))
            }
            None => Ok(()),
        }
    }

    /// Copies to the host. Unwritten bytes have arbitrary values.
    pub fn read_unchecked(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        self.memory.read(address, bytes, |_, _| {}).map_err(host)
    }

    /// For each of `bytes` bytes, whether it was written.
    pub fn written(&self, address: u64, bytes: usize) -> Result<Vec<bool>, Fault> {
        let (mut data, mut out) = (vec![0; bytes], vec![false; bytes]);
        self.memory.read(address, &mut data, |at, written| out[at] = written).map_err(host)?;
        Ok(out)
    }

    /// Number of bytes from an address to the end of its allocation.
    pub fn extent(&self, address: u64) -> Result<u64, Fault> {
        self.memory.extent(address).map_err(host)
    }

    /// Marks bytes as unwritten.
    pub fn forget(&mut self, address: u64, bytes: u64) -> Result<(), Fault> {
        self.memory.forget(address, bytes).map_err(host)
    }

    /// Copies within the device, including which bytes are unwritten. The ranges must not overlap.
    pub fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), Fault> {
        self.memory.copy(from, to, bytes).map_err(host)
    }

    /// Sum over all launches.
    pub fn total(&self) -> &Stats {
        &self.total
    }

    /// Runs a kernel. `arguments` are its parameters in order, each truncated to its size.
    pub fn launch(&mut self, module: &Module, entry: &str, launch: Launch, arguments: &[u64]) -> Result<Stats, Fault> {
        let bytes: Vec<Vec<u8>> = arguments.iter().map(|value| value.to_le_bytes().to_vec()).collect();
        self.launch_bytes(module, entry, launch, &bytes)
    }

    /// As [`Gpu::launch`], with parameters of any size.
    pub fn launch_bytes(
        &mut self,
        module: &Module,
        entry: &str,
        launch: Launch,
        arguments: &[Vec<u8>],
    ) -> Result<Stats, Fault> {
        let parameters = module.kernels.get(entry).map_or(&[][..], |program| &program.parameters);
        if module.kernels.contains_key(entry) && arguments.len() != parameters.len() {
            let what = format!("{} arguments, the kernel takes {}", arguments.len(), parameters.len());
            return Err(Fault { kernel: entry.to_owned(), ..Fault::host(FaultKind::Launch, what) });
        }
        let mut laid_out = vec![0; parameters.last().map_or(0, |(offset, bytes)| (offset + bytes) as usize)];
        for ((offset, bytes), argument) in parameters.iter().zip(arguments) {
            let n = (*bytes as usize).min(argument.len());
            laid_out[*offset as usize..*offset as usize + n].copy_from_slice(&argument[..n]);
        }
        self.launch_laid_out(module, entry, launch, &laid_out)
    }

    /// As [`Gpu::launch`], with the bytes of all parameters, laid out and aligned as the kernel declares them.
    pub fn launch_laid_out(
        &mut self,
        module: &Module,
        entry: &str,
        launch: Launch,
        parameters: &[u8],
    ) -> Result<Stats, Fault> {
        let program = module.launchable(entry, launch, parameters.len())?;
        self.launches += 1;
        self.memory.begin_grid();
        let env = Env {
            program,
            global: &self.memory,
            parameters: parameters.to_vec(),
            grid: launch.grid,
            threads: launch.block,
            shared_end: (program.dynamic_shared + launch.shared_bytes).max(program.shared_end) as usize,
            n_sms: self.options.n_sms,
            error: Error { seed: self.options.seed, exact: self.options.exact_math },
            seed: self.options.seed.wrapping_add(self.launches << 32),
            launch: self.launches,
            budget: self.options.budget,
            split_lanes: self.options.split_lanes,
        };
        let stats = run(&env, self.options.threads, &mut self.blocks)?;
        self.total.add(&stats);
        Ok(stats)
    }
}

fn host(bad: Bad) -> Fault {
    Fault::host(bad.kind, bad.what)
}

fn check(program: &Program, launch: Launch, n_bytes: usize) -> Result<(), String> {
    let threads: u32 = launch.block.iter().product();
    let takes = program.parameters.last().map_or(0, |(offset, bytes)| (offset + bytes) as usize);
    if n_bytes != takes {
        return Err(format!("parameters of {n_bytes} bytes, the kernel takes {takes}"));
    }
    if launch.grid.contains(&0) || threads == 0 || threads > 1024 {
        return Err(format!("a grid of {:?} blocks of {:?} threads", launch.grid, launch.block));
    }
    if let Some(required) = program.threads
        && required != launch.block
    {
        return Err(format!("{:?} threads a block, .reqntid is {required:?}", launch.block));
    }
    if let Some(most) = program.max_threads
        && threads > most
    {
        return Err(format!("{threads} threads a block, .maxntid is {most}"));
    }
    let shared = program.fixed_shared() + launch.shared_bytes;
    if shared > MAX_SHARED {
        return Err(format!("{shared} bytes of shared memory, {MAX_SHARED} are there"));
    }
    Ok(())
}

/// Runs all blocks in shuffled order.
fn run(env: &Env, threads: usize, places: &mut Vec<Block>) -> Result<Stats, Fault> {
    let n_blocks: u32 = env.grid.iter().product();
    let mut order: Vec<u32> = (0..n_blocks).collect();
    Rng::new(env.seed, u64::MAX).shuffle(&mut order);
    if env.program.shares_global {
        return interleaved(env, &order, places);
    }
    in_parallel(env, &order, threads.clamp(1, order.len()), places)
}

/// The block state of a host thread, and its first fault with the position of the block.
type Worked = (Block, Option<(u64, Fault)>);

/// Runs independent blocks on host threads. The fault of the earliest block is reported, for determinism.
fn in_parallel(env: &Env, order: &[u32], threads: usize, places: &mut Vec<Block>) -> Result<Stats, Fault> {
    let next = AtomicU64::new(0);
    let failed_at = AtomicU64::new(u64::MAX);
    let work = |mut block: Block| -> Worked {
        loop {
            let at = next.fetch_add(1, Relaxed);
            if at >= order.len() as u64 || at > failed_at.load(Relaxed) {
                return (block, None);
            }
            block.start(env, order[at as usize]);
            if let Err(fault) = block.run(env) {
                failed_at.fetch_min(at, Relaxed);
                return (block, Some((at, fault)));
            }
        }
    };
    let mut place = || places.pop().unwrap_or_else(Block::new);
    let results: Vec<_> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| (place(), &work)).collect();
        let handles: Vec<_> = others.into_iter().map(|(block, work)| scope.spawn(|| work(block))).collect();
        let own = work(place());
        std::iter::once(Ok(own)).chain(handles.into_iter().map(|handle| handle.join())).collect()
    });
    let mut stats = Stats::default();
    let mut first: Option<(u64, Fault)> = None;
    for result in results {
        let (mut block, fault) = match result {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        stats.add(&std::mem::take(&mut block.stats));
        places.push(block);
        first = match (first, fault) {
            (Some(a), Some(b)) => Some(if a.0 <= b.0 { a } else { b }),
            (a, b) => a.or(b),
        };
    }
    first.map_or(Ok(stats), |(_, fault)| Err(fault))
}

/// Runs blocks that may wait for each other. One block per multiprocessor is resident, and resident blocks are interleaved.
fn interleaved(env: &Env, order: &[u32], places: &mut Vec<Block>) -> Result<Stats, Fault> {
    use crate::exec::block::Round;
    let mut rng = Rng::new(env.seed, u64::MAX - 1);
    let mut waiting = order.iter();
    let mut stats = Stats::default();
    let mut resident: Vec<Block> = Vec::new();
    loop {
        while resident.len() < env.n_sms as usize {
            let Some(linear) = waiting.next() else { break };
            let mut block = places.pop().unwrap_or_else(Block::new);
            block.start(env, *linear);
            resident.push(block);
        }
        if resident.is_empty() {
            return Ok(stats);
        }
        let mut stalled = 0;
        let mut at = 0;
        while at < resident.len() {
            let turns = 1 + rng.below(4);
            let mut round = Round::Progress;
            for _ in 0..turns {
                round = resident[at].round(env)?;
                if round != Round::Progress {
                    break;
                }
            }
            match round {
                Round::Finished => {
                    let mut block = resident.swap_remove(at);
                    stats.add(&std::mem::take(&mut block.stats));
                    places.push(block);
                    continue;
                }
                Round::Stalled => stalled += 1,
                Round::Progress => {}
            }
            at += 1;
        }
        if stalled == resident.len() && stalled > 0 {
            return Err(resident[0].deadlock(env));
        }
    }
}
