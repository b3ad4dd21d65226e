//! A team of threads that run jobs together. The caller is thread 0. An idle team sleeps.
//!
//! A job is a sequence of runs; a run is complete when all its parts are. Parts of a run can execute in any order on any
//! thread. Each thread has a queue of parts in each run. It claims its own parts first, then steals those of the others, so no run
//! waits for a thread that the kernel does not schedule, unless that thread has begun a part.
//!
//! Runs are numbered over the life of the team (`round`). A queue is a number of a run and the parts claimed from it, in one
//! word that is exchanged as a whole: a thread that was late for its run cannot claim a part of another one. Whoever
//! completes the last part of a run begins the next run.
//!
//! A fork of the process has none of the threads. It starts its own with its first job.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{Timespec, futex};

use super::affinity::Affinity;
use crate::RuntimeError;

/// Spins before a waiting thread looks for the thread it waits for, and sleeps: about ten microseconds, similar to the cost of
/// a wake-up.
const SPINS: u32 = 2000;

/// Spins before a thread steals parts of others, which have usually begun them: looking takes the queue's cache line from its
/// thread. A thread that stole some in the last run looks at once.
const SPINS_BEFORE_STEALING: u32 = 500;

/// Sleep of a waiting thread before it looks for a late thread again.
const NAP: Duration = Duration::from_micros(50);

/// Bits of a queue's word that count claimed parts; the other bits are the number of the run.
const PART_BITS: u32 = 16;

/// Work of a team. Everything that a thread reads before it has claimed a part must stay valid and unchanged.
pub(super) trait Work: Send + Sync + 'static {
    /// Number of runs of a job.
    fn n_runs(&self, job: usize) -> usize;

    /// Number of steps of a run.
    fn n_steps(&self, job: usize, run: usize) -> usize;

    /// Executes part `part` of `n_parts` of a step of a run.
    fn execute(&self, at: Place, part: usize, n_parts: usize);
}

/// A step of a run of a job, and the thread that executes a part of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) job: usize,
    pub(super) run: usize,
    /// Index of the step in its run.
    pub(super) step: usize,
    pub(super) thread: usize,
}

/// How a job is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Threads that take part, including the caller.
    pub(super) threads: usize,
    /// Parts of each step per thread.
    pub(super) parts: usize,
}

/// A value on its own cache line, or pair of lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

/// How long a thread has waited, and for whom.
#[derive(Debug, Default)]
struct Idle {
    /// In the last run, the thread executed parts of others.
    others_are_late: bool,
    spins: u64,
}

/// The job whose runs start at a round.
#[derive(Clone, Copy)]
struct Job {
    index: usize,
    split: Split,
    /// Round of the first run.
    base: u64,
}

/// One thread's queue of parts.
#[derive(Debug, Default)]
struct Queue {
    /// Number of the run, and how many parts of it are claimed.
    claimed: Line<AtomicU64>,
    /// The run of which the thread has begun a part; 0 if none.
    begun: Line<AtomicU64>,
}

impl Queue {
    /// Claims the next of `n` parts of a run; `None` if all are claimed, or if the run is over.
    fn claim(&self, round: u64, n: usize) -> Option<usize> {
        let mut word = self.claimed.0.load(Ordering::Relaxed);
        loop {
            let (of, claimed) = (word >> PART_BITS, (word & ((1 << PART_BITS) - 1)) as usize);
            let part = if of == round { claimed } else { 0 };
            if of > round || part >= n {
                return None;
            }
            let next = (round << PART_BITS) | (part as u64 + 1);
            // The thread has acquired the round, and with it all writes of earlier runs.
            match self.claimed.0.compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(part),
                Err(found) => word = found,
            }
        }
    }
}

/// The number of the current run. A job's runs are `base` and following; the round after them belongs to no job.
#[derive(Debug)]
#[repr(align(128))]
struct Round(AtomicU64);

impl Round {
    /// No thread has begun a part of it.
    const FIRST: u64 = 1;

