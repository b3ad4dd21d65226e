//! The CPU: pools in memory, kernels in a loaded object, N threads that walk one step list and meet at barriers.

mod code;
mod isa;
mod memory;
pub(crate) mod peaks;
mod threads;
mod weights;

use std::ops::Range;
use std::sync::Arc;

use jamba_plan::Plan;
use jamba_plan::format::{Arg, Count, Limits, Program, ProgramInfo, Step, Table};

use self::code::{Code, KernelFn};
use self::memory::Region;
use self::threads::{Barrier, Team};
use self::weights::Weights;
use super::map::PlanFile;
use super::{Counts, Device, Opened, Piece, Settings};
use crate::check::Checked;
use crate::engine::OpenOptions;
use crate::execute::{Lane, execute};
use crate::trace::{Trace, Traced};
use crate::{Progress, RuntimeError, Unit};

/// A CPU that has a plan open.
pub(crate) struct Cpu {
    team: Team,
    code: Code,
    limits: Limits,
    /// Bytes of one state slot.
    slot_bytes: usize,
    /// Bytes of one KV page.
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

/// Argument arrays of one entry's steps, one after another.
struct Arguments {
    slots: Vec<u64>,
    /// Where the array of each step begins.
    begins: Vec<usize>,
    /// Slots that hold a count, and the factor on it.
    counts: Vec<(usize, Count, u32)>,
}

impl Cpu {
    /// Takes the memory that the manifest states, loads the code, and draws the weights where they are synthetic.
    pub(crate) fn open(
        plan: &Plan<'_>,
        (info, program): (&ProgramInfo, &Program),
        file: Arc<PlanFile>,
        options: &OpenOptions<'_>,
    ) -> Result<(Cpu, Opened), RuntimeError> {
        let manifest = plan.manifest();
        let (limits, bytes) = (&manifest.limits, &info.memory);
        let target = isa::choose(&info.targets, &manifest.native_features, options.isa.as_deref())?;
        let elf = plan.code(target).ok_or(RuntimeError::NoSection("code for the target"))?;
        let code = Code::load(target, elf, &program.kernels)?;
        let n_threads = match options.threads {
            None => std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            Some(n @ 1..=MAX_THREADS) => n,
            Some(n) => {
                return Err(RuntimeError::Option { name: "threads", found: n.to_string(), expected: "1 … 1024" });
            }
        };
        let mut cpu = Cpu {
            team: Team::new(n_threads)?,
            code,
            limits: limits.clone(),
            slot_bytes: bytes.state_slot as usize,
            page_bytes: bytes.kv_page as usize,
            arena: Region::new("arena", bytes.arena)?,
            state: Region::new("state pool", bytes.state_pool(limits))?,
            kv: Region::new("KV pool", bytes.kv_pool(limits))?,
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
        cpu.entries = (0..cpu.program.entries.len()).map(|index| cpu.arguments(index)).collect();
        Ok((cpu, Opened { target: target.to_owned(), device: "cpu".to_owned(), n_threads }))
    }

    /// The argument arrays of an entry: everything but the counts is known from here on.
    fn arguments(&mut self, entry: usize) -> Arguments {
        let (arena, state, kv, tables) =
            (self.arena.address(), self.state.address(), self.kv.address(), self.tables.address());
        let weights = self.weights.address();
        let steps = &self.program.entries[entry].steps;
        let mut arguments = Arguments { slots: Vec::new(), begins: Vec::new(), counts: Vec::new() };
        for step in steps {
            arguments.begins.push(arguments.slots.len());
            for &arg in &step.args {
                let slot = match arg {
                    Arg::Arena(offset) => arena + offset,
                    Arg::State(offset) => state + offset,
                    Arg::Kv(offset) => kv + offset,
                    Arg::Weight(index) => weights + self.program.weights[index as usize].offset,
                    Arg::Table(table) => tables + table.offset(&self.limits),
                    Arg::Constant(value) => value,
                    Arg::TensorMap(_) => unreachable!("a CPU's program that was verified has no tensor maps"),
                    Arg::Count(count, factor) => {
                        arguments.counts.push((arguments.slots.len(), count, factor));
                        0
                    }
                };
                arguments.slots.push(slot);
            }
        }
        arguments
    }

    /// Where a piece lies in its pool, in bytes.
    fn range(&self, piece: Piece) -> Range<usize> {
        let (index, bytes) = match piece {
            Piece::Slot(slot) => (slot, self.slot_bytes),
            Piece::Page(page) => (page, self.page_bytes),
        };
        index as usize * bytes..(index as usize + 1) * bytes
    }

    /// The pool that a piece lies in.
    fn pool_mut(&mut self, piece: Piece) -> &mut [u8] {
        match piece {
            Piece::Slot(_) => self.state.as_mut_slice(),
            Piece::Page(_) => self.kv.as_mut_slice(),
        }
    }

    fn piece_mut(&mut self, piece: Piece) -> &mut [u8] {
        let range = self.range(piece);
        &mut self.pool_mut(piece)[range]
    }
}

/// A number of such bytes is NaN, in f32 as in bf16.
const NAN_BYTE: u8 = 0xff;

/// More threads than any machine that we know has.
const MAX_THREADS: usize = 1024;

impl Device for Cpu {
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
        let pool = match piece {
            Piece::Slot(_) => &self.state,
            Piece::Page(_) => &self.kv,
        };
        bytes.copy_from_slice(&pool.as_slice()[self.range(piece)]);
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
        let arguments = &mut self.entries[index];
        for &(slot, count, factor) in &arguments.counts {
            arguments.slots[slot] = counts.of(count) * u64::from(factor);
        }
        let (arguments, steps) = (&self.entries[index], &self.program.entries[index].steps[..]);
        let (kernels, n_threads, checked) = (&self.code.kernels[..], self.team.n_threads() as u64, self.checked);
        let job = Job { n_threads, kernels, arguments };

