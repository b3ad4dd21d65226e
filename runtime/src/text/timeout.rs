//! Runs work on its own thread, with a timeout and cancellation. A running thread cannot be stopped: after a timeout it is abandoned and
//! runs to its end. At most half as many threads as cores run at a time, and at least two, abandoned ones included, which bounds their
//! memory. More work waits for a thread, which is part of its time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use crate::Cancel;
use crate::contain::contained;

/// Interval at which a waiting thread polls its [`Cancel`].
const POLL: Duration = Duration::from_millis(5);

/// The threads. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Threads(Arc<Running>);

#[derive(Debug)]
struct Running {
    counts: Mutex<Counts>,
    /// A thread has ended, or was abandoned.
    has_changed: Condvar,
    most: usize,
}

#[derive(Debug, Default)]
struct Counts {
    /// Threads that run, abandoned ones included.
    running: usize,
    abandoned: usize,
}

/// Why work has no result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// The flag was set.
    Cancelled,
    /// It took longer than its timeout.
    TimedOut,
    /// All threads are abandoned, or there was none for it in its time.
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Threads {
    fn default() -> Threads {
        Threads::at_most(available_parallelism().map_or(2, |cores| (cores.get() / 2).max(2)))
    }
}

/// Gives a thread's place back.
struct Place(Arc<Running>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.change(|counts| counts.running -= 1);
    }
}

impl Running {
    fn change(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut lock(&self.counts));
        self.has_changed.notify_all();
    }
}

impl Threads {
    fn at_most(most: usize) -> Threads {
        Threads(Arc::new(Running { counts: Mutex::default(), has_changed: Condvar::new(), most }))
    }

    /// Waits for a place.
    fn place(&self, end: Option<Instant>, cancel: &Cancel) -> Result<Place, Unfinished> {
        let mut counts = lock(&self.0.counts);
        loop {
            if cancel.is_cancelled() {
                return Err(Unfinished::Cancelled);
            }
            if counts.running < self.0.most {
                counts.running += 1;
                return Ok(Place(Arc::clone(&self.0)));
            }
            let rest = rest(end);
            if counts.abandoned >= self.0.most || rest.is_zero() {
                return Err(Unfinished::Busy);
            }
            let waited = self.0.has_changed.wait_timeout(counts, rest.min(POLL));
            counts = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

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
        let end = Instant::now().checked_add(time);
        let place = self.place(end, cancel)?;
        let shared = Arc::new(Shared { state: Mutex::new(State::Running), is_done: Condvar::new() });
        let ours = Arc::clone(&shared);
        // A program that contains panics by the names of its threads contains those of this one.
        let name = std::thread::current().name().unwrap_or("constraint").to_owned();
        let thread = std::thread::Builder::new().name(name).stack_size(stack_bytes);
        let spawned = thread.spawn(move || {
            let result = contained(work);
            let mut state = lock(&ours.state);
            match &*state {
                State::Abandoned => place.0.change(|counts| counts.abandoned -= 1),
                _ => *state = State::Done(result),
            }
            drop(place);
            drop(state);
            ours.is_done.notify_one();
        });
        if let Err(error) = spawned {
            return Err(Unfinished::Failed(format!("cannot start a thread: {error}")));
        }
        let mut state = lock(&shared.state);
        loop {
            if let State::Done(result) = std::mem::replace(&mut *state, State::Running) {
                return result.map_err(Unfinished::Failed);
            }
            let rest = rest(end);
            let is_cancelled = cancel.is_cancelled();
            if is_cancelled || rest.is_zero() {
                *state = State::Abandoned;
                self.0.change(|counts| counts.abandoned += 1);
                return Err(if is_cancelled { Unfinished::Cancelled } else { Unfinished::TimedOut });
            }
            state = shared.is_done.wait_timeout(state, rest.min(POLL)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The time until `end`.
fn rest(end: Option<Instant>) -> Duration {
    end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Sender};

    use super::*;

    const LONG: Duration = Duration::MAX;
    const STACK: usize = 1 << 20;

    /// Waits until all work has ended.
    fn settle(threads: &Threads) {
        while lock(&threads.0.counts).running > 0 {
            std::thread::yield_now();
        }
    }

    /// Work that ends when the sender is dropped.
    type Endless = (Sender<()>, Box<dyn FnOnce() + Send>);

    fn endless() -> Endless {
        let (release, held) = mpsc::channel::<()>();
        let wait = move || {
            let _ = held.recv();
        };
        (release, Box::new(wait))
    }

    #[test]
    fn work_that_ends_has_its_result() {
        let threads = Threads::default();
        assert_eq!(threads.run(STACK, (LONG, &Cancel::new()), || 7), Ok(7));
        let panics = || -> u8 { panic!("no such rule") };
        let failed = Unfinished::Failed("its library fails: no such rule".to_owned());
        assert_eq!(threads.run(STACK, (LONG, &Cancel::new()), panics), Err(failed));
        settle(&threads);
        assert_eq!(lock(&threads.0.counts).abandoned, 0);
    }

    #[test]
    fn work_is_given_up_when_its_time_is_over_or_nobody_waits() {
        let threads = Threads::at_most(2);
        let (first, work) = endless();
        assert_eq!(threads.run(STACK, (Duration::ZERO, &Cancel::new()), work), Err(Unfinished::TimedOut));
        // Cancelled once the work has begun.
        let (second, work) = endless();
        let cancel = Cancel::new();
        let theirs = cancel.clone();
        let work = move || {
            theirs.cancel();
            work();
        };
        assert_eq!(threads.run(STACK, (LONG, &cancel), work), Err(Unfinished::Cancelled));
        assert_eq!(threads.run(STACK, (LONG, &cancel), || 1), Err(Unfinished::Cancelled), "before it begins");
        // Both threads are still there.
        assert_eq!(threads.run(STACK, (LONG, &Cancel::new()), || 1), Err(Unfinished::Busy));
        drop((first, second));
        settle(&threads);
        assert_eq!(threads.run(STACK, (LONG, &Cancel::new()), || 1), Ok(1));
    }

    #[test]
    fn no_more_threads_run_than_the_limit_however_many_ask_at_once() {
        let threads = Threads::at_most(2);
        let (all, cancel) = ((0..6).map(|_| endless()).collect::<Vec<_>>(), Cancel::new());
        let (begins, begun) = mpsc::channel();
        let ended = std::thread::scope(|scope| {
            let ask = |(release, work): Endless| {
                let (threads, cancel, begins) = (&threads, &cancel, begins.clone());
                let told = move || {
                    let _ = begins.send(());
                    work()
                };
                scope.spawn(move || (threads.run(STACK, (LONG, cancel), told), release))
            };
            let asking: Vec<_> = all.into_iter().map(ask).collect();
            (0..2).for_each(|_| begun.recv().unwrap());
            // Those that have a thread keep it, and the others wait: with no time left, there is none for another.
            assert_eq!(threads.run(STACK, (Duration::ZERO, &Cancel::new()), || ()), Err(Unfinished::Busy));
            cancel.cancel();
            asking.into_iter().map(|asking| asking.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(ended.iter().all(|(result, _)| *result == Err(Unfinished::Cancelled)));
        let counts = |threads: &Threads| {
            let counts = lock(&threads.0.counts);
            (counts.running, counts.abandoned)
        };
        assert_eq!((counts(&threads), begun.try_iter().count()), ((2, 2), 0), "no other work has begun");
        drop(ended);
        settle(&threads);
        assert_eq!(threads.run(STACK, (LONG, &Cancel::new()), || 1), Ok(1));
        assert_eq!(counts(&threads).1, 0);
    }
}
