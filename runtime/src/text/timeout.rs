//! Runs work on its own thread, with a timeout and cancellation. A running thread cannot be stopped: after a timeout it is abandoned and
//! runs to its end. No new work starts while [`MOST_ABANDONED`] abandoned threads are running, which bounds their memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Cancel;
use crate::contain::contained;

/// Most abandoned threads that are still running.
const MOST_ABANDONED: usize = 2;

/// Interval at which a waiting thread polls its [`Cancel`].
const POLL: Duration = Duration::from_millis(5);

/// Counts abandoned threads that are still running. Clones share the counter.
#[derive(Clone, Debug, Default)]
pub(super) struct Abandoned(Arc<AtomicUsize>);

/// Why work has no result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// The flag was set.
    Cancelled,
    /// It took longer than its timeout.
    TimedOut,
    /// [`MOST_ABANDONED`] threads are still running.
    Busy,
    /// It panicked, or its thread could not be started.
    Failed(String),
}

enum State<T> {
    Running,
    Done(Result<T, String>),
    Abandoned,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    is_done: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Abandoned {
    /// Runs `work` on a thread with this stack, and waits for it.
    ///
    /// # Errors
    /// The work took longer than `time`, `cancel` was set meanwhile, or the work panicked.
    pub(super) fn run<T: Send + 'static>(
        &self,
        stack_bytes: usize,
        (time, cancel): (Duration, &Cancel),
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        if cancel.is_cancelled() {
            return Err(Unfinished::Cancelled);
        }
        if self.0.load(Ordering::Acquire) >= MOST_ABANDONED {
            return Err(Unfinished::Busy);
        }
        let shared = Arc::new(Shared { state: Mutex::new(State::Running), is_done: Condvar::new() });
        let (ours, abandoned) = (Arc::clone(&shared), self.clone());
        // A program that contains panics by the names of its threads contains those of this one.
        let name = std::thread::current().name().unwrap_or("constraint").to_owned();
        let thread = std::thread::Builder::new().name(name).stack_size(stack_bytes);
        let spawned = thread.spawn(move || {
            let result = contained(work);
            let mut state = ours.lock();
            match &*state {
                State::Abandoned => drop(abandoned.0.fetch_sub(1, Ordering::AcqRel)),
                _ => *state = State::Done(result),
            }
            drop(state);
            ours.is_done.notify_one();
        });
        if let Err(error) = spawned {
            return Err(Unfinished::Failed(format!("cannot start a thread: {error}")));
        }
        let end = Instant::now().checked_add(time);
        let mut state = shared.lock();
        loop {
            if let State::Done(result) = std::mem::replace(&mut *state, State::Running) {
                return result.map_err(Unfinished::Failed);
            }
            let rest = end.map_or(POLL, |end| end.saturating_duration_since(Instant::now()));
            let is_cancelled = cancel.is_cancelled();
            if is_cancelled || rest.is_zero() {
                *state = State::Abandoned;
                self.0.fetch_add(1, Ordering::AcqRel);
                return Err(if is_cancelled { Unfinished::Cancelled } else { Unfinished::TimedOut });
            }
            state = shared.is_done.wait_timeout(state, rest.min(POLL)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::MAX;
    const STACK: usize = 1 << 20;

    /// Waits until all work has ended.
    fn settle(abandoned: &Abandoned) {
        while abandoned.0.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn work_that_ends_has_its_result() {
        let abandoned = Abandoned::default();
        assert_eq!(abandoned.run(STACK, (LONG, &Cancel::new()), || 7), Ok(7));
        let panics = || -> u8 { panic!("no such rule") };
        let failed = Unfinished::Failed("its library fails: no such rule".to_owned());
        assert_eq!(abandoned.run(STACK, (LONG, &Cancel::new()), panics), Err(failed));
        assert_eq!(abandoned.0.load(Ordering::Acquire), 0);
    }

    #[test]
    fn work_is_given_up_when_its_time_is_over_or_nobody_waits() {
        let abandoned = Abandoned::default();
        let endless = || {
            let (release, held) = mpsc::channel::<()>();
            (release, move || {
                let _ = held.recv();
            })
        };
        let (first, work) = endless();
        assert_eq!(abandoned.run(STACK, (Duration::ZERO, &Cancel::new()), work), Err(Unfinished::TimedOut));
        // Cancelled once the work has begun.
        let (second, work) = endless();
        let cancel = Cancel::new();
        let theirs = cancel.clone();
        let work = move || {
            theirs.cancel();
            work();
        };
        assert_eq!(abandoned.run(STACK, (LONG, &cancel), work), Err(Unfinished::Cancelled));
        assert_eq!(abandoned.run(STACK, (LONG, &cancel), || 1), Err(Unfinished::Cancelled), "before it begins");
        // Both threads are still there.
        assert_eq!(abandoned.run(STACK, (LONG, &Cancel::new()), || 1), Err(Unfinished::Busy));
        drop((first, second));
        settle(&abandoned);
        assert_eq!(abandoned.run(STACK, (LONG, &Cancel::new()), || 1), Ok(1));
    }
}
