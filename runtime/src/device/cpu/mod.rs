//! The CPU device: pools in host memory, kernels in a loaded shared object, and threads that run one step list with
//! barriers.

mod affinity;
mod code;
mod image;
pub(crate) mod isa;
mod memory;
mod observe;
pub(crate) mod peaks;
mod steps;
mod threads;
mod tuner;
mod weights;

pub(crate) use affinity::own_run_time;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jamba_plan::Plan;
use jamba_plan::cost::Size;
use jamba_plan::format::{Entry, Limits, Program, ProgramInfo, Step, Table};

use tracing::debug_span;

use self::code::Code;
use self::memory::Region;
use self::steps::{EntrySteps, Steps};
use self::threads::Team;
use self::tuner::{Sample, Tuner};
use self::weights::Weights;
use super::map::PlanFile;
use super::{Addresses, Counts, Device, NAN_BYTE, Opened, Piece, Settings};
use crate::trace::Trace;
use crate::{OpenOptions, RuntimeError};

/// The CPU with an open plan.
pub(crate) struct Cpu {
    /// Dropped first: its threads use everything else.
    team: Team<Steps>,
    steps: Arc<Steps>,
    /// By entry.
    tuners: Vec<Tuner>,
    /// Time of all jobs, and the same times the threads of each.
    thread_time: (Duration, Duration),
    /// The last counts of each entry, and their work.
    works: Vec<(Counts, f64)>,
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
    checked: bool,
    broken: Option<RuntimeError>,
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
            None => n_cores(),
            Some(n @ 1..=MAX_THREADS) => n,
            Some(n) => {
                return Err(RuntimeError::Option { name: "threads", found: n.to_string(), expected: "1 … 1024" });
            }
        };
        let map = debug_span!("map", bytes = bytes.total(lowered)).entered();
        let mut arena = Region::new("arena", bytes.arena)?;
        let mut state = Region::new("state pool", bytes.state_pool(lowered))?;
        let mut kv = Region::new("KV pool", bytes.kv_pool(lowered))?;
        let mut tables = Region::new("step tables", bytes.tables)?;
        let mut weights = Weights::open(plan, (info, program), file, n_threads, options.progress)?;
        let addresses = Addresses {
            weights: weights.address(),
            kv: kv.address(),
            state: state.address(),
            arena: arena.address(),
            tables: tables.address(),
        };
        let entry = |entry: &Entry| EntrySteps::new(entry, |arg| addresses.of(arg, program, limits));
        let steps = Arc::new(Steps::new(code, program.entries.iter().map(entry).collect(), n_threads));
        let mut cpu = Cpu {
            team: Team::new(Arc::clone(&steps), n_threads)?,
            steps,
            tuners: program.entries.iter().map(|_| Tuner::new(n_threads)).collect(),
            thread_time: Default::default(),
            works: vec![Default::default(); program.entries.len()],
            limits: limits.clone(),
            slot_bytes: bytes.state_slot as usize,
            page_bytes: bytes.kv_page as usize,
            arena,
            state,
            kv,
            tables,
            weights,
            program: program.clone(),
            checked: false,
            broken: None,
        };
        if options.prefault {
            [&mut cpu.arena, &mut cpu.state, &mut cpu.kv, &mut cpu.tables].into_iter().for_each(Region::prefault);
            cpu.weights.prefault();
        }
        drop(map);
        Ok((cpu, Opened { target: target.to_owned(), device: "cpu".to_owned(), n_threads }))
    }

    /// Work of a job, in the time of bytes: a number to compare jobs of one entry.
    fn work_of(&mut self, entry: usize, counts: Counts) -> f64 {
        /// f32 operations in the time of one byte, roughly.
        const OPERATIONS: f64 = 8.0;
        let (of, found) = &mut self.works[entry];
        if *of != counts {
            let [tokens, sequences, outputs] = [counts.tokens, counts.sequences, counts.outputs].map(|n| n as f64);
            let size = Size { tokens, sequences, outputs, context: 0.0 };
            let steps = self.program.entries[entry].steps.iter();
            let work = |step: &Step| step.cost.bytes.at(size) + step.cost.operations.at(size) / OPERATIONS;
            (*of, *found) = (counts, steps.map(work).sum());
        }
        *found
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

/// Number of cores that this process may use: those of its affinity mask, or a control group's quota, rounded up.
pub(crate) fn n_cores() -> usize {
    num_cpus::get()
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
        self.steps.set_counts(index, counts);
        if self.checked {
            self.run_checked(index, trace);
            return Ok(());
        }
        if let Some(trace) = &trace {
            self.steps.begin_trace(trace.clock());
        }
        let split = self.tuners[index].split();
        let n_threads = split.threads as u32;
        let (began, ran) = (Instant::now(), own_run_time());
        let waited = self.team.run(index, split)?;
        let (time, ran) = (began.elapsed(), own_run_time().saturating_sub(ran));
        self.thread_time.0 += time;
        self.thread_time.1 += time * n_threads;
        let sample = Sample { work: self.work_of(index, counts), time, idle: time.saturating_sub(ran) + waited };
        self.tuners[index].record(sample);
        if let Some(trace) = trace {
            trace.record_parts(self.steps.end_trace());
        }
        Ok(())
    }

    fn mean_threads(&self) -> f64 {
        let (time, of_threads) = self.thread_time;
        if time.is_zero() { self.team.n_threads() as f64 } else { of_threads.div_duration_f64(time) }
    }

    fn logits(&self, index: usize, row: u64) -> &[f32] {
        let logits = self.program.entries[index].logits;
        let begin = (logits.offset + row * logits.row_stride) as usize;
        bytemuck::cast_slice(&self.arena.as_slice()[begin..begin + logits.n as usize * size_of::<f32>()])
    }

    fn check_steps(&mut self) {
        self.checked = true;
        let watched = [&mut self.arena, &mut self.state, &mut self.kv, &mut self.tables].into_iter();
        watched.for_each(Region::watch);
        self.state.as_mut_slice().fill(NAN_BYTE);
        self.kv.as_mut_slice().fill(NAN_BYTE);
    }

    fn broken_guard(&mut self) -> Option<RuntimeError> {
        self.broken.take()
    }
}
