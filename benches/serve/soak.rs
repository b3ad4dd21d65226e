//! A long mixed load: whole answers, clients that disconnect or are killed in the middle of an answer, named states that are created
//! and deleted, waiting requests, preemption. Every answer is compared with that of the request alone while the load runs.

use std::collections::HashMap;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::alone::Alone;
use crate::client::{Ask, Endpoint};
use crate::load::{closed, tokens};
use crate::report::{Goal, Row};
use crate::server::Server;
use crate::workloads::{Result, vocab};

/// Different requests.
const N_ASKS: u64 = 96;

/// Clients at a time, more than the sequences of the plan: some wait.
const CLIENTS: u64 = 12;

/// Clients that are processes of their own, and are killed by SIGKILL.
const KILLED: u64 = 2;

/// First argument of a client process, which is followed by the server's address and the prompt.
pub const CLIENT: &str = "killed-client";

/// Time between two measurements of the idle server.
const PERIOD: Duration = Duration::from_secs(300);

/// The nth request. Half of them begin with one of four common texts.
fn ask(n: u64, vocab: u32) -> Ask {
    let begin = if n.is_multiple_of(2) { tokens(900 + n / 2 % 4, 96, vocab) } else { Vec::new() };
    let prompt = [begin, tokens(1000 + n, 4 + (n * n) as usize % 180, vocab)].concat();
    let max_new = 1 + (n * 37) as usize % 60;
    let seed = n.is_multiple_of(3).then_some(n);
    Ask { seed, priority: (n % 5) as i32, ..Ask::greedy(prompt, max_new) }
}

/// Counters of the load.
#[derive(Default)]
struct Counts {
    whole: AtomicUsize,
    left: AtomicUsize,
    killed: AtomicUsize,
    states: AtomicUsize,
}

/// Runs the load for `time`. Every [`PERIOD`], the load stops and the memory of the idle server is measured. Each client waits for
/// `pause` after a request.
///
/// # Errors
/// A connection breaks that the client did not break, an answer differs from the request alone, or a slot is lost.
pub fn soak(plan: &std::path::Path, threads: usize, time: Duration, pause: Duration) -> Result<Vec<Row>> {
    let vocab = vocab(plan)?;
    let options = ["--threads", &threads.to_string(), "--queue", "64", "--cache-mib", "8", "--states-mib", "64"];
    let server = Server::jamba(plan, &options)?;
    let asks: Vec<Ask> = (0..N_ASKS).map(|n| ask(n, vocab)).collect();
    let mut alone = Alone::open(plan, threads)?;
    let mut expected = HashMap::new();
    for ask in &asks {
        expected.insert(ask.clone(), alone.tokens(ask)?);
    }
    let counts = Counts::default();
    let began = Instant::now();
    let mut resident = Vec::new();
    loop {
        let until = (began.elapsed() + PERIOD).min(time);
        load(&server.endpoint, &asks, &expected, (began, until), pause, &counts)?;
        server.wait_until_idle()?;
        // All slots are free: as many answers as there are slots run at a time.
        for (ask, answer) in closed(&server.endpoint, &asks, CLIENTS as usize, Duration::from_secs(3600), true)? {
            compare(&expected[&ask], &answer.tokens, answer.status, true)?;
        }
        server.wait_until_idle()?;
        let bytes = server.resident()?;
        resident.push(bytes as f64);
        let [whole, left, killed, states] = [&counts.whole, &counts.left, &counts.killed, &counts.states].map(get);
        println!(
            "{:>6.0} s  resident {:.2} MiB  whole {whole}  left {left}  killed {killed}  states {states}",
            began.elapsed().as_secs_f64(),
            bytes as f64 / f64::from(1 << 20)
        );
        std::io::stdout().flush()?;
        if until == time {
            break;
        }
    }
    // The first period fills the caches.
    let growth = resident[resident.len() - 1] / resident[0] - 1.0;
    let row = |measure, n: &AtomicUsize| Row::new("soak", measure, get(n) as f64).goal(Goal::Least(1.0));
    Ok(vec![
        Row::new("soak", "minutes", time.as_secs_f64() / 60.0),
        row("whole answers", &counts.whole),
        row("answers that clients left", &counts.left),
        row("clients killed", &counts.killed),
        row("named states made and deleted", &counts.states),
        Row::new("soak", "resident memory of the idle server, MiB", resident[0] / f64::from(1 << 20)),
        Row::new("soak", "growth after the first period", growth).goal(Goal::Most(0.02)),
    ])
}

