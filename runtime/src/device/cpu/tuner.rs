//! How a job is divided: the number of threads, and of parts per thread.
//!
//! Threads meet after every run. Where meeting costs more than a thread brings, fewer threads are faster: in jobs of
//! microseconds, on a busy machine, under a quota of processor time. Where cores differ in speed, several parts per thread are
//! faster: a fast thread executes parts of a slow one. The results are the same bits for any division.
//!
//! Rates of work are compared window by window. A window is a few jobs with the same division. If the caller is idle for much of
//! its jobs, a window with more parts or with half of the threads follows; if that is faster, it stays. From time to time, windows
//! with twice the threads, or with one part per thread, follow. Windows of trial that fail become rare.

use std::time::Duration;

use super::threads::Split;

/// Least duration of a window: several time slices of another process.
const WINDOW: Duration = Duration::from_millis(10);

/// Least number of jobs in a window.
const WINDOW_JOBS: u32 = 4;

/// Least factor of the rates for which the division changes.
const GAIN: f64 = 1.05;

/// Share of the caller's time in jobs above which other divisions are tried.
const IDLE: f64 = 0.25;

/// Parts per thread where threads differ in speed.
const PARTS: usize = 4;

/// In shorter jobs, meeting may cost more than waiting shows.
const SHORT: Duration = Duration::from_micros(500);

/// Longer jobs always have all threads and several parts: a window of trial would cost too much.
const LONGEST: Duration = Duration::from_millis(100);

/// First and longest time between windows of trial; they take at most about a hundredth of the time.
const TRIAL_AFTER: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(2)];

/// Chooses the division of the jobs of one kind.
#[derive(Debug)]
pub(super) struct Tuner {
    /// All threads.
    n_threads: usize,
    /// Outside of trials.
    usual: Split,
    trial: Option<Split>,
    /// Number of trials so far, which alternate.
    n_trials: usize,
    /// Work per second of the last window outside of trials.
    rate: Option<f64>,
    window: Window,
    /// Time in jobs since the last trial.
    since_trial: Duration,
    trial_after: Duration,
}

#[derive(Debug, Default)]
struct Window {
    jobs: u32,
    work: f64,
    time: Duration,
    idle: Duration,
}

/// What a job took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Amount of work, in any unit.
    pub(super) work: f64,
    pub(super) time: Duration,
    /// Time in which the caller did not work.
    pub(super) idle: Duration,
}

impl Tuner {
    /// Starts with one part on each of `n_threads` threads.
    pub(super) fn new(n_threads: usize) -> Tuner {
        Tuner {
            n_threads,
            usual: Split { threads: n_threads, parts: 1 },
            trial: None,
            n_trials: 0,
            rate: None,
            window: Window::default(),
            since_trial: Duration::ZERO,
            trial_after: TRIAL_AFTER[0],
        }
    }

    /// The division of the next job.
    pub(super) fn split(&self) -> Split {
        self.trial.unwrap_or(self.usual)
    }

    /// Records a job that was divided by [`split`](Tuner::split).
    pub(super) fn record(&mut self, sample: Sample) {
        if self.n_threads == 1 {
            return;
        }
        if sample.time > LONGEST {
            *self = Tuner::new(self.n_threads);
            self.usual.parts = PARTS;
            return;
        }
        let window = &mut self.window;
        window.jobs += 1;
        window.work += sample.work;
        window.time += sample.time;
        window.idle += sample.idle;
        if window.time >= WINDOW && window.jobs >= WINDOW_JOBS {
            let window = std::mem::take(window);
            self.end_window(&window);
        }
    }

    fn end_window(&mut self, window: &Window) {
        let rate = window.work / window.time.as_secs_f64();
        let least = 50 * window.time / window.jobs;
        match (self.trial.take(), self.rate) {
            (Some(trial), Some(usual)) if rate > usual * GAIN => {
                self.usual = trial;
                self.rate = Some(rate);
                self.trial_after = TRIAL_AFTER[0];
            }
            // Of two divisions that are tried in turn, the second follows soon.
            (Some(_), _) if self.n_trials.is_multiple_of(2) => {
                self.trial_after = (2 * self.trial_after.max(least)).min(TRIAL_AFTER[1].max(least));
            }
            (Some(_), _) => {}
            (None, _) => {
                self.rate = Some(rate);
                self.since_trial += window.time;
                if self.since_trial >= self.trial_after.max(least) {
                    self.since_trial = Duration::ZERO;
                    let is_idle = window.idle.as_secs_f64() > IDLE * window.time.as_secs_f64();
                    self.trial = self.candidate(is_idle || window.time / window.jobs < SHORT);
                    self.n_trials += 1;
                }
            }
        }
    }

