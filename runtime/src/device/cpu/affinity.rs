//! Migrates a thread that others wait for, and that the kernel does not schedule, to a core that runs it.
//!
//! A thread that has lost its core to another process is scheduled again after milliseconds, a hundred times as long as a part takes.
//! The thread that waits for it has a core. It restricts the affinity of the late thread to this core and sleeps, and the kernel
//! schedules the late thread there at once. When its part is complete, one of the two leaves the core to the other: it is
//! scheduled on another core, and holds no part meanwhile. The caller of the job stays, and its affinity is restored before the
//! job ends.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};

/// Spins between two looks at a thread's clock.
const SPINS: u32 = 200;

/// Pause of a thread that has no other core: about a time slice of another process.
const PAUSE: Duration = Duration::from_millis(2);

/// The affinity of a thread of a team, which other threads may restrict.
#[derive(Debug, Default)]
pub(super) struct Affinity {
    /// The kernel's number of the thread; 0 if there is none.
    thread: AtomicI32,
    is_migrated: AtomicBool,
    restriction: Mutex<Option<Restriction>>,
}

/// The cores of a thread.
#[derive(Debug)]
struct Restriction {
    /// Without the restriction.
    original: CpuSet,
    current: CpuSet,
    /// The core of the thread that waited for it.
    core: usize,
}

impl Restriction {
    /// The affinity of a thread without its restriction, if it has one. `found` is its affinity now, which others may have set.
    fn original(restriction: &mut Option<Restriction>, found: CpuSet) -> CpuSet {
        let ours = restriction.take().filter(|restriction| restriction.current == found);
        ours.map_or(found, |restriction| restriction.original)
    }

    /// Restricts the calling thread to its other cores, or pauses if there are none.
    fn exclude_core(&mut self) {
        let mut cores = self.original;
        cores.unset(self.core);
        if cores.count() > 0 && sched_setaffinity(None, &cores).is_ok() {
            self.current = cores;
        } else {
            std::thread::sleep(PAUSE);
        }
    }
}

impl Affinity {
    /// Registers the calling thread.
    pub(super) fn register(&self) {
        self.thread.store(gettid().as_raw_nonzero().get(), Ordering::Relaxed);
    }

    /// The kernel's number of the thread.
    #[cfg(test)]
    pub(super) fn number(&self) -> i32 {
        self.thread.load(Ordering::Relaxed)
    }

    /// Migrates the thread to the calling thread's core if it does not run. Returns whether it was migrated. `is_late` says whether the
    /// thread is still waited for.
    pub(super) fn migrate_here(&self, is_late: impl Fn() -> bool) -> bool {
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
        if self.is_migrated.load(Ordering::Relaxed) || !is_late() {
            return false;
        }
        let Ok(found) = sched_getaffinity(Some(thread)) else { return false };
        let Some(core) = core() else { return false };
        let mut current = CpuSet::new();
        current.set(core);
        if sched_setaffinity(Some(thread), &current).is_err() {
            return false;
        }
        let original = Restriction::original(&mut restriction, found);
        *restriction = Some(Restriction { original, current, core });
        self.is_migrated.store(true, Ordering::Release);
        true
    }

    /// If the calling thread was migrated, leaves the core to the thread that waited for it.
    pub(super) fn leave_core_if_migrated(&self) {
        if !self.is_migrated.load(Ordering::Acquire) {
            return;
        }
        if let Ok(mut restriction) = self.restriction.lock()
            && let Some(restriction) = &mut *restriction
        {
            restriction.exclude_core();
        }
        self.is_migrated.store(false, Ordering::Release);
    }

    /// Leaves the calling thread's core to the caller of the job, which was migrated to it.
    pub(super) fn leave_core(&self) {
        if let (Ok(mut restriction), Ok(found), Some(core)) = (self.restriction.lock(), sched_getaffinity(None), core())
        {
            let original = Restriction::original(&mut restriction, found);
            let mut new = Restriction { original, current: found, core };
            new.exclude_core();
            *restriction = Some(new);
        }
    }

    /// Lifts the restriction of the calling thread, if it was migrated. It cannot be migrated after its last part.
    pub(super) fn restore(&self) {
        if let Some(restriction) = self.restriction.lock().map_or(None, |mut restriction| restriction.take()) {
            let _ = sched_setaffinity(None, &restriction.original);
        }
        self.is_migrated.store(false, Ordering::Release);
    }

    /// Whether the thread was migrated. May miss a migration of this moment.
    pub(super) fn is_migrated(&self) -> bool {
        self.is_migrated.load(Ordering::Acquire)
    }
}

/// The core on which the calling thread runs.
fn core() -> Option<usize> {
    // SAFETY: the call has no arguments.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// Time for which the calling thread has run.
pub(crate) fn own_run_time() -> Duration {
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
