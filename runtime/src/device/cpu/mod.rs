//! The CPU device: pools in host memory, kernels in a loaded shared object, and threads that run one step list with
//! barriers.

mod code;
pub(crate) mod isa;
mod memory;
mod observe;
pub(crate) mod peaks;
mod threads;
mod weights;

use std::ops::Range;
use std::sync::{Arc, Mutex};

use jamba_plan::Plan;
use jamba_plan::format::{Arg, Count, Limits, Program, ProgramInfo, Step, Table};

use tracing::debug_span;

use self::code::{Code, KernelFn};
use self::memory::Region;
use self::threads::{Barrier, Team};
use self::weights::Weights;
use super::map::PlanFile;
use super::{Addresses, Counts, Device, NAN_BYTE, Opened, Piece, Settings};
use crate::check::{Broken, Checked};
use crate::execute::{Lane, execute};
use crate::trace::{Trace, TraceSpan, Traced};
use crate::{OpenOptions, RuntimeError};

/// The CPU with an open plan.
pub(crate) struct Cpu {
    team: Team,
    code: Code,
    limits: Limits,
    /// Size of a state slot, in bytes.
    slot_bytes: usize,
    /// Size of a KV page, in bytes.
    page_bytes: usize,
    arena: Region,
    state: Region,
    kv: Region,
    tables: Region,
    weights: Weights,
    program: Program,
    entries: Vec<Arguments>,
    checked: bool,
    broken: Option<RuntimeError>,
}

/// Argument arrays of one entry's steps, concatenated.
struct Arguments {
    slots: Vec<u64>,
    /// Start of each step's array in `slots`.
    begins: Vec<usize>,
    /// Slots that each run sets to a count times a factor.
    counts: Vec<(usize, Count, u32)>,
}

