//! How many threads a job gets.
//!
//! Threads meet after every run. Where meeting costs more than a thread brings, fewer threads are faster: in jobs of
//! microseconds, on a busy machine, under a quota of processor time. The results are the same bits for any number.
//!
//! Rates of work are compared window by window. A window is a few jobs with the same number of threads. If the
//! caller is idle for much of its jobs, a window with half of the threads follows; if that is faster, it stays. Then
//! windows with twice the threads follow from time to time. Windows of trial that fail become rare.

use std::time::Duration;

/// Least duration of a window: several turns of another process.
const WINDOW: Duration = Duration::from_millis(10);

/// Least number of jobs in a window.
const WINDOW_JOBS: u32 = 4;

/// Least factor of the rates for which the number of threads changes.
const GAIN: f64 = 1.05;

/// Share of the caller's time in jobs above which fewer threads are tried.
const IDLE: f64 = 0.3;

/// Jobs longer than this always have all threads: a window of trial would cost too much.
const LONGEST: Duration = Duration::from_millis(100);

/// First and longest time between windows of trial; they take at most about a hundredth of the time.
const TRIAL_AFTER: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];

/// Chooses the number of threads for the jobs of one kind.
#[derive(Debug)]
pub(super) struct Pace {
    most: usize,
    /// Number of threads outside of trials.
    threads: usize,
    /// Number of threads of the trial, if there is one.
    trial: Option<usize>,
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
pub(super) struct Took {
    /// Amount of work, in any unit.
    pub(super) work: f64,
    pub(super) time: Duration,
    /// Time in which the caller did not work.
    pub(super) idle: Duration,
}

impl Pace {
    /// Starts with `most` threads.
    pub(super) fn new(most: usize) -> Pace {
        Pace {
            most,
            threads: most,
            trial: None,
            rate: None,
            window: Window::default(),
            since_trial: Duration::ZERO,
            trial_after: TRIAL_AFTER[0],
        }
    }

    /// Number of threads for the next job.
    pub(super) fn threads(&self) -> usize {
        self.trial.unwrap_or(self.threads)
    }

    /// Records a job that had [`threads`](Pace::threads) threads.
    pub(super) fn record(&mut self, took: Took) {
        if self.most == 1 {
            return;
        }
        if took.time > LONGEST {
            *self = Pace::new(self.most);
            return;
        }
        let window = &mut self.window;
        window.jobs += 1;
        window.work += took.work;
        window.time += took.time;
        window.idle += took.idle;
        if window.time >= WINDOW && window.jobs >= WINDOW_JOBS {
            let window = std::mem::take(window);
            self.end_window(&window);
        }
    }

    fn end_window(&mut self, window: &Window) {
        let rate = window.work / window.time.as_secs_f64();
        match (self.trial.take(), self.rate) {
            (Some(threads), Some(usual)) if rate > usual * GAIN => {
                self.threads = threads;
                self.rate = Some(rate);
                self.trial_after = TRIAL_AFTER[0];
            }
            (Some(_), _) => self.trial_after = (2 * self.trial_after).min(TRIAL_AFTER[1]),
            (None, _) => {
                self.rate = Some(rate);
                self.since_trial += window.time;
                if self.since_trial >= self.trial_after.max(50 * window.time / window.jobs) {
                    self.since_trial = Duration::ZERO;
                    let is_idle = window.idle.as_secs_f64() > IDLE * window.time.as_secs_f64();
                    self.trial = self.candidate(is_idle);
                }
            }
        }
    }

    /// The number of threads to try.
    fn candidate(&self, is_idle: bool) -> Option<usize> {
        let fewer = (is_idle && self.threads > 1).then_some(self.threads.div_ceil(2));
        fewer.or((self.threads < self.most).then_some((2 * self.threads).min(self.most)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs jobs for a time on a machine where a job of one unit takes `time(threads)`, of which the caller is idle for `idle`.
    /// Returns the share of time with each number of threads.
    fn run(pace: &mut Pace, total: Duration, time: impl Fn(usize) -> Duration, idle: f64) -> Vec<f64> {
        let (mut now, mut shares) = (Duration::ZERO, vec![0.0; 9]);
        while now < total {
            let (threads, took) = (pace.threads(), time(pace.threads()));
            now += took;
            shares[threads] += took.as_secs_f64() / total.as_secs_f64();
            pace.record(Took { work: 1.0, time: took, idle: took.mul_f64(if threads == 1 { 0.0 } else { idle }) });
        }
        shares
    }

    const SECONDS: Duration = Duration::from_secs(20);

    #[test]
    fn threads_that_bring_nothing_are_left_out() {
        let mut pace = Pace::new(8);
        let slower = |threads: usize| Duration::from_micros(80 + 40 * threads as u64);
        assert!(run(&mut pace, SECONDS, slower, 0.6)[1] > 0.95);
    }

    #[test]
    fn threads_that_bring_something_stay() {
        let mut pace = Pace::new(8);
        let faster = |threads: usize| Duration::from_micros(8000 / threads as u64);
        assert!(run(&mut pace, SECONDS, faster, 0.1)[8] > 0.999);
        // A caller that waits much is tried with fewer threads, at little cost.
        assert!(run(&mut pace, SECONDS, faster, 0.5)[8] > 0.98);
    }

    #[test]
    fn threads_come_back_when_the_machine_is_free() {
        let mut pace = Pace::new(2);
        let busy = |threads: usize| Duration::from_millis(if threads == 2 { 16 } else { 10 });
        let free = |threads: usize| Duration::from_millis(if threads == 2 { 6 } else { 10 });
        assert!(run(&mut pace, SECONDS, busy, 0.5)[1] > 0.9);
        assert!(run(&mut pace, SECONDS, free, 0.05)[2] > 0.8);
    }

    #[test]
    fn long_jobs_have_all_threads() {
        let mut pace = Pace::new(4);
        let slower = |threads: usize| Duration::from_millis(200 * threads as u64);
        assert!(run(&mut pace, SECONDS, slower, 0.9)[4] > 0.999);
    }
}
