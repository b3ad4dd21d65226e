//! Loads on a server: closed loops, open loops, and prompts.

use std::io::Result;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Answer, Ask, Endpoint};

/// Requests and what they got.
pub type Served = Vec<(Ask, Answer)>;

/// `n` tokens that depend on `seed` alone, spread over a vocabulary (an LCG: Knuth, MMIX).
pub fn tokens(seed: u64, n: usize, vocab: u32) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The lowest ids are special tokens.
        4 + ((state >> 33) as u32) % (vocab - 4)
    };
    (0..n).map(step).collect()
}

/// A closed loop: each of `clients` clients sends its next request when its last one has ended, and none after `time`. Requests are
/// taken from `asks` in order, and from the first one again after the last, unless `once`.
///
/// # Errors
/// A connection breaks.
pub fn closed(endpoint: &Endpoint, asks: &[Ask], clients: usize, time: Duration, once: bool) -> Result<Served> {
    let (next, served, began) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Instant::now());
    std::thread::scope(|scope| {
        let client = || {
            while began.elapsed() < time {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if once && index >= asks.len() {
                    break;
                }
                let ask = &asks[index % asks.len()];
                let answer = endpoint.ask(ask, Instant::now(), None)?;
                served.lock().expect("no panic").push((ask.clone(), answer));
            }
            Ok::<(), std::io::Error>(())
        };
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("no panic"))
    })?;
    Ok(served.into_inner().expect("no panic"))
}

/// Sends each request at its time, however long others take, and waits for all.
///
/// # Errors
/// A connection breaks.
pub fn open(endpoint: &Endpoint, asks: &[(Duration, Ask)]) -> Result<Served> {
    let began = Instant::now();
    std::thread::scope(|scope| {
        let client = |(at, ask): &(Duration, Ask)| {
            let (due, ask) = (began + *at, ask.clone());
            scope.spawn(move || {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                Ok((ask.clone(), endpoint.ask(&ask, due, None)?))
            })
        };
        let clients: Vec<_> = asks.iter().map(client).collect();
        clients.into_iter().map(|client| client.join().expect("no panic")).collect()
    })
}

/// New tokens per second, from the first request to the last end.
pub fn rate(served: &Served) -> f64 {
    let n_tokens: usize = served.iter().map(|(_, answer)| answer.tokens.len()).sum();
    let begin = served.iter().map(|(_, answer)| answer.due).min();
    let end = served.iter().map(|(_, answer)| answer.end).max();
    begin.zip(end).map_or(0.0, |(begin, end)| n_tokens as f64 / end.duration_since(begin).as_secs_f64())
}

/// The value that a share `p` of the values does not exceed, in milliseconds; NaN of none.
pub fn percentile(times: impl IntoIterator<Item = Duration>, p: f64) -> f64 {
    let mut times: Vec<Duration> = times.into_iter().collect();
    times.sort_unstable();
    let index = ((times.len() as f64 * p).ceil() as usize).saturating_sub(1);
    times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
