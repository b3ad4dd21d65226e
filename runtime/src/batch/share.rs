//! How many tokens of each running job a step has.

use std::cmp::Reverse;

use super::Batch;
use super::cost::Load;
use super::job::Running;

/// With a target time, number of prompt tokens that a step has if these take no longer than the target, however many sequences
/// decode.
const LEAST_PROMPT: usize = 16;

/// With a target time, a prompt that had no token in this many steps goes first.
const STARVED: u32 = 4;

impl Batch {
    /// Step 2: share. Returns false if no sequence has tokens in this step.
    pub(super) fn share(&mut self) -> bool {
        let (mut tokens, mut rows) = (self.limits.step_tokens, self.limits.step_outputs);
        let mut load = Load::default();
        self.prompts.clear();
        for (index, running) in self.running.iter_mut().enumerate() {
            running.share = usize::from(running.rest() == 1 && rows > 0);
            rows -= running.share; // one row of logits, reported or not
            tokens = tokens.saturating_sub(running.share);
            if running.share > 0 {
                load.decode(running.fed);
            } else if running.rest() > 1 {
                self.prompts.push(index);
            }
        }
        if self.options.step_target.is_some() {
            let running = &self.running;
            self.prompts.sort_unstable_by_key(|&index| {
                let prompt = &running[index];
                let starved = if prompt.starved < STARVED { 0 } else { prompt.starved };
                (Reverse(starved), prompt.rest(), index)
            });
        }
        let mut ends = false; // some prompt ends in this step
        for &index in &self.prompts {
            let running = &mut self.running[index];
            let last = usize::from(rows == 0); // no row of logits left for its last token
            let most = tokens.min(running.run()).min(if running.is_reported() { rows } else { running.rest() - last });
            running.share = match self.options.step_target {
                Some(target) => {
                    let target = target.as_secs_f64();
                    let share = self.cost.fit(load, running.fed, most, (target, LEAST_PROMPT));
                    match ends && share < running.rest() {
                        true => self.cost.fit_beside_an_end(load, running.fed, share, target),
                        false => share,
                    }
                }
                None => most,
            };
            ends |= running.share == running.rest();
            load = load.and_prompt(running.share, running.fed);
            rows -= match running.is_reported() {
                true => running.share,
                false => usize::from(running.share == running.rest()),
            };
            tokens -= running.share;
        }
        self.load = load;
        self.running.iter().any(|running| running.share > 0)
    }

    /// The running jobs that have tokens in this step.
    pub(super) fn sharing(&self) -> impl Iterator<Item = &Running> + Clone {
        self.running.iter().filter(|running| running.share > 0)
    }

    /// Counts for each prompt how long it has had no token.
    pub(super) fn count_starved(&mut self) {
        for running in &mut self.running {
            running.starved = if running.share > 0 { 0 } else { running.starved + 1 };
        }
    }
}
