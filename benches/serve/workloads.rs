//! The workloads. Each gives rows of the report, and the served answers for the comparison with the requests alone.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::alone::{self, Client};
use crate::client::{Answer, Ask, Endpoint};
use crate::load::{Served, closed, open, percentile, rate, tokens};
use crate::report::{Goal, Row, Spread};
use crate::server::Server;

/// A result, or why a workload could not be run to its end.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What is measured on.
pub struct Setup {
    /// The plan under load.
    pub plan: PathBuf,
    /// A plan of a small model with a long context.
    pub long: Option<PathBuf>,
    /// llama-server and its model.
    pub peer: Option<(PathBuf, PathBuf)>,
    /// Threads of each engine.
    pub threads: usize,
    /// Tokens of the vocabulary.
    pub vocab: u32,
    /// Time of a closed loop.
    pub time: Duration,
    /// Length of prompts relative to the full size.
    pub scale: f64,
}

/// A side of a pair.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `jamba serve`.
    Ours,
    /// llama-server.
    Theirs,
}

/// Figures of one run by name.
pub type Figures = Vec<(&'static str, f64)>;

impl Setup {
    fn start(&self, side: Side, caches: bool, options: &[&str]) -> Result<Server> {
        let threads = self.threads.to_string();
        match (side, &self.peer) {
            (Side::Ours, _) => {
                let mut all = vec!["--threads", &threads];
                all.extend(if caches { None } else { Some(["--cache-mib", "0"]) }.into_iter().flatten());
                all.extend(options);
                Server::jamba(&self.plan, &all)
            }
            (Side::Theirs, Some((program, gguf))) => Server::llama(program, gguf, caches, self.threads, &[]),
            (Side::Theirs, None) => Err("no peer".into()),
        }
    }

    /// A length in tokens at this scale.
    fn n(&self, full: usize) -> usize {
        ((full as f64 * self.scale) as usize).max(4)
    }

    fn prompt(&self, seed: u64, full: usize) -> Vec<u32> {
        tokens(seed, self.n(full), self.vocab)
    }

    /// The requests of W1 and W9.
    pub fn short_asks(&self) -> Vec<Ask> {
        (0..24).map(|i| Ask::greedy(self.prompt(i, 128), self.n(64))).collect()
    }
}

/// W1: eight clients in a closed loop, prompts of 128 tokens, answers of 64.
pub fn w1(setup: &Setup, side: Side) -> Result<(Figures, Served)> {
    let server = setup.start(side, false, &[])?;
    let served = closed(&server.endpoint, &setup.short_asks(), 8, setup.time, false)?;
    let gaps = || served.iter().flat_map(|(_, answer)| answer.gaps());
    let firsts = || served.iter().filter_map(|(_, answer)| answer.first_token());
    let figures = vec![
        ("new tokens per second", rate(&served)),
        ("first token, p50, ms", percentile(firsts(), 0.5)),
        ("first token, p99, ms", percentile(firsts(), 0.99)),
        ("gap, p50, ms", percentile(gaps(), 0.5)),
        ("gap, p99, ms", percentile(gaps(), 0.99)),
        ("whole answer, p50, ms", percentile(served.iter().map(|(_, answer)| answer.whole()), 0.5)),
    ];
    Ok((figures, served))
}

/// W2: four streams of 256 tokens, and a prompt of 3,072 tokens every ten seconds.
pub fn w2(setup: &Setup, side: Side) -> Result<(Figures, Served)> {
    let server = setup.start(side, false, &[])?;
    let streams: Vec<Ask> = (0..4).map(|i| Ask::greedy(setup.prompt(100 + i, 16), setup.n(256))).collect();
    let n_long = (setup.time.as_secs() / 10).max(1) as usize;
    let prompt = |i: usize| {
        let at = setup.time.mul_f64(i as f64 / n_long as f64) + setup.time / 20;
        (at, Ask::greedy(setup.prompt(200 + i as u64 % 2, 3072), setup.n(16)))
    };
    let long: Vec<_> = (0..n_long).map(prompt).collect();
    let (short, long) = std::thread::scope(|scope| {
        let short = scope.spawn(|| closed(&server.endpoint, &streams, 4, setup.time, false));
        let long = open(&server.endpoint, &long);
        (short.join().expect("no panic"), long)
    });
    let (mut short, long) = (short?, long?);
    let gaps = || short.iter().flat_map(|(_, answer)| answer.gaps());
    let figures = vec![
        ("gap of the streams, p50, ms", percentile(gaps(), 0.5)),
        ("gap of the streams, p99, ms", percentile(gaps(), 0.99)),
        ("gap of the streams, worst, ms", percentile(gaps(), 1.0)),
        ("first token of the long prompts, p50, ms", percentile(long.iter().filter_map(|(_, a)| a.first_token()), 0.5)),
    ];
    short.extend(long);
    Ok((figures, short))
}

/// W3: requests with one system text of 2,048 tokens and 64 of their own, four at a time after the first.
pub fn w3(setup: &Setup, side: Side) -> Result<(Figures, Served)> {
    let server = setup.start(side, true, &[])?;
    let ask = |i: u64| {
        let prompt = [setup.prompt(300, 2048), setup.prompt(301 + i, 64)].concat();
        Ask::greedy(prompt, setup.n(16))
    };
    let asks: Vec<Ask> = (0..if setup.scale < 1.0 { 8 } else { 32 }).map(ask).collect();
    let hour = Duration::from_secs(3600);
    let cold = closed(&server.endpoint, &asks[..1], 1, hour, true)?;
    // The second one finds where the prompts part.
    let second = closed(&server.endpoint, &asks[1..2], 1, hour, true)?;
    let rest = closed(&server.endpoint, &asks[2..], 4, hour, true)?;
    let first = |served: &Served| percentile(served.iter().filter_map(|(_, answer)| answer.first_token()), 0.5);
    let figures = vec![
        ("first token, cold, ms", first(&cold)),
        ("first token of the rest, p50, ms", first(&rest)),
        ("the rest relative to cold", first(&rest) / first(&cold)),
        (
            "cached tokens, least, less those of the system text",
            rest.iter().map(|(_, answer)| answer.cached as f64).fold(f64::INFINITY, f64::min) - setup.n(2048) as f64,
        ),
    ];
    Ok((figures, [cold, second, rest].concat()))
}

/// W4: eight turns of a chat, each answered twice.
pub fn w4(setup: &Setup, side: Side) -> Result<(Figures, Served)> {
    let server = setup.start(side, true, &[])?;
    let (mut chat, mut served): (Vec<u32>, Served) = (Vec::new(), Vec::new());
    let (mut n_new, mut n_read, mut firsts) = (0, 0, Vec::new());
    for turn in 0..8 {
        chat.extend(setup.prompt(400 + turn, 64));
        n_new += setup.n(64);
        for attempt in 0..2 {
            let ask = Ask { seed: Some(attempt), ..Ask::greedy(chat.clone(), setup.n(64)) };
            let answer = server.endpoint.ask(&ask, Instant::now(), None)?;
            n_read += chat.len() - answer.cached;
            firsts.extend(answer.first_token().filter(|_| turn > 0));
            served.push((ask, answer));
        }
        // The chat goes on from the second answer; its last token has not been read.
        chat.extend(&served[served.len() - 1].1.tokens);
        n_new += 1;
    }
    let figures = vec![
        ("prompt tokens read relative to new ones", n_read as f64 / n_new as f64),
        ("first token, p50, ms", percentile(firsts.iter().copied(), 0.5)),
        ("first token, worst, ms", percentile(firsts, 1.0)),
    ];
    Ok((figures, served))
}

/// W5: three times the load that the server can carry.
pub fn w5(setup: &Setup, capacity: f64) -> Result<(Vec<Row>, Served)> {
    let deadline = Duration::from_secs(5);
    let server = setup.start(Side::Ours, false, &["--queue", "4"])?;
    let n = (3.0 * capacity * setup.time.as_secs_f64() / setup.n(64) as f64) as usize;
    let asks = setup.short_asks();
    let ask = |i: usize| (setup.time.mul_f64(i as f64 / n as f64), asks[i % asks.len()].clone());
    let served = open(&server.endpoint, &(0..n).map(ask).collect::<Vec<_>>())?;
    let (taken, refused): (Vec<_>, Vec<_>) = served.iter().partition(|(_, answer)| answer.status == 200);
    let is_polite = refused.iter().all(|(_, answer)| answer.status == 503 && answer.has_retry_after);
    let in_time = taken.iter().filter(|(_, answer)| answer.first_token().is_some_and(|time| time <= deadline)).count();
    let good: Served = taken.iter().map(|&answer| answer.clone()).collect();
    let refusals = percentile(refused.iter().map(|(_, answer)| answer.whole()), 0.99);
    let rows = vec![
        Row::new("W5", "refused", refused.len() as f64).goal(Goal::Least(1.0)),
        Row::new("W5", "refusals with Retry-After", f64::from(u8::from(is_polite))).goal(Goal::Least(1.0)),
        Row::new("W5", "refusal, p99, ms", refusals).goal(Goal::Most(50.0)),
        Row::new("W5", "accepted within the deadline", in_time as f64 / taken.len() as f64).goal(Goal::Least(0.99)),
        Row::new("W5", "goodput relative to capacity", rate(&good) / capacity).goal(Goal::Least(0.9)),
    ];
    Ok((rows, served))
}

/// W6: clients that vanish in the middle of their answers.
pub fn w6(setup: &Setup, n: usize) -> Result<(Vec<Row>, Served)> {
    let plan = setup.long.as_ref().unwrap_or(&setup.plan);
    let server = Server::jamba(plan, &["--queue", "1000"])?;
    let vocab = vocab(plan)?;
    let ask = |i: usize| Ask::greedy(tokens(600 + i as u64 % 16, 32, vocab), 64);
    let vanish = |from: usize, n: usize| -> std::io::Result<Served> {
        std::thread::scope(|scope| {
            let endpoint = &server.endpoint;
            let client = |k: usize| {
                scope.spawn(move || -> std::io::Result<Served> {
                    let leave = |i| Ok((ask(i), endpoint.ask(&ask(i), Instant::now(), Some(1 + i % 5))?));
                    (from + k..from + n).step_by(20).map(leave).collect()
                })
            };
            let clients: Vec<_> = (0..20).map(client).collect();
            let mut all = Vec::new();
            for client in clients {
                all.extend(client.join().expect("no panic")?);
            }
            Ok(all)
        })
    };
    // The first ones fill the cache and the allocator.
    let mut served = vanish(0, n / 4)?;
    server.wait_until_idle()?;
    let before = server.resident()?;
    served.extend(vanish(n / 4, n - n / 4)?);
    let last = Instant::now();
    server.wait_until_idle()?;
    let idle = last.elapsed().as_secs_f64() * 1e3;
    let growth = server.resident()? as f64 / before as f64 - 1.0;
    // All slots are free: as many answers as slots run at a time.
    let whole = closed(&server.endpoint, &(0..16).map(ask).collect::<Vec<_>>(), 8, Duration::from_secs(3600), true)?;
    served.truncate(64);
    served.extend(whole);
    let rows = vec![
        Row::new("W6", "clients that vanished", n as f64),
        Row::new("W6", "until no request is left, ms", idle).goal(Goal::Most(50.0)),
        Row::new("W6", "growth of resident memory", growth).goal(Goal::Most(0.02)),
    ];
    Ok((rows, served))
}

/// Tokens of a plan's vocabulary.
pub fn vocab(plan: &Path) -> Result<u32> {
    let options = jamba_runtime::OpenOptions { threads: Some(1), ..Default::default() };
    Ok(jamba_runtime::Engine::open(plan, options)?.manifest().model.vocab as u32)
}

/// W7: one prompt of 100,000 tokens, and a line of chat every second, with steps of 10 ms.
pub fn w7(setup: &Setup) -> Result<(Vec<Row>, Served)> {
    let plan = setup.long.as_ref().ok_or("W7 needs --long")?;
    let vocab = vocab(plan)?;
    // The target follows the model: a line alone takes two milliseconds.
    let options = ["--threads", &setup.threads.to_string(), "--cache-mib", "0", "--itl-target", "4"];
    let server = Server::jamba(plan, &options)?;
    let line = |i: u64| Ask::greedy(tokens(700 + i % 8, 24, vocab), 16);
    let lines: Vec<Ask> = (0..16).map(line).collect();
    let alone = closed(&server.endpoint, &lines, 1, Duration::from_secs(3600), true)?;
    let long = Ask::greedy(tokens(799, setup.n(100_000), vocab), 4);
    let is_done = std::sync::atomic::AtomicBool::new(false);
    let (long, beside) = std::thread::scope(|scope| {
        let long = scope.spawn(|| {
            let answer = server.endpoint.ask(&long, Instant::now(), None);
            is_done.store(true, std::sync::atomic::Ordering::Relaxed);
            answer.map(|answer| (long.clone(), answer))
        });
        let (mut beside, began): (Served, _) = (Vec::new(), Instant::now());
        for i in 0.. {
            let due = began + Duration::from_millis(if setup.scale < 1.0 { 50 } else { 1000 }) * (i as u32 + 1);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if is_done.load(std::sync::atomic::Ordering::Relaxed) {
                break;
            }
            match server.endpoint.ask(&line(i), due, None) {
                Ok(answer) => beside.push((line(i), answer)),
                Err(error) => return (long.join().expect("no panic"), Err(error)),
            }
        }
        (long.join().expect("no panic"), Ok(beside))
    });
    let (long, mut beside) = (long?, beside?);
    let p99 = |served: &Served| percentile(served.iter().filter_map(|(_, answer)| answer.first_token()), 0.99);
    let rows = vec![
        Row::new("W7", "long prompt, ms", long.1.first_token().map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)),
        Row::new("W7", "first token of a short prompt alone, p99, ms", p99(&alone)),
        Row::new("W7", "first token of a short prompt beside the long one, p99, ms", p99(&beside)),
        Row::new("W7", "beside relative to alone", p99(&beside) / p99(&alone)).goal(Goal::Most(3.0)),
    ];
    beside.push(long);
    beside.extend(alone);
    Ok((rows, beside))
}

