//! What requests get alone, and in a batch of the same process.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use jamba_runtime::{Batch, BatchOptions, Engine, GenerateOptions, OpenOptions, Request, SamplerOptions};

use crate::client::{Answer, Ask};

/// The tokens of requests that run alone, each computed once.
pub struct Alone {
    engine: Engine,
    known: HashMap<Ask, Vec<u32>>,
}

fn options(engine: &Engine, ask: &Ask) -> GenerateOptions {
    let temperature = if ask.seed.is_some() { 1.0 } else { 0.0 };
    let sampler = SamplerOptions { temperature, seed: ask.seed, ..engine.sampler_options() };
    GenerateOptions { max_new: ask.max_new, ignore_eos: true, sampler, ..GenerateOptions::default() }
}

fn open(plan: &Path, threads: usize) -> Result<Engine, Box<dyn Error>> {
    Ok(Engine::open(plan, OpenOptions { threads: Some(threads), ..OpenOptions::default() })?)
}

impl Alone {
    /// Opens the plan.
    ///
    /// # Errors
    /// The plan cannot be opened.
    pub fn open(plan: &Path, threads: usize) -> Result<Alone, Box<dyn Error>> {
        Ok(Alone { engine: open(plan, threads)?, known: HashMap::new() })
    }

    /// The tokens of a request that runs alone.
    ///
    /// # Errors
    /// The engine refuses it.
    pub fn tokens(&mut self, ask: &Ask) -> Result<Vec<u32>, Box<dyn Error>> {
        let options = options(&self.engine, ask);
        Ok(self.engine.generate(&ask.prompt, &options, |_| ControlFlow::Continue(()))?.tokens)
    }

    /// Compares served answers with those of the requests alone. Answers that a client left must be a beginning of it.
    ///
    /// # Errors
    /// An answer differs.
    pub fn check(&mut self, workload: &str, served: &[(Ask, Answer)]) -> Result<usize, Box<dyn Error>> {
        let mut n_checked = 0;
        for (ask, answer) in served.iter().filter(|(_, answer)| answer.status == 200) {
            let key = Ask { priority: 0, ..ask.clone() };
            if !self.known.contains_key(&key) {
                let tokens = self.tokens(ask)?;
                self.known.insert(key.clone(), tokens);
            }
            let expected = &self.known[&key];
            if !expected.starts_with(&answer.tokens) || answer.tokens.is_empty() {
                let at = expected.iter().zip(&answer.tokens).take_while(|(a, b)| a == b).count();
                return Err(format!(
                    "{workload}: a prompt of {} tokens got another answer than alone: token {at} of {} differs",
                    ask.prompt.len(),
                    ask.max_new
                )
                .into());
            }
            n_checked += 1;
        }
        Ok(n_checked)
    }
}

/// The default `--itl-target` of `jamba serve`.
const STEP_TARGET: Duration = Duration::from_millis(120);

/// When the next request of a client in this process is in the batch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Before the step that follows the end of its last answer.
    Prompt,
    /// After that step: a client of a server hears of the end while the step runs.
    OneStepLate,
}

/// Tokens per second of a closed loop of `clients` in this process, without HTTP, for about `time`.
///
/// # Errors
/// The engine fails.
pub fn in_process(
    (plan, threads): (&Path, usize),
    asks: &[Ask],
    (clients, client): (usize, Client),
    time: Duration,
) -> Result<f64, Box<dyn Error>> {
    let mut engine = open(plan, threads)?;
    let batch = BatchOptions { step_target: Some(STEP_TARGET), ..BatchOptions::default() };
    let mut batch = Batch::with_options(&engine, batch);
    let mut next: VecDeque<&Ask> = asks.iter().collect();
    let began = Instant::now();
    let (mut n_open, mut n_tokens, mut n_late) = (0, 0, 0);
    while n_open > 0 || began.elapsed() < time {
        while n_open + n_late < clients && began.elapsed() < time {
            let Some(ask) = next.pop_front() else { break };
            next.push_back(ask);
            let options = options(&engine, ask);
            batch.submit(&engine, Request { prompt: ask.prompt.clone(), options, ..Request::default() })?;
            n_open += 1;
        }
        n_late = 0;
        for event in batch.step(&mut engine)? {
            n_tokens += usize::from(event.token.is_some());
            n_open -= usize::from(event.finish.is_some());
            n_late += usize::from(event.finish.is_some() && client == Client::OneStepLate);
        }
    }
    Ok(n_tokens as f64 / began.elapsed().as_secs_f64())
}