    /// The division to try, in turn. `is_idle`: finer parts or fewer threads may be faster.
    fn candidate(&self, is_idle: bool) -> Option<Split> {
        let Split { threads, parts } = self.usual;
        let fewer = (is_idle && threads > 1).then_some(Split { threads: threads.div_ceil(2), parts: 1 });
        let finer = (is_idle && threads > 1 && parts == 1).then_some(Split { threads, parts: PARTS });
        let more = (threads < self.n_threads).then_some(Split { threads: (2 * threads).min(self.n_threads), parts: 1 });
        let coarser = (parts > 1).then_some(Split { threads, parts: 1 });
        let all = [fewer, finer, more, coarser].into_iter().flatten();
        let n = all.clone().count();
        (n > 0).then(|| self.n_trials % n).and_then(|index| all.clone().nth(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs jobs for a time on a machine where a job of one unit takes `time(threads, parts)`, of which the caller is idle for a
    /// share `idle(threads, parts)`. Returns the share of the time in which `is_right`.
    fn run(
        tuner: &mut Tuner,
        time: impl Fn(usize, usize) -> Duration,
        idle: impl Fn(usize, usize) -> f64,
        is_right: impl Fn(Split) -> bool,
    ) -> f64 {
        let (total, mut now, mut right) = (Duration::from_secs(20), Duration::ZERO, Duration::ZERO);
        while now < total {
            let split = tuner.split();
            let took = time(split.threads, split.parts);
            now += took;
            right += if is_right(split) { took } else { Duration::ZERO };
            tuner.record(Sample { work: 1.0, time: took, idle: took.mul_f64(idle(split.threads, split.parts)) });
        }
        right.div_duration_f64(now)
    }

    fn has_threads(threads: usize) -> impl Fn(Split) -> bool {
        move |split| split.threads == threads
    }

    /// A caller that waits for others, if there are any.
    fn waits(idle: f64) -> impl Fn(usize, usize) -> f64 {
        move |threads, _| if threads == 1 { 0.0 } else { idle }
    }

    #[test]
    fn threads_that_bring_nothing_are_left_out() {
        let slower = |threads: usize, _: usize| Duration::from_micros(80 + 40 * threads as u64);
        assert!(run(&mut Tuner::new(8), slower, waits(0.6), has_threads(1)) > 0.95);
    }

    #[test]
    fn threads_that_bring_something_stay() {
        let faster = |threads: usize, _: usize| Duration::from_micros(8000 / threads as u64);
        assert!(run(&mut Tuner::new(8), faster, waits(0.1), has_threads(8)) > 0.999);
        // A caller that waits much is tried with fewer threads, at little cost.
        assert!(run(&mut Tuner::new(8), faster, waits(0.5), has_threads(8)) > 0.98);
    }

    #[test]
    fn threads_come_back_when_the_machine_is_free() {
        let mut tuner = Tuner::new(2);
        let busy = |threads: usize, _: usize| Duration::from_millis(if threads == 2 { 16 } else { 10 });
        let free = |threads: usize, _: usize| Duration::from_millis(if threads == 2 { 6 } else { 10 });
        assert!(run(&mut tuner, busy, waits(0.5), has_threads(1)) > 0.9);
        assert!(run(&mut tuner, free, waits(0.05), has_threads(2)) > 0.8);
    }

    #[test]
    fn parts_are_finer_where_cores_differ() {
        // Two fast cores and two slow ones; all work ends with the slow ones, or is shared.
        let hybrid = |threads: usize, parts: usize| match (threads, parts) {
            (4, 1) => Duration::from_millis(10),
            (4, _) => Duration::from_millis(7),
            _ => Duration::from_millis(10),
        };
        let idle = |_: usize, parts: usize| if parts == 1 { 0.5 } else { 0.1 };
        let is_fine = |split: Split| split.threads == 4 && split.parts > 1;
        assert!(run(&mut Tuner::new(4), hybrid, idle, is_fine) > 0.9);
        // On equal cores, several parts only cost.
        let equal = |_: usize, parts: usize| Duration::from_micros(7000 + 500 * parts as u64);
        assert!(run(&mut Tuner::new(4), equal, |_, _| 0.1, |split| split.parts == 1) > 0.99);
    }

    #[test]
    fn long_jobs_have_all_threads_and_several_parts() {
        let slower = |threads: usize, _: usize| Duration::from_millis(200 * threads as u64);
        let is_whole = |split: Split| split == Split { threads: 4, parts: PARTS };
        assert!(run(&mut Tuner::new(4), slower, waits(0.9), is_whole) > 0.9);
    }
}