/// W8: an urgent request while all sequences are taken by batch jobs.
pub fn w8(setup: &Setup) -> Result<(Vec<Row>, Served)> {
    let server = setup.start(Side::Ours, false, &[])?;
    let job = |i: u64| Ask { priority: 10, ..Ask::greedy(setup.prompt(800 + i, 64), setup.n(256)) };
    let urgent = Ask::greedy(setup.prompt(850, 64), setup.n(16));
    let alone = server.endpoint.ask(&urgent, Instant::now(), None)?;
    let jobs: Vec<(Duration, Ask)> = (0..12).map(|i| (Duration::ZERO, job(i))).collect();
    let (jobs, answer) = std::thread::scope(|scope| -> Result<(Served, Answer)> {
        let jobs = scope.spawn(|| open(&server.endpoint, &jobs));
        wait_for_decoders(&server.endpoint, 8)?;
        let answer = server.endpoint.ask(&urgent, Instant::now(), None)?;
        Ok((jobs.join().expect("no panic")?, answer))
    })?;
    let step = percentile(jobs.iter().flat_map(|(_, job)| job.gaps()), 0.5);
    let first = |answer: &Answer| answer.first_token().map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    let rows = vec![
        Row::new("W8", "step of the batch jobs, p50, ms", step),
        Row::new("W8", "first token of the urgent request alone, ms", first(&alone)),
        Row::new("W8", "first token beside the jobs, less alone, in steps", (first(&answer) - first(&alone)) / step)
            .goal(Goal::Most(2.0)),
    ];
    let mut served = jobs;
    served.push((urgent.clone(), alone));
    served.push((urgent, answer));
    Ok((rows, served))
}

