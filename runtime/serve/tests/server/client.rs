//! A server of the toy plan on loopback, and a client that sees every byte.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;

use jamba_runtime::{Engine, OpenOptions};
use jamba_serve::{Address, Reach, Sandbox, ServeError, ServeOptions, Stop};
use serde_json::Value;

pub(crate) fn plan() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/toy.plan")
}

pub(crate) fn engine() -> Engine {
    Engine::open(plan(), OpenOptions { threads: Some(1), ..OpenOptions::default() }).expect("the toy plan opens")
}

/// A running server. Dropping it stops it and waits for its end.
pub(crate) struct Running {
    pub(crate) address: String,
    stop: Stop,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Running {
    pub(crate) fn new(options: ServeOptions) -> Running {
        // What the threads of the server do must not need more than a confined server has.
        let sandbox = Sandbox { reach: Reach::Server, is_required: true, ..Sandbox::default() };
        let options = ServeOptions { sandbox, ..options };
        let (stop, (sender, receiver)) = (Stop::new(), mpsc::channel());
        let of_thread = stop.clone();
        let thread = std::thread::spawn(move || {
            let ready = |name: &str, _: &Engine| {
                sender.send(name.to_owned()).expect("the test waits");
                Ok(())
            };
            let address = Address::Tcp("127.0.0.1".to_owned(), 0);
            jamba_serve::serve(&address, options, || Ok(engine()), ready, &of_thread)
        });
        let name = receiver.recv().expect("the server starts");
        let (_, address) = name.split_once("://").expect("an address");
        let address = address.to_owned();
        Running { address, stop, thread: Some(thread) }
    }

    pub(crate) fn stop(&self) {
        self.stop.stop();
    }

    /// Waits for the end of the server.
    pub(crate) fn wait(mut self) -> Result<(), ServeError> {
        self.thread.take().expect("it runs").join().expect("no panic")
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        self.send(&post(path, "application/json", &body.to_string()))
    }

    /// Sends bytes as they are and reads to the end.
    pub(crate) fn send(&self, request: &str) -> Response {
        let mut stream = self.open(request);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("the response arrives");
        Response::parse(&bytes)
    }

    /// Sends bytes and leaves the connection open.
    pub(crate) fn open(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("the server listens");
        stream.write_all(request.as_bytes()).expect("the request is sent");
        stream
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn post(path: &str, kind: &str, body: &str) -> String {
    let n = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    fn parse(bytes: &[u8]) -> Response {
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").expect("a header");
            (name.to_lowercase(), value.to_owned())
        };
        let headers: Vec<_> = lines.map(header).collect();
        let is_chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if is_chunked { unchunked(body) } else { body.to_owned() };
        Response { status, headers, body }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The objects of a stream, which must end with `[DONE]`.
    pub(crate) fn events(&self) -> Vec<Value> {
        let mut events: Vec<&str> = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(events.pop(), Some("[DONE]"), "{}", self.body);
        events.into_iter().map(|text| serde_json::from_str(text).expect("an object")).collect()
    }

    /// The names and objects of a stream's events.
    pub(crate) fn named_events(&self) -> Vec<(String, Value)> {
        let blocks = self.body.split("\n\n").filter(|block| !block.is_empty());
        let event = |block: &str| {
            let (name, data) = block.split_once('\n').expect("a name and data");
            let name = name.strip_prefix("event: ").expect("a name").to_owned();
            (name, serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("an object"))
        };
        blocks.map(event).collect()
    }
}

fn unchunked(mut body: &str) -> String {
    let mut text = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").expect("the size of a chunk");
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            return text;
        }
        text += &rest[..size];
        body = &rest[size + 2..];
    }
}
