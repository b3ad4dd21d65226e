//! A client of one request on its own connection, with the times at which tokens arrive at the socket.

use std::io::{Error, Read, Result, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    /// Prompt tokens.
    pub prompt: Vec<u32>,
    /// New tokens, exactly: no end token ends the answer.
    pub max_new: usize,
    /// Seed of the draws; None is greedy.
    pub seed: Option<u64>,
    /// Lower ones come first.
    pub priority: i32,
    /// A named state, and how many of the prompt's tokens it holds.
    pub state: Option<(String, usize)>,
}

impl Ask {
    /// A greedy request of priority 0.
    pub fn greedy(prompt: Vec<u32>, max_new: usize) -> Ask {
        Ask { prompt, max_new, seed: None, priority: 0, state: None }
    }
}

/// The API of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `POST /v1/completions` of `jamba serve`.
    Jamba,
    /// `POST /completion` of llama-server.
    Llama {
        /// Whether prompts may start from cached states.
        caches: bool,
    },
}

/// Where a server listens, and what it speaks.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Host and port.
    pub address: String,
    /// What requests look like there.
    pub api: Api,
}

/// What a request got.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// True if the head has `Retry-After`.
    pub has_retry_after: bool,
    /// When the request was to be sent.
    pub due: Instant,
    /// New tokens.
    pub tokens: Vec<u32>,
    /// The times of the reads that brought tokens.
    pub arrivals: Vec<Instant>,
    /// The time of the last byte.
    pub end: Instant,
    /// Prompt tokens that came from a cache.
    pub cached: usize,
}

impl Answer {
    /// Time from the due time to the first token.
    pub fn first_token(&self) -> Option<Duration> {
        Some(self.arrivals.first()?.duration_since(self.due))
    }

    /// Times between reads with tokens.
    pub fn gaps(&self) -> impl Iterator<Item = Duration> {
        self.arrivals.windows(2).map(|pair| pair[1].duration_since(pair[0]))
    }

    /// Time from the due time to the end.
    pub fn whole(&self) -> Duration {
        self.end.duration_since(self.due)
    }
}

impl Endpoint {
    /// Sends a request and reads the stream to its end, or until `leave_after` tokens have come.
    ///
    /// # Errors
    /// A connection that breaks, or a response that is not HTTP.
    pub fn ask(&self, ask: &Ask, due: Instant, leave_after: Option<usize>) -> Result<Answer> {
        self.ask_with(ask, due, |n| leave_after.is_none_or(|most| n < most))
    }

    /// Sends a request and reads the stream to its end, or until `goes_on` is false; it gets the number of tokens so far after
    /// each read.
    ///
    /// # Errors
    /// As [`Endpoint::ask`].
    pub fn ask_with(&self, ask: &Ask, due: Instant, mut goes_on: impl FnMut(usize) -> bool) -> Result<Answer> {
        let (state, n_state) = ask.state.as_ref().map_or((None, 0), |(name, n)| (Some(name), *n));
        let (path, body) = match self.api {
            Api::Jamba => (
                "/v1/completions",
                json!({
                    "prompt": ask.prompt[n_state..], "max_tokens": ask.max_new, "ignore_eos": true, "stream": true,
                    "state": state, "return_token_ids": true, "stream_options": { "include_usage": true }, "priority": ask.priority,
                    "temperature": if ask.seed.is_some() { 1.0 } else { 0.0 }, "seed": ask.seed,
                }),
            ),
            Api::Llama { caches } => (
                "/completion",
                json!({
                    "prompt": ask.prompt, "n_predict": ask.max_new, "ignore_eos": true, "stream": true,
                    "return_tokens": true, "cache_prompt": caches, "temperature": 0.0,
                }),
            ),
        };
        let mut stream = self.send("POST", path, Some(&body))?;
        let mut reader = Reader::default();
        let now = Instant::now();
        let mut answer = Answer {
            status: 0,
            has_retry_after: false,
            due,
            tokens: Vec::new(),
            arrivals: Vec::new(),
            end: now,
            cached: 0,
        };
        let mut bytes = vec![0; 1 << 16];
        loop {
            let n = stream.read(&mut bytes)?;
            answer.end = Instant::now();
            if n == 0 {
                break;
            }
            let before = answer.tokens.len();
            reader.push(&bytes[..n]);
            while let Some(event) = reader.event() {
                read_event(&event, &mut answer);
            }
            if answer.tokens.len() > before {
                answer.arrivals.push(answer.end);
            }
            if !goes_on(answer.tokens.len()) {
                break;
            }
        }
        let status = |head: &str| head.split(' ').nth(1)?.parse().ok();
        answer.status = status(&reader.head).ok_or_else(|| Error::other(format!("no HTTP: {:?}", reader.head)))?;
        answer.has_retry_after = reader.head.to_ascii_lowercase().contains("\r\nretry-after:");
        Ok(answer)
    }