impl Cpu {
    /// Loads the code, allocates the memory that the manifest states, with pools for the lowered limits, and maps the weights or
    /// draws synthetic ones.
    pub(crate) fn open(
        plan: &Plan<'_>,
        (info, program): (&ProgramInfo, &Program),
        file: Arc<PlanFile>,
        (options, lowered): (&OpenOptions<'_>, &Limits),
    ) -> Result<(Cpu, Opened), RuntimeError> {
        let manifest = plan.manifest();
        let (limits, bytes) = (&manifest.limits, &info.memory);
        let target = isa::choose(&info.targets, options.isa.as_deref())?;
        let elf = plan.code(target).ok_or(RuntimeError::NoSection("code for the target"))?;
        let code = debug_span!("load code", target).in_scope(|| Code::load(target, elf, &program.kernels))?;
        let n_threads = match options.threads {
            None => std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            Some(n @ 1..=MAX_THREADS) => n,
            Some(n) => {
                return Err(RuntimeError::Option { name: "threads", found: n.to_string(), expected: "1 … 1024" });
            }
        };
        let map = debug_span!("map", bytes = bytes.total(lowered)).entered();
        let mut cpu = Cpu {
            team: Team::new(n_threads)?,
            code,
            limits: limits.clone(),
            slot_bytes: bytes.state_slot as usize,
            page_bytes: bytes.kv_page as usize,
            arena: Region::new("arena", bytes.arena)?,
            state: Region::new("state pool", bytes.state_pool(lowered))?,
            kv: Region::new("KV pool", bytes.kv_pool(lowered))?,
            tables: Region::new("step tables", bytes.tables)?,
            weights: Weights::open(plan, (info, program), file, n_threads, options.progress)?,
            program: program.clone(),
            entries: Vec::new(),
            checked: false,
            broken: None,
        };
        if options.prefault {
            [&mut cpu.arena, &mut cpu.state, &mut cpu.kv, &mut cpu.tables].into_iter().for_each(Region::prefault);
            cpu.weights.prefault();
        }
        drop(map);
        cpu.entries = (0..cpu.program.entries.len()).map(|index| cpu.arguments(index)).collect();
        Ok((cpu, Opened { target: target.to_owned(), device: "cpu".to_owned(), n_threads }))
    }

    /// The argument arrays of an entry, complete except for counts.
    fn arguments(&mut self, entry: usize) -> Arguments {
        let addresses = Addresses {
            weights: self.weights.address(),
            kv: self.kv.address(),
            state: self.state.address(),
            arena: self.arena.address(),
            tables: self.tables.address(),
        };
        let steps = &self.program.entries[entry].steps;
        let mut arguments = Arguments { slots: Vec::new(), begins: Vec::new(), counts: Vec::new() };
        for step in steps {
            arguments.begins.push(arguments.slots.len());
            for &arg in &step.args {
                if let Arg::Count(count, factor) = arg {
                    arguments.counts.push((arguments.slots.len(), count, factor));
                }
                // Counts are 0 until a step sets them; verified CPU programs have no tensor maps.
                arguments.slots.push(addresses.of(arg, &self.program, &self.limits).unwrap_or(0));
            }
        }
        arguments
    }

    /// Fills in the counts of a run.
    fn set_counts(&mut self, entry: usize, counts: Counts) {
        let arguments = &mut self.entries[entry];
        for &(slot, count, factor) in &arguments.counts {
            arguments.slots[slot] = counts.of(count) * u64::from(factor);
        }
    }

    /// Byte range of a piece in its pool.
    fn range(&self, piece: Piece) -> Range<usize> {
        let (index, bytes) = match piece {
            Piece::Slot(slot) => (slot, self.slot_bytes),
            Piece::Page(page) => (page, self.page_bytes),
        };
        index as usize * bytes..(index as usize + 1) * bytes
    }

    /// The pool of a piece.
    fn pool_mut(&mut self, piece: Piece) -> &mut [u8] {
        match piece {
            Piece::Slot(_) => self.state.as_mut_slice(),
            Piece::Page(_) => self.kv.as_mut_slice(),
        }
    }

    fn piece(&self, piece: Piece) -> &[u8] {
        let pool = match piece {
            Piece::Slot(_) => &self.state,
            Piece::Page(_) => &self.kv,
        };
        &pool.as_slice()[self.range(piece)]
    }

    fn piece_mut(&mut self, piece: Piece) -> &mut [u8] {
        let range = self.range(piece);
        &mut self.pool_mut(piece)[range]
    }
}

/// Upper limit of [`OpenOptions::threads`].
const MAX_THREADS: usize = 1024;

impl Device for Cpu {
    fn as_cpu(&mut self) -> Option<&mut Cpu> {
        Some(self)
    }

    fn table(&mut self, table: Table) -> &mut [i32] {
        let begin = table.offset(&self.limits) as usize;
        let bytes = table.capacity(&self.limits) as usize * size_of::<i32>();
        bytemuck::cast_slice_mut(&mut self.tables.as_mut_slice()[begin..begin + bytes])
    }

    fn clear(&mut self, piece: Piece) {
        let unwritten = if self.checked && matches!(piece, Piece::Page(_)) { NAN_BYTE } else { 0 };
        self.piece_mut(piece).fill(unwritten);
    }

    fn discard(&mut self, piece: Piece) {
        if self.checked {
            self.piece_mut(piece).fill(NAN_BYTE);
        }
    }

    fn copy(&mut self, from: Piece, to: Piece) {
        let (source, target) = (self.range(from), self.range(to));
        self.pool_mut(to).copy_within(source, target.start);
    }

    fn read(&self, piece: Piece, bytes: &mut [u8]) {
        bytes.copy_from_slice(self.piece(piece));
    }

    /// One pass over the bytes: the copy is not filled first.
    fn copy_out(&self, piece: Piece, _bytes: usize) -> Arc<[u8]> {
        Arc::from(self.piece(piece))
    }

    fn write(&mut self, piece: Piece, bytes: &[u8]) {
        self.piece_mut(piece).copy_from_slice(bytes);
    }