        let regions = [&self.arena, &self.state, &self.kv, &self.tables];
        let mut broken = None;
        let mut look = |step: usize| {
            let region = regions.iter().copied().chain(self.weights.region()).find(|region| !region.guards_hold());
            broken = broken.take().or(region.map(|region| (step, region.name)));
        };
        let mine = |barrier: &Barrier| {
            let mut lane = Thread { job: &job, thread: 0, barrier };
            let mut checked_lane;
            let mut top: &mut dyn Lane = &mut lane;
            if checked {
                checked_lane = Checked { lane: top, look: Some(&mut look) };
                top = &mut checked_lane;
            }
            match trace {
                Some(trace) => execute(steps.iter().enumerate(), &mut Traced { lane: top, trace }),
                None => execute(steps.iter().enumerate(), top),
            }
        };
        let others = |thread: usize, barrier: &Barrier| {
            let mut lane = Thread { job: &job, thread: thread as u64, barrier };
            match checked {
                true => execute(steps.iter().enumerate(), &mut Checked { lane: &mut lane, look: None }),
                false => execute(steps.iter().enumerate(), &mut lane),
            }
        };
        self.team.run(mine, &others);
        if let Some((step, region)) = broken {
            let found = &steps[step];
            let kernel = self.program.kernels[found.kernel as usize].symbol.clone();
            let source_layer = found.source.clone();
            self.broken.get_or_insert(RuntimeError::GuardBroken { step, kernel, source_layer, region });
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

/// What all threads of a run share.
struct Job<'a> {
    n_threads: u64,
    kernels: &'a [KernelFn],
    arguments: &'a Arguments,
}

/// One thread's way through a step list.
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
        let Job { n_threads, kernels, arguments } = *self.job;
        let kernel = kernels[step.kernel as usize];
        let slots = &arguments.slots[arguments.begins[index]..];
        // SAFETY: the array has as many slots as the kernel reads, and every address in it lies inside the region that
        // it points into, with as many bytes behind it as the compiler laid out: `jamba_plan::verify` and the engine
        // checked the one, the schedule's checker the other. No Rust reference to these regions is alive: the engine
        // runs steps through `&mut self`, and all threads are inside this one job.
        unsafe { kernel(slots.as_ptr(), self.thread, n_threads) };
    }
}

/// Reports progress in bytes, where somebody listens.
fn report(progress: Option<&(dyn Fn(Progress) + Sync)>, what: &'static str, done: u64, total: u64) {
    if let Some(listen) = progress {
        listen(Progress { what, done, total, unit: Unit::Bytes });
    }
}