    /// The current number. All writes of earlier runs are visible.
    fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// The low bits, on which threads sleep.
    #[cfg(target_endian = "little")]
    fn signal(&self) -> &AtomicU32 {
        // SAFETY: the first half of an AtomicU64 is aligned for an AtomicU32 and lives as long. It is only read.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().cast()) }
    }
}

struct Shared<W> {
    work: Arc<W>,
    queues: Box<[Queue]>,
    affinities: Box<[Affinity]>,
    spins: u32,
    stop: AtomicBool,
    round: Round,
    sleeping: Line<AtomicU32>,
    /// Completed parts of the current run.
    done: Line<AtomicU64>,
    /// The current job: index, threads, parts per thread.
    job: AtomicU64,
    base: AtomicU64,
    /// Threads of the current job, on which the others sleep.
    active: AtomicU32,
}

impl<W: Work> Shared<W> {
    fn new(work: Arc<W>, n_threads: usize) -> Shared<W> {
        // Spinning only helps if every thread has its own core.
        let cores = super::n_cores();
        Shared {
            work,
            queues: (0..n_threads).map(|_| Queue::default()).collect(),
            affinities: (0..n_threads).map(|_| Affinity::default()).collect(),
            spins: if n_threads <= cores { SPINS } else { 0 },
            stop: AtomicBool::new(false),
            round: Round(AtomicU64::new(Round::FIRST)),
            sleeping: Line::default(),
            done: Line::default(),
            job: AtomicU64::new(0),
            base: AtomicU64::new(0),
            active: AtomicU32::new(n_threads as u32),
        }
    }

    /// Begins a round: its number is visible after all earlier writes of this thread, and sleeping threads wake up.
    fn begin(&self, round: u64) {
        // SeqCst orders this before the load of `sleeping`, and a sleeper's increment before its last look at the round:
        // either this thread sees the sleeper, or the sleeper sees the new round.
        self.round.0.swap(round, Ordering::SeqCst);
        if self.sleeping.0.load(Ordering::SeqCst) > 0 {
            atomic_wait::wake_all(self.round.signal());
        }
    }

    /// The job of a round; `None` if the round belongs to none, or is over.
    fn job_of(&self, round: u64) -> Option<Job> {
        let (word, base) = (self.job.load(Ordering::Acquire), self.base.load(Ordering::Acquire));
        // Words of a later job were stored after this round was over.
        let is_current = self.round.get() == round;
        let split = Split { threads: (word >> 16 & 0xffff) as usize, parts: (word & 0xffff) as usize };
        let job = Job { index: (word >> 32) as usize, split, base };
        let has_begun = word != 0 && base <= round;
        (is_current && has_begun && round < base + self.work.n_runs(job.index) as u64).then_some(job)
    }

    /// Executes the parts of a run that this thread can claim: its own, then those of the others.
    fn take(&self, thread: usize, job: Job, round: u64, idle: &mut Idle) {
        let threads = job.split.threads;
        self.take_from(thread, thread, job, round);
        let spins = if idle.others_are_late { 0 } else { self.spins.min(SPINS_BEFORE_STEALING) };
        if self.is_over_within(spins, round, idle) {
            return;
        }
        let others = (thread + 1..threads).chain(0..thread);
        let taken: u64 = others.map(|queue| self.take_from(queue, thread, job, round)).sum();
        idle.others_are_late = taken > 0;
    }

    /// Executes the parts of a queue that this thread can claim, and returns their number.
    fn take_from(&self, queue: usize, thread: usize, job: Job, round: u64) -> u64 {
        let Split { threads, parts } = job.split;
        let run = (round - job.base) as usize;
        let n = self.work.n_steps(job.index, run) * parts;
        let mut done = 0;
        while let Some(part) = self.queues[queue].claim(round, n) {
            if done == 0 {
                self.queues[thread].begun.0.store(round, Ordering::Relaxed);
            }
            let at = Place { job: job.index, run, step: part / parts, thread };
            self.work.execute(at, queue * parts + part % parts, threads * parts);
            done += 1;
        }
        if done == 0 {
            return 0;
        }
        self.queues[thread].begun.0.store(0, Ordering::Release);
        // Releases the writes of these parts, and acquires those of all earlier ones.
        if self.done.0.fetch_add(done, Ordering::AcqRel) + done == (n * threads) as u64 {
            self.done.0.store(0, Ordering::Relaxed);
            self.begin(round + 1);
        }
        done
    }

