//! Runs work on its own thread, with a timeout and cancellation. A running thread cannot be stopped: after a timeout it is abandoned and
//! runs to its end. No new work starts while [`MOST_LEFT`] abandoned threads are running, which bounds their memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Cancel;
use crate::contain::contained;

/// Most threads whose work was given up and has not ended.
const MOST_LEFT: usize = 2;

/// How often a waiting thread looks at its [`Cancel`].
const LOOK: Duration = Duration::from_millis(5);

/// Threads whose work was given up and has not ended. Clones share the number.
#[derive(Clone, Debug, Default)]
pub(super) struct Left(Arc<AtomicUsize>);

/// Why work has no result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// The flag was set.
    Cancelled,
    /// The time was over.
    Late,
    /// Work that was given up before has not ended.
    Busy,
    /// It panicked, or there was no thread for it.
    Failed(String),
}

enum State<T> {
    Running,
    Done(Result<T, String>),
    GivenUp,
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

impl Left {
    /// Runs `work` on a thread with this stack, and waits for it.
    ///
    /// # Errors
    /// The work took longer than `time`, `cancel` was set meanwhile, or the work panicked.
    pub(super) fn run<T: Send + 'static>(
        &self,
        stack_bytes: usize,
        (time, cancel): (Duration, &Cancel),
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, GivenUp> {
        if cancel.is_cancelled() {
            return Err(GivenUp::Cancelled);
        }
        if self.0.load(Ordering::Acquire) >= MOST_LEFT {
            return Err(GivenUp::Busy);
        }
        let shared = Arc::new(Shared { state: Mutex::new(State::Running), is_done: Condvar::new() });
        let (ours, left) = (Arc::clone(&shared), self.clone());
        // A program that contains panics by the names of its threads contains those of this one.
        let name = std::thread::current().name().unwrap_or("constraint").to_owned();
        let thread = std::thread::Builder::new().name(name).stack_size(stack_bytes);
        let spawned = thread.spawn(move || {
            let result = contained(work);
            let mut state = ours.lock();
            match &*state {
                State::GivenUp => drop(left.0.fetch_sub(1, Ordering::AcqRel)),
                _ => *state = State::Done(result),
            }
            drop(state);
            ours.is_done.notify_one();
        });
        if let Err(error) = spawned {
            return Err(GivenUp::Failed(format!("cannot start a thread: {error}")));
        }
        let end = Instant::now().checked_add(time);
        let mut state = shared.lock();
        loop {
            if let State::Done(result) = std::mem::replace(&mut *state, State::Running) {
                return result.map_err(GivenUp::Failed);
            }
            let rest = end.map_or(LOOK, |end| end.saturating_duration_since(Instant::now()));
            let is_cancelled = cancel.is_cancelled();
            if is_cancelled || rest.is_zero() {
                *state = State::GivenUp;
                self.0.fetch_add(1, Ordering::AcqRel);
                return Err(if is_cancelled { GivenUp::Cancelled } else { GivenUp::Late });
            }
            state = shared.is_done.wait_timeout(state, rest.min(LOOK)).unwrap_or_else(PoisonError::into_inner).0;
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
    fn settle(left: &Left) {
        while left.0.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn work_that_ends_has_its_result() {
        let left = Left::default();
        assert_eq!(left.run(STACK, (LONG, &Cancel::new()), || 7), Ok(7));
        let panics = || -> u8 { panic!("no such rule") };
        let failed = GivenUp::Failed("its library fails: no such rule".to_owned());
        assert_eq!(left.run(STACK, (LONG, &Cancel::new()), panics), Err(failed));
        assert_eq!(left.0.load(Ordering::Acquire), 0);
    }

    #[test]
    fn work_is_given_up_when_its_time_is_over_or_nobody_waits() {
        let left = Left::default();
        let endless = || {
            let (release, held) = mpsc::channel::<()>();
            (release, move || {
                let _ = held.recv();
            })
        };
        let (first, work) = endless();
        assert_eq!(left.run(STACK, (Duration::ZERO, &Cancel::new()), work), Err(GivenUp::Late));
        // Cancelled once the work has begun.
        let (second, work) = endless();
        let cancel = Cancel::new();
        let theirs = cancel.clone();
        let work = move || {
            theirs.cancel();
            work();
        };
        assert_eq!(left.run(STACK, (LONG, &cancel), work), Err(GivenUp::Cancelled));
        assert_eq!(left.run(STACK, (LONG, &cancel), || 1), Err(GivenUp::Cancelled), "before it begins");
        // Both threads are still there.
        assert_eq!(left.run(STACK, (LONG, &Cancel::new()), || 1), Err(GivenUp::Busy));
        drop((first, second));
        settle(&left);
        assert_eq!(left.run(STACK, (LONG, &Cancel::new()), || 1), Ok(1));
    }
}
