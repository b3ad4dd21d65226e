//! Moves a thread that others wait for, and that the kernel does not schedule, to a core that runs it.
//!
//! A thread whose core has other work waits for its turn for milliseconds, a hundred times as long as a part takes. The thread
//! that waits for it has a core. It restricts the late thread to this core and sleeps, and the kernel schedules the late thread
//! there at once. When its part is complete, one of the two leaves the core to the other: it waits for a turn on another core,
//! without a part that others wait for. The caller stays, and its restriction is lifted before a job ends.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};

/// Spins between two looks at a thread's clock.
const SPINS: u32 = 200;

/// Pause of a thread that has no other core: about a turn of another process.
const PAUSE: Duration = Duration::from_millis(2);

/// A thread of a team, to the other threads.
#[derive(Debug, Default)]
pub(super) struct Seat {
    /// The kernel's number of the thread; 0 if there is none.
    thread: AtomicI32,
    is_moved: AtomicBool,
    restriction: Mutex<Option<Restriction>>,
}

/// The cores of a thread.
#[derive(Debug)]
struct Restriction {
    /// Without a restriction.
    usual: CpuSet,
    /// While it is restricted.
    now: CpuSet,
    /// The core of the thread that waited for it.
    core: usize,
}

impl Restriction {
    /// Restricts the calling thread to its usual cores without the one on which the other thread runs, or pauses if there are no
    /// others.
    fn go_elsewhere(&mut self) {
        let mut cores = self.usual;
        cores.unset(self.core);
        if cores.count() > 0 && sched_setaffinity(None, &cores).is_ok() {
            self.now = cores;
        } else {
            std::thread::sleep(PAUSE);
        }
    }
}

impl Seat {
    /// Registers the calling thread.
    pub(super) fn take(&self) {
        self.thread.store(gettid().as_raw_nonzero().get(), Ordering::Relaxed);
    }

    /// The kernel's number of the thread.
    #[cfg(test)]
    pub(super) fn number(&self) -> i32 {
        self.thread.load(Ordering::Relaxed)
    }

    /// Moves the thread to the calling thread's core if it does not run. Returns whether it was moved. `is_late` says whether the
    /// thread is still waited for.
    pub(super) fn bring_here(&self, is_late: impl Fn() -> bool) -> bool {
        let Some(thread) = Pid::from_raw(self.thread.load(Ordering::Relaxed)) else { return false };
        let Some(before) = run_time(thread) else { return false };
        for _ in 0..SPINS {
            std::hint::spin_loop();
        }
        if !is_late() || run_time(thread) != Some(before) {
            return false;
        }
        let Ok(mut restriction) = self.restriction.try_lock() else { return false };
        // The thread cannot leave its job while the lock is held.
        if self.is_moved.load(Ordering::Relaxed) || !is_late() {
            return false;
        }
        let Ok(found) = sched_getaffinity(Some(thread)) else { return false };
        let Some(core) = core() else { return false };
        let mut now = CpuSet::new();
        now.set(core);
        if sched_setaffinity(Some(thread), &now).is_err() {
            return false;
        }
        let usual =
            restriction.take().filter(|restriction| restriction.now == found).map_or(found, |found| found.usual);
        *restriction = Some(Restriction { usual, now, core });
        self.is_moved.store(true, Ordering::Release);
        true
    }

    /// If the calling thread was moved, leaves the core to the thread that waited for it.
    pub(super) fn give_way_if_moved(&self) {
        if !self.is_moved.load(Ordering::Acquire) {
            return;
        }
        if let Ok(mut restriction) = self.restriction.lock()
            && let Some(restriction) = &mut *restriction
        {
            restriction.go_elsewhere();
        }
        self.is_moved.store(false, Ordering::Release);
    }

    /// Leaves the calling thread's core to the caller of the job, which was moved to it.
    pub(super) fn give_way(&self) {
        if let (Ok(mut restriction), Ok(found), Some(core)) = (self.restriction.lock(), sched_getaffinity(None), core())
        {
            let usual =
                restriction.take().filter(|restriction| restriction.now == found).map_or(found, |found| found.usual);
            let mut new = Restriction { usual, now: CpuSet::new(), core };
            new.go_elsewhere();
            *restriction = Some(new);
        }
    }

    /// Lifts the restriction of the calling thread, if it was moved. It cannot be moved after its last part.
    pub(super) fn stay(&self) {
        if let Some(restriction) = self.restriction.lock().map_or(None, |mut restriction| restriction.take()) {
            let _ = sched_setaffinity(None, &restriction.usual);
        }
        self.is_moved.store(false, Ordering::Release);
    }

    /// Whether the thread was moved. May miss a move of this moment.
    pub(super) fn is_moved(&self) -> bool {
        self.is_moved.load(Ordering::Acquire)
    }
}

/// The core on which the calling thread runs.
fn core() -> Option<usize> {
    // SAFETY: the call has no arguments.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// Time for which the calling thread has run.
pub(super) fn own_run_time() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default()
}

/// Time for which a thread of this process has run.
fn run_time(thread: Pid) -> Option<Duration> {
    /// Bits of a clock's number: a clock of one thread, the time on a core.
    const THREAD_CLOCK: libc::clockid_t = 6;
    clock((!thread.as_raw_nonzero().get() << 3) | THREAD_CLOCK)
}

/// Of libc: the clocks of rustix read the vDSO themselves, which fails under valgrind.
fn clock(number: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid for the call.
    let status = unsafe { libc::clock_gettime(number, &mut time) };
    (status == 0).then(|| Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32))
}