    /// Returns when the round is over: spins, then sleeps. Meanwhile it migrates a thread that has begun a part, and that
    /// the kernel does not schedule, to this thread's core.
    fn wait(&self, thread: usize, round: u64, idle: &mut Idle) {
        if self.is_over_within(self.spins, round, idle) {
            return;
        }
        self.sleeping.0.fetch_add(1, Ordering::SeqCst);
        let mut has_migrated_caller = false;
        while self.round.get() == round && !has_migrated_caller {
            if self.job_of(round).is_none() {
                sleep(self.round.signal(), round as u32, None);
                continue;
            }
            let begun = |other: &usize| *other != thread && self.has_begun(*other, round);
            let late = (0..self.queues.len()).find(begun);
            let is_migrated =
                late.is_some_and(|late| self.affinities[late].migrate_here(|| self.has_begun(late, round)));
            has_migrated_caller = is_migrated && late == Some(0);
            if !has_migrated_caller {
                sleep(self.round.signal(), round as u32, Some(NAP));
            }
        }
        self.sleeping.0.fetch_sub(1, Ordering::SeqCst);
        // The caller goes on alone on this core for a while.
        if has_migrated_caller {
            self.affinities[thread].leave_core();
        }
    }

    /// Whether a round is over, or gets over within a number of spins.
    fn is_over_within(&self, spins: u32, round: u64, idle: &mut Idle) -> bool {
        for spin in 0..spins {
            if self.round.get() != round {
                idle.spins += u64::from(spin);
                return true;
            }
            std::hint::spin_loop();
        }
        idle.spins += u64::from(spins);
        self.round.get() != round
    }

    fn has_begun(&self, thread: usize, round: u64) -> bool {
        self.queues[thread].begun.0.load(Ordering::SeqCst) == round
    }

    /// The loop of a worker.
    fn work(&self, thread: usize) {
        let _guard = AbortOnPanic;
        self.affinities[thread].register();
        let mut idle = Idle::default();
        loop {
            // A thread that is left out sleeps until a job has more threads.
            let active = self.active.load(Ordering::Acquire);
            if active as usize <= thread && !self.stop.load(Ordering::Acquire) {
                atomic_wait::wait(&self.active, active);
                continue;
            }
            let round = self.round.get();
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            if let Some(job) = self.job_of(round).filter(|job| thread < job.split.threads) {
                self.take(thread, job, round, &mut idle);
                self.affinities[thread].leave_core_if_migrated();
            }
            self.wait(thread, round, &mut idle);
        }
    }
}

/// Threads that wait for jobs; dropping the team ends them.
pub(super) struct Team<W: Work> {
    /// The process that has the threads.
    process: u32,
    shared: Arc<Shared<W>>,
    workers: Vec<JoinHandle<()>>,
    /// Duration of a spin.
    spin: Duration,
}

impl<W: Work> Team<W> {
    /// A team of `n_threads`, including the caller.
    pub(super) fn new(work: Arc<W>, n_threads: usize) -> Result<Team<W>, RuntimeError> {
        let shared = Arc::new(Shared::new(work, n_threads));
        // Workers start when all threads exist. If a thread cannot be created, the senders are dropped and the others end.
        let mut workers = Vec::with_capacity(n_threads);
        let mut senders = Vec::with_capacity(n_threads);
        let (started, all) = mpsc::channel();
        for thread in 1..n_threads {
            let (sender, receiver) = mpsc::channel::<Arc<Shared<W>>>();
            let started = started.clone();
            let builder = std::thread::Builder::new().name(format!("jamba-{thread}"));
            let spawned = builder.spawn(move || {
                if let Ok(shared) = receiver.recv() {
                    drop(started); // all allocations of the thread are done
                    shared.work(thread);
                }
            });
            workers.push(spawned.map_err(|source| RuntimeError::Thread { thread, source })?);
            senders.push(sender);
        }
        for sender in senders {
            let _ = sender.send(Arc::clone(&shared)); // the receiver waits
        }
        drop(started);
        let _: Result<(), _> = all.recv(); // ends when the last thread has dropped its sender
        Ok(Team { process: std::process::id(), shared, workers, spin: spin() })
    }