/// Waits until this many requests decode.
fn wait_for_decoders(endpoint: &Endpoint, n: usize) -> Result<()> {
    while endpoint.get("/slots")?.matches("decoding").count() < n {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// W9: the load of W1 through HTTP and in one process, in pairs.
pub fn w9(setup: &Setup, pairs: usize) -> Result<Vec<Row>> {
    let asks = setup.short_asks();
    let mut served = Vec::new();
    let mut inside = [Vec::new(), Vec::new()];
    for _ in 0..pairs {
        served.push(w1(setup, Side::Ours)?.0[0].1);
        for (rates, client) in inside.iter_mut().zip([Client::Prompt, Client::OneStepLate]) {
            rates.push(alone::in_process((&setup.plan, setup.threads), &asks, (8, client), setup.time)?);
        }
    }
    let row = |measure: &str, inside: &[f64]| {
        let ratios = served.iter().zip(inside).map(|(served, inside)| served / inside).collect();
        let median = |rates: &[f64]| Spread::of(rates.to_vec()).map_or(f64::NAN, |spread| spread.median);
        let row = Row::new("W9", measure, median(&served));
        Row { theirs: Some(median(inside)), ratio: Spread::of(ratios), ..row }
    };
    let strict = row("new tokens per second, served and in process", &inside[0]);
    let late = row("the same, in process the next request of a client misses a step too", &inside[1]);
    Ok(vec![Row { ratio_goal: Some(Goal::Least(0.97)), ..strict }, late])
}

/// W10: from the start of the process to ready.
pub fn w10(setup: &Setup) -> Result<Row> {
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(setup.start(Side::Ours, true, &[])?.start);
    }
    Ok(Row::new("W10", "start to ready, p50, ms", percentile(times, 0.5)).goal(Goal::Most(1000.0)))
}