    fn run(
        &mut self,
        index: usize,
        counts: Counts,
        _settings: Settings<'_>,
        trace: Option<&mut Trace>,
    ) -> Result<(), RuntimeError> {
        self.set_counts(index, counts);
        let (arguments, steps) = (&self.entries[index], &self.program.entries[index].steps[..]);
        let (kernels, n_threads, checked) = (&self.code.kernels[..], self.team.n_threads() as u64, self.checked);
        let job = Job { n_threads, kernels, arguments };
        // One list of spans per thread, if the run is traced. Each thread locks its own.
        let clock = trace.as_ref().map(|trace| trace.clock());
        let spans: Vec<Mutex<Vec<TraceSpan>>> =
            clock.iter().flat_map(|_| 0..n_threads).map(|_| Mutex::default()).collect();
        let walk = |thread: usize, lane: &mut dyn Lane| match (clock, spans.get(thread).map(Mutex::lock)) {
            (Some(clock), Some(Ok(mut spans))) => {
                execute(steps.iter().enumerate(), &mut Traced { lane, clock, spans: &mut spans });
            }
            _ => execute(steps.iter().enumerate(), lane),
        };

        let regions = [&self.arena, &self.state, &self.kv, &self.tables];
        let mut broken = None;
        let mut look = |step: usize| {
            let region = regions.iter().copied().chain(self.weights.region()).find(|region| !region.guards_hold());
            broken = broken.take().or(region.map(|region| Broken { step, region: region.name }));
        };
        let mine = |barrier: &Barrier| {
            let mut lane = Thread { job: &job, thread: 0, barrier };
            let mut checked_lane;
            let mut top: &mut dyn Lane = &mut lane;
            if checked {
                checked_lane = Checked { lane: top, look: Some(&mut look) };
                top = &mut checked_lane;
            }
            walk(0, top);
        };
        let others = |thread: usize, barrier: &Barrier| {
            let mut lane = Thread { job: &job, thread: thread as u64, barrier };
            match checked {
                true => walk(thread, &mut Checked { lane: &mut lane, look: None }),
                false => walk(thread, &mut lane),
            }
        };
        self.team.run(mine, &others)?;
        if let Some(trace) = trace {
            trace.record(spans.into_iter().map(|spans| spans.into_inner().unwrap_or_default()));
        }
        if let Some(broken) = broken {
            self.broken.get_or_insert(broken.error(&self.program, index));
        }
        Ok(())
    }

    fn logits(&self, index: usize, row: u64) -> &[f32] {
        let logits = self.program.entries[index].logits;
        let begin = (logits.offset + row * logits.row_stride) as usize;
        bytemuck::cast_slice(&self.arena.as_slice()[begin..begin + logits.n as usize * size_of::<f32>()])
    }

    fn check_steps(&mut self) {
        self.checked = true;
        self.state.as_mut_slice().fill(NAN_BYTE);
        self.kv.as_mut_slice().fill(NAN_BYTE);
    }

    fn broken_guard(&mut self) -> Option<RuntimeError> {
        self.broken.take()
    }
}

/// Inputs shared by all threads of a run.
struct Job<'a> {
    n_threads: u64,
    kernels: &'a [KernelFn],
    arguments: &'a Arguments,
}

/// The lane of one thread.
struct Thread<'a> {
    job: &'a Job<'a>,
    thread: u64,
    barrier: &'a Barrier,
}

impl Lane for Thread<'_> {
    fn wait_for_all(&mut self) {
        self.barrier.wait();
    }

    fn launch(&mut self, index: usize, step: &Step) {
        self.job.launch(index, step, self.thread);
    }
}

impl Job<'_> {
    /// One thread's share of a step.
    fn launch(&self, index: usize, step: &Step, thread: u64) {
        let Job { n_threads, kernels, arguments } = *self;
        let kernel = kernels[step.kernel as usize];
        let slots = &arguments.slots[arguments.begins[index]..];
        // SAFETY: the array has as many slots as the kernel reads, and every address points into its region
        // (`jamba_plan::verify` and the engine checked both). The kernel stays within its buffers (the schedule's verifier
        // checked their sizes). No Rust reference to the regions is alive: the engine runs steps through `&mut self`, and
        // all threads are inside this job.
        unsafe { kernel(slots.as_ptr(), thread, n_threads) };
    }
}