    /// Number of threads, including the caller.
    pub(super) fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs a job. Returns when all its parts are complete; no thread executes a part then. The result is the time that
    /// the caller has spun.
    ///
    /// # Errors
    /// In a fork of the process, threads that cannot be started.
    pub(super) fn run(&mut self, job: usize, split: Split) -> Result<Duration, RuntimeError> {
        if self.is_forked() {
            *self = Team::new(Arc::clone(&self.shared.work), self.n_threads())?;
        }
        let _guard = AbortOnPanic;
        if split.threads > 1 {
            return Ok(self.run_together(job, split));
        }
        self.run_alone(job, split);
        Ok(Duration::ZERO)
    }

    fn run_alone(&self, job: usize, split: Split) {
        let work = &*self.shared.work;
        for run in 0..work.n_runs(job) {
            for step in 0..work.n_steps(job, run) {
                let at = Place { job, run, step, thread: 0 };
                (0..split.parts).for_each(|part| work.execute(at, part, split.parts));
            }
        }
    }

    fn run_together(&self, index: usize, split: Split) -> Duration {
        let shared = &*self.shared;
        let base = shared.round.get() + 1;
        let job = Job { index, split, base };
        shared.affinities[0].register();
        shared.base.store(base, Ordering::Release);
        let word = (index as u64) << 32 | (split.threads as u64) << 16 | split.parts as u64;
        shared.job.store(word, Ordering::Release);
        if shared.active.swap(split.threads as u32, Ordering::AcqRel) < split.threads as u32 {
            atomic_wait::wake_all(&shared.active);
        }
        shared.begin(base);
        let end = base + shared.work.n_runs(index) as u64;
        let (mut round, mut idle) = (base, Idle::default());
        while round < end {
            shared.take(0, job, round, &mut idle);
            if shared.affinities[0].is_migrated() {
                shared.affinities[0].restore();
            }
            shared.wait(0, round, &mut idle);
            round = shared.round.get();
        }
        shared.affinities[0].restore();
        self.spin.mul_f64(idle.spins as f64)
    }

    /// True in a fork of the process that started the threads.
    fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }
}

impl<W: Work> Drop for Team<W> {
    fn drop(&mut self) {
        if self.is_forked() {
            // The threads cannot be waited for, and their handles are not to be dropped either.
            self.workers.drain(..).for_each(std::mem::forget);
            return;
        }
        let shared = &*self.shared;
        shared.stop.store(true, Ordering::SeqCst);
        shared.active.store(u32::MAX, Ordering::SeqCst);
        atomic_wait::wake_all(&shared.active);
        shared.begin(shared.round.get() + 1);
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // a worker that panics aborts the process
        }
    }
}

/// Aborts the process if the thread panics. Unwinding would leave other threads waiting for a part.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Duration of a spin: the fastest of several tries.
fn spin() -> Duration {
    const TRIES: usize = 5;
    const N: u32 = 100;
    let spins = || {
        let began = Instant::now();
        (0..N).for_each(|_| std::hint::spin_loop());
        began.elapsed() / N
    };
    (0..TRIES).map(|_| spins()).min().unwrap_or_default()
}

/// Sleeps while `word` is `value`, at most for a time.
fn sleep(word: &AtomicU32, value: u32, at_most: Option<Duration>) {
    let time = at_most.and_then(|time| Timespec::try_from(time).ok());
    // Any error ends the sleep: the word has changed, the time is over, a signal came.
    let _ = futex::wait(word, futex::Flags::PRIVATE, value, time.as_ref());
}

#[cfg(test)]
mod tests;