    /// The body of a GET.
    ///
    /// # Errors
    /// A connection that breaks.
    pub fn get(&self, path: &str) -> Result<String> {
        self.exchange("GET", path, None)
    }

    /// Names the state of a prompt.
    ///
    /// # Errors
    /// A connection that breaks, or a refusal.
    pub fn create_state(&self, name: &str, prompt: &[u32]) -> Result<()> {
        self.exchange("POST", "/v1/states", Some(&json!({ "name": name, "prompt": prompt }))).map(drop)
    }

    /// Deletes a named state.
    ///
    /// # Errors
    /// A connection that breaks, or a refusal.
    pub fn delete_state(&self, name: &str) -> Result<()> {
        self.exchange("DELETE", &format!("/v1/states/{name}"), None).map(drop)
    }

    /// The body of an answer with status 200.
    fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String> {
        let mut text = String::new();
        self.send(method, path, body)?.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| Error::other("no HTTP"))?;
        if head.split(' ').nth(1) == Some("200") { Ok(body.to_owned()) } else { Err(Error::other(head.to_owned())) }
    }

    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes())?;
        Ok(stream)
    }
}

/// Adds what an event of either API tells.
fn read_event(event: &Value, answer: &mut Answer) {
    let ours = &event["choices"][0]["token_ids"];
    let ids = ours.as_array().or_else(|| event["tokens"].as_array());
    answer.tokens.extend(ids.into_iter().flatten().filter_map(Value::as_u64).map(|id| id as u32));
    let cached = &event["usage"]["prompt_tokens_details"]["cached_tokens"];
    let cached = cached.as_u64().or_else(|| event["timings"]["cache_n"].as_u64());
    answer.cached = cached.map_or(answer.cached, |n| n as usize);
}

/// Takes a chunked stream of server-sent events apart.
#[derive(Default)]
struct Reader {
    head: String,
    /// Bytes after the head.
    raw: Vec<u8>,
    /// Bytes of the current chunk that have not come.
    missing: usize,
    /// Bytes of the body that are not taken apart.
    body: Vec<u8>,
}

impl Reader {
    fn push(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        if self.head.is_empty() {
            let Some(end) = find(&self.raw, b"\r\n\r\n") else { return };
            self.head = String::from_utf8_lossy(&self.raw[..end + 2]).into_owned();
            self.raw.drain(..end + 4);
        }
        loop {
            if self.missing > 0 {
                let n = self.missing.min(self.raw.len());
                self.body.extend(self.raw.drain(..n));
                self.missing -= n;
                if self.missing > 0 {
                    return;
                }
            }
            // The line with the size of the next chunk, after the end of the last one.
            let skip = if self.raw.starts_with(b"\r\n") { 2 } else { 0 };
            let Some(end) = find(&self.raw[skip..], b"\r\n") else { return };
            let size = String::from_utf8_lossy(&self.raw[skip..skip + end]).into_owned();
            let Ok(size) = usize::from_str_radix(size.trim(), 16) else { return };
            self.raw.drain(..skip + end + 2);
            self.missing = size;
            if size == 0 {
                return;
            }
        }
    }

    /// The next whole event.
    fn event(&mut self) -> Option<Value> {
        loop {
            let end = find(&self.body, b"\n")?;
            let line: Vec<u8> = self.body.drain(..=end).collect();
            if let Some(event) = line.strip_prefix(b"data: ").and_then(|json| serde_json::from_slice(json).ok()) {
                return Some(event);
            }
        }
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