fn get(n: &AtomicUsize) -> usize {
    n.load(Ordering::Relaxed)
}

fn compare(expected: &[u32], found: &[u32], status: u16, whole: bool) -> Result<()> {
    if status != 200 {
        return Err(format!("soak: status {status}").into());
    }
    let is_equal = if whole { expected == found } else { expected.starts_with(found) };
    if is_equal { Ok(()) } else { Err(format!("soak: found {found:?}, alone {expected:?}").into()) }
}

/// All clients, until a time from the beginning.
fn load(
    endpoint: &Endpoint,
    asks: &[Ask],
    expected: &HashMap<Ask, Vec<u32>>,
    (began, until): (Instant, Duration),
    pause: Duration,
    counts: &Counts,
) -> Result<()> {
    let failed = AtomicBool::new(false);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS + KILLED {
            let (failed, failure) = (&failed, &failure);
            scope.spawn(move || {
                let mut n = client * 7919 + began.elapsed().as_secs();
                while began.elapsed() < until && !failed.load(Ordering::Relaxed) {
                    n += 1;
                    let ask = &asks[(n * n % 1_000_003 % asks.len() as u64) as usize];
                    let done = if client >= CLIENTS {
                        killed(endpoint, ask, counts)
                    } else {
                        one(endpoint, ask, &expected[ask], (client, n), counts)
                    };
                    if let Err(error) = done {
                        failed.store(true, Ordering::Relaxed);
                        *failure.lock().expect("no panic") = Some(error.to_string());
                    }
                    std::thread::sleep(pause);
                }
            });
        }
    });
    failure.into_inner().expect("no panic").map_or(Ok(()), |error| Err(error.into()))
}

/// One request of a client: whole, left after some tokens, or from a named state.
fn one(endpoint: &Endpoint, ask: &Ask, expected: &[u32], (client, n): (u64, u64), counts: &Counts) -> Result<()> {
    match n % 10 {
        0..2 => {
            let most = 1 + n as usize % 7;
            let answer = endpoint.ask(ask, Instant::now(), Some(most))?;
            counts.left.fetch_add(1, Ordering::Relaxed);
            compare(expected, &answer.tokens, answer.status, false)
        }
        2 if ask.prompt.len() > 8 => {
            let (name, n_state) = (format!("soak-{client}"), ask.prompt.len() / 2);
            endpoint.create_state(&name, &ask.prompt[..n_state])?;
            let from_state = Ask { state: Some((name.clone(), n_state)), ..ask.clone() };
            let answer = endpoint.ask(&from_state, Instant::now(), None)?;
            endpoint.delete_state(&name)?;
            counts.states.fetch_add(1, Ordering::Relaxed);
            compare(expected, &answer.tokens, answer.status, true)
        }
        _ => {
            let answer = endpoint.ask(ask, Instant::now(), None)?;
            counts.whole.fetch_add(1, Ordering::Relaxed);
            compare(expected, &answer.tokens, answer.status, true)
        }
    }
}

/// A client process that SIGKILL ends in the middle of its answer. Its connection is reset or closed by the kernel.
fn killed(endpoint: &Endpoint, ask: &Ask, counts: &Counts) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([CLIENT, &endpoint.address]);
    command.arg(ask.prompt.iter().map(u32::to_string).collect::<Vec<_>>().join(","));
    let mut child = Killed(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
    // The first token has come.
    let mut byte = [0];
    std::io::Read::read_exact(child.0.stdout.as_mut().ok_or("no output")?, &mut byte)?;
    child.0.kill()?;
    counts.killed.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The client process that is to be killed: prints a byte after the first token, then reads on.
///
/// # Errors
/// A connection breaks, or the prompt is no list of tokens.
pub fn client(address: &str, prompt: &str) -> Result<()> {
    let endpoint = Endpoint { address: address.to_owned(), api: crate::client::Api::Jamba };
    let prompt: std::result::Result<Vec<u32>, _> = prompt.split(',').map(str::parse).collect();
    let ask = Ask::greedy(prompt?, 200);
    endpoint.ask_with(&ask, Instant::now(), |n| {
        if n > 0 {
            print!(".");
            let _ = std::io::stdout().flush();
        }
        true
    })?;
    Ok(())
}
