//! A team of threads that run one job together and synchronize at barriers. The caller is thread 0. An idle team sleeps.
//!
//! A fork of the process has none of the threads. It starts its own with its first job.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use crate::RuntimeError;

/// Spins at a barrier before a thread sleeps: about ten microseconds, similar to the cost of a wake-up.
const SPINS: u32 = 2000;

/// A barrier for all threads of a team. Waiting threads spin briefly, then sleep.
#[derive(Debug)]
pub(super) struct Barrier {
    n_threads: u32,
    spins: u32,
    arrived: Line<AtomicU32>,
    round: Line<AtomicU32>,
    sleeping: Line<AtomicU32>,
}

/// A value on its own cache line, or pair of lines.
#[derive(Debug)]
#[repr(align(128))]
struct Line<T>(T);

impl Barrier {
    fn new(n_threads: u32) -> Barrier {
        // Spinning only helps if every thread has its own core.
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let spins = if n_threads as usize <= cores { SPINS } else { 0 };
        let line = || Line(AtomicU32::new(0));
        Barrier { n_threads, spins, arrived: line(), round: line(), sleeping: line() }
    }

    /// Returns when every thread of the team has called it. Earlier writes of all threads are then visible to all.
    pub(super) fn wait(&self) {
        if self.n_threads == 1 {
            return;
        }
        let round = self.round.0.load(Ordering::Relaxed);
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.n_threads {
            self.arrived.0.store(0, Ordering::Relaxed);
            // SeqCst orders this store before the load of `sleeping`, and a sleeper's increment before its load of `round`:
            // either this thread sees the sleeper, or the sleeper sees the new round.
            self.round.0.store(round.wrapping_add(1), Ordering::SeqCst);
            if self.sleeping.0.load(Ordering::SeqCst) > 0 {
                atomic_wait::wake_all(&self.round.0);
            }
            return;
        }
        for _ in 0..self.spins {
            if self.round.0.load(Ordering::Acquire) != round {
                return;
            }
            std::hint::spin_loop();
        }
        self.sleeping.0.fetch_add(1, Ordering::SeqCst);
        while self.round.0.load(Ordering::SeqCst) == round {
            atomic_wait::wait(&self.round.0, round);
        }
        self.sleeping.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The workers' part of a job, called once per worker with its index.
type Job<'a> = dyn Fn(usize, &Barrier) + Sync + 'a;

struct Shared {
    barrier: Barrier,
    stop: AtomicBool,
    job: UnsafeCell<Option<*const Job<'static>>>,
}

// SAFETY: thread 0 writes `job` before the barrier that starts a job, and the workers read it after that barrier. The
// workers no longer use it when thread 0 passes the barrier that ends the job. All other fields are atomic.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is only dereferenced between those two barriers, while `Team::run` borrows its target.
unsafe impl Send for Shared {}

/// Threads that wait for jobs; dropping the team ends them.
pub(super) struct Team {
    /// The process that has the threads.
    process: u32,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Team {
    /// A team of `n_threads`, including the caller.
    pub(super) fn new(n_threads: usize) -> Result<Team, RuntimeError> {
        let shared = Arc::new(Shared {
            barrier: Barrier::new(n_threads as u32),
            stop: AtomicBool::new(false),
            job: UnsafeCell::new(None),
        });
        // Workers start when all threads exist. If a thread cannot be created, the senders are dropped and the others end.
        let mut workers = Vec::with_capacity(n_threads);
        let mut senders = Vec::with_capacity(n_threads);
        for thread in 1..n_threads {
            let (sender, receiver) = mpsc::channel::<Arc<Shared>>();
            let builder = std::thread::Builder::new().name(format!("jamba-{thread}"));
            let spawned = builder.spawn(move || {
                if let Ok(shared) = receiver.recv() {
                    work(&shared, thread);
                }
            });
            workers.push(spawned.map_err(|source| RuntimeError::Thread { thread, source })?);
            senders.push(sender);
        }
        for sender in senders {
            let _ = sender.send(Arc::clone(&shared)); // the receiver waits
        }
        let mut team = Team { process: std::process::id(), shared, workers };
        // Forces thread-local allocations of all workers to happen now.
        team.run_here(|_| (), &|_, _| ());
        Ok(team)
    }

    /// Number of threads, including the caller.
    pub(super) fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `mine` on the calling thread and `others` on every worker. Returns when all have returned.
    ///
    /// # Errors
    /// In a fork of the process, threads that cannot be started.
    pub(super) fn run(&mut self, mine: impl FnOnce(&Barrier), others: &Job<'_>) -> Result<(), RuntimeError> {
        if self.is_forked() {
            *self = Team::new(self.n_threads())?;
        }
        self.run_here(mine, others);
        Ok(())
    }

    /// True in a fork of the process that started the threads.
    fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }

    fn run_here(&mut self, mine: impl FnOnce(&Barrier), others: &Job<'_>) {
        // SAFETY: only the lifetime changes; workers dereference the pointer only until the last barrier of this function.
        let job: *const Job<'static> = unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(others) };
        // SAFETY: the workers wait at the barrier below and do not access the cell.
        unsafe { *self.shared.job.get() = Some(job) };
        let _guard = AbortOnPanic;
        self.shared.barrier.wait();
        mine(&self.shared.barrier);
        self.shared.barrier.wait();
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if self.is_forked() {
            // Neither the barrier nor the threads can be waited for; their handles are not to be dropped either.
            self.workers.drain(..).for_each(std::mem::forget);
            return;
        }
        self.shared.stop.store(true, Ordering::Release);
        self.shared.barrier.wait();
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // a worker that panics aborts the process
        }
    }
}

/// Aborts the process if the thread panics. Unwinding would leave other threads at a barrier with borrows of the job.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn work(shared: &Shared, thread: usize) {
    let _guard = AbortOnPanic;
    loop {
        shared.barrier.wait();
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        // SAFETY: thread 0 wrote the cell before the barrier above and does not write it before the one below.
        if let Some(job) = unsafe { *shared.job.get() } {
            // SAFETY: `Team::run` borrows the job until this thread arrives at the barrier below.
            let job = unsafe { &*job };
            job(thread, &shared.barrier);
        }
        shared.barrier.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_thread_works_and_barriers_hold() {
        for n_threads in [1, 2, 5] {
            let mut team = Team::new(n_threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
            let job = |_: usize, barrier: &Barrier| {
                for (round, count) in counts.iter().enumerate() {
                    count.fetch_add(1, Ordering::Relaxed);
                    barrier.wait();
                    assert_eq!(count.load(Ordering::Relaxed), n_threads, "round {round}");
                }
            };
            for _ in 0..20 {
                team.run(|barrier| job(0, barrier), &job).unwrap();
                counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
            }
        }
    }

    #[test]
    fn a_fork_starts_its_own_threads() {
        let mut team = Team::new(3).unwrap();
        // SAFETY: the child only runs this block and ends without returning to the test's other threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends a child that hangs.
            unsafe { libc::alarm(300) };
            let worked = AtomicUsize::new(0);
            let count = || _ = worked.fetch_add(1, Ordering::Relaxed);
            let ran = team.run(|_| count(), &|_, _| count()).is_ok();
            drop(team);
            // SAFETY: ends the child.
            unsafe { libc::_exit(if ran && worked.load(Ordering::Relaxed) == 3 { 0 } else { 1 }) }
        }
        let mut status = -1;
        // SAFETY: the pointer is valid for the call.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
    }

    /// The kernel's state of a thread of this process: `S` while it waits for a futex.
    fn state(thread: &Path) -> char {
        let stat = std::fs::read_to_string(Path::new("/proc").join(thread).join("stat")).unwrap();
        stat.rsplit(')').next().unwrap().trim_start().chars().next().unwrap()
    }

    /// A thread that spins is running or runnable (`R`) for ever, so this test hangs, and does not fail, where a worker
    /// never sleeps. How long a worker takes to fall asleep does not matter.
    #[test]
    fn an_idle_team_sleeps() {
        let mut team = Team::new(4).unwrap();
        let workers = Mutex::new(Vec::new());
        // The link reads `PID/task/TID`.
        team.run(|_| (), &|_, _| workers.lock().unwrap().push(std::fs::read_link("/proc/thread-self").unwrap()))
            .unwrap();
        let workers = workers.into_inner().unwrap();
        assert_eq!(workers.len(), 3);
        while workers.iter().any(|worker| state(worker) != 'S') {
            std::thread::yield_now();
        }
        assert_eq!(team.shared.barrier.sleeping.0.load(Ordering::SeqCst), 3, "the workers sleep at the barrier");
    }
}
