//! Teams of threads: parts, late threads, forks, sleep.

use super::*;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Condvar, Mutex};

/// Jobs of 50 runs of 3 steps. Counts the parts of each step, and checks that a run begins when the one before it is over.
#[derive(Default)]
struct Counted {
    steps: Vec<AtomicUsize>,
    /// Parts of each step.
    expected: AtomicUsize,
}

const RUNS: usize = 50;
const STEPS: usize = 3;

impl Work for Counted {
    fn n_runs(&self, _job: usize) -> usize {
        RUNS
    }

    fn n_steps(&self, _job: usize, _run: usize) -> usize {
        STEPS
    }

    fn execute(&self, at: Place, part: usize, n_parts: usize) {
        let expected = self.expected.load(Ordering::Relaxed);
        assert!(part < n_parts && n_parts == expected);
        let before = self.steps[..at.run * STEPS].iter().all(|step| step.load(Ordering::Relaxed) == expected);
        assert!(before, "run {} began early", at.run);
        self.steps[at.run * STEPS + at.step].fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn every_part_executes_once_and_runs_follow_each_other() {
    let steps = (0..RUNS * STEPS).map(|_| AtomicUsize::new(0)).collect();
    let work = Arc::new(Counted { steps, expected: AtomicUsize::new(0) });
    let mut team = Team::new(Arc::clone(&work), 5).unwrap();
    for threads in [1, 5, 2, 5, 1, 3].into_iter().cycle().take(60) {
        for parts in [1, 4] {
            work.expected.store(threads * parts, Ordering::Relaxed);
            team.run(0, Split { threads, parts }).unwrap();
            assert!(work.steps.iter().all(|step| step.swap(0, Ordering::Relaxed) == threads * parts));
        }
    }
}

/// A job of one part per thread. A part that a worker executes does not end before the caller has executed all others.
struct Late {
    by_caller: Mutex<usize>,
    changed: Condvar,
}

impl Work for Late {
    fn n_runs(&self, _job: usize) -> usize {
        1
    }

    fn n_steps(&self, _job: usize, _run: usize) -> usize {
        1
    }

    fn execute(&self, at: Place, _part: usize, n_parts: usize) {
        let mut by_caller = self.by_caller.lock().unwrap();
        if at.thread == 0 {
            *by_caller += 1;
            self.changed.notify_all();
        } else {
            drop(self.changed.wait_while(by_caller, |done| *done < n_parts - 1));
        }
    }
}

#[test]
fn a_late_thread_holds_up_its_own_part_only() {
    let work = Arc::new(Late { by_caller: Mutex::new(0), changed: Condvar::new() });
    let mut team = Team::new(Arc::clone(&work), 2).unwrap();
    for _ in 0..100 {
        *work.by_caller.lock().unwrap() = 0;
        // With four parts per thread, the caller must execute parts of the late worker's queue.
        team.run(0, Split { threads: 2, parts: 4 }).unwrap();
        assert!(*work.by_caller.lock().unwrap() >= 7);
    }
}

#[test]
fn claims_of_a_run_that_is_over_fail() {
    let queue = Queue::default();
    assert_eq!([(); 3].map(|()| queue.claim(7, 2)), [Some(0), Some(1), None]);
    assert_eq!(queue.claim(9, 2), Some(0));
    assert_eq!(queue.claim(7, 5), None, "a thread that is late for run 7");
    assert_eq!(queue.claim(9, 2), Some(1));
}

/// Jobs of one run whose parts do nothing.
struct Nothing;

impl Work for Nothing {
    fn n_runs(&self, _job: usize) -> usize {
        1
    }

    fn n_steps(&self, _job: usize, _run: usize) -> usize {
        1
    }

    fn execute(&self, _at: Place, _part: usize, _n_parts: usize) {}
}

#[test]
fn a_fork_starts_its_own_threads() {
    let steps = (0..RUNS * STEPS).map(|_| AtomicUsize::new(0)).collect();
    let work = Arc::new(Counted { steps, expected: AtomicUsize::new(3) });
    let mut team = Team::new(Arc::clone(&work), 3).unwrap();
    // SAFETY: the child only runs this block and ends without returning to the test's other threads.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends a child that hangs.
        unsafe { libc::alarm(300) };
        let ran = team.run(0, Split { threads: 3, parts: 1 }).is_ok();
        drop(team);
        let all = work.steps.iter().all(|step| step.load(Ordering::Relaxed) == 3);
        // SAFETY: ends the child.
        unsafe { libc::_exit(if ran && all { 0 } else { 1 }) }
    }
    let mut status = -1;
    // SAFETY: the pointer is valid for the call.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
}

/// The folders of the workers in /proc.
fn threads_of(team: &Team<Nothing>) -> Vec<PathBuf> {
    let own = |affinity: &Affinity| Path::new("/proc/self/task").join(affinity.number().to_string());
    team.shared.affinities[1..].iter().map(own).collect()
}

/// The kernel's state of a thread of this process: `S` while it waits for a futex.
fn state(thread: &Path) -> char {
    let stat = std::fs::read_to_string(thread.join("stat")).unwrap();
    stat.rsplit(')').next().unwrap().trim_start().chars().next().unwrap()
}

/// A thread that spins is running or runnable (`R`) for ever, so this test hangs, and does not fail, where a worker
/// never sleeps. How long a worker takes to fall asleep does not matter.
#[test]
fn an_idle_team_sleeps() {
    let mut team = Team::new(Arc::new(Nothing), 4).unwrap();
    for threads in [4, 2] {
        team.run(0, Split { threads, parts: 1 }).unwrap();
        let workers = threads_of(&team);
        assert_eq!(workers.len(), 3);
        while workers.iter().any(|worker| state(worker) != 'S') {
            std::thread::yield_now();
        }
    }
}

/// A worker that took another one for late would look for it again and again.
#[test]
fn nobody_is_late_before_the_first_job() {
    let team = Team::new(Arc::new(Nothing), 4).unwrap();
    let round = team.shared.round.get();
    assert!((0..4).all(|thread| !team.shared.has_begun(thread, round)));
    assert!(team.shared.job_of(round).is_none());
}
