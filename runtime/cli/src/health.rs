//! `jamba health`: whether a server takes requests, for the health checks of containers, which have no curl.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::failure::{Failure, print};

/// Arguments of `jamba health`.
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 if the server answers with status 200; 1 otherwise, with the reason on stderr.")]
pub(crate) struct Args {
    /// The server: `http://HOST:PORT`, `https://HOST:PORT`, or `unix:PATH`. The request is GET /ready, or the path of the URL
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// For https: PEM file with the certificate of the server, or of the authority that signed it
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Longest time for the whole answer, in seconds
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// Most bytes of an answer that are read.
const MAX_BYTES: u64 = 1 << 16;

/// Ports of `http://HOST` and `https://HOST`.
const PORTS: [u16; 2] = [80, 443];

/// The address of a server, and the path to request.
#[derive(Debug, PartialEq, Eq)]
enum Target<'a> {
    Tcp { host: &'a str, port: u16, path: &'a str, is_encrypted: bool },
    Unix(&'a str),
}

fn target(url: &str) -> Result<Target<'_>, Failure> {
    let refused = |reason: &str| {
        Failure::Usage(format!("{url:?}: {reason}, expected http://HOST:PORT, https://HOST:PORT or unix:PATH"))
    };
    if let Some(path) = url.strip_prefix("unix:") {
        return if path.is_empty() { Err(refused("found no path")) } else { Ok(Target::Unix(path)) };
    }
    let (is_encrypted, rest) = match url.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, url.strip_prefix("http://").unwrap_or(url)),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if is_port(port) => (host, port.parse().map_err(|_| refused("the port is too large"))?),
        _ => (authority, PORTS[usize::from(is_encrypted)]),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(refused("found no host"));
    }
    Ok(Target::Tcp { host, port, path: if matches!(path, "" | "/") { "/ready" } else { path }, is_encrypted })
}

/// Asks the server. Prints nothing if it is ready.
pub(crate) fn health(args: Args) -> Result<(), Failure> {
    let until = Instant::now() + Duration::from_secs(args.timeout);
    let failed = |reason: String| Failure::Input(format!("{}: {reason}", args.url));
    let target = target(&args.url)?;
    if matches!(target, Target::Tcp { is_encrypted: true, .. }) && args.ca.is_none() {
        return Err(Failure::Usage(
            "https:// needs --ca FILE: the certificate of the server, or of its authority".to_owned(),
        ));
    }
    let answer = match target {
        Target::Tcp { host, port, path, is_encrypted } => connect(host, port, until).and_then(|stream| {
            let named = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            match args.ca.as_deref().filter(|_| is_encrypted) {
                Some(authorities) => ask_encrypted(stream, (host, authorities), (&named, path), until),
                None => ask(stream, (&named, path), until, TcpStream::set_read_timeout),
            }
        }),
        Target::Unix(path) => UnixStream::connect(path)
            .and_then(|stream| ask(stream, ("localhost", "/ready"), until, UnixStream::set_read_timeout)),
    };
    let answer = answer.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => failed(format!("no answer in {} s", args.timeout)),
        _ => failed(error.to_string()),
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().and_then(|line| line.strip_prefix("HTTP/1.")).and_then(|line| line.get(2..5));
    match status {
        Some("200") => print(""),
        Some(status) => Err(failed(match message(body) {
            Some(message) => format!("status {status}: {message}"),
            None => format!("status {status}"),
        })),
        None => Err(failed("the answer is not HTTP".to_owned())),
    }
}

/// The message of an error object.
fn message(body: &str) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    Some(body.get("error")?.get("message")?.as_str()?.to_owned())
}

/// The time left, as the error of a wait that took too long if there is none.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Connects to the first address of the host that answers.
fn connect(host: &str, port: u16, until: Instant) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(until)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Asks over TLS.
#[cfg(feature = "serve")]
fn ask_encrypted(
    stream: TcpStream,
    (host, authorities): (&str, &Path),
    request: (&str, &str),
    until: Instant,
) -> io::Result<String> {
    stream.set_read_timeout(Some(left(until)?))?;
    stream.set_write_timeout(Some(left(until)?))?;
    let stream = jamba_serve::connect(stream, host, authorities)?;
    ask(stream, request, until, |stream, time| stream.sock.set_read_timeout(time))
}

#[cfg(not(feature = "serve"))]
fn ask_encrypted(_: TcpStream, _: (&str, &Path), _: (&str, &str), _: Instant) -> io::Result<String> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this program was built without TLS (the feature `serve`)"))
}

/// Sends a request for a path of a host, and reads to the end of the answer.
fn ask<S: Read + Write>(
    mut stream: S,
    (host, path): (&str, &str),
    until: Instant,
    set_timeout: fn(&S, Option<Duration>) -> io::Result<()>,
) -> io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    while (bytes.len() as u64) < MAX_BYTES {
        set_timeout(&stream, Some(left(until)?))?;
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(&part[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_server() {
        let tcp = |host, port, path| Target::Tcp { host, port, path, is_encrypted: false };
        let https = Target::Tcp { host: "localhost", port: 443, path: "/ready", is_encrypted: true };
        assert_eq!(target("https://localhost").ok(), Some(https));
        for (url, expected) in [
            ("http://127.0.0.1:8080", tcp("127.0.0.1", 8080, "/ready")),
            ("http://[::1]:80/", tcp("::1", 80, "/ready")),
            ("localhost:8080/health", tcp("localhost", 8080, "/health")),
            ("http://model", tcp("model", 80, "/ready")),
            ("unix:/run/jamba.sock", Target::Unix("/run/jamba.sock")),
        ] {
            assert_eq!(target(url).ok(), Some(expected), "{url}");
        }
        for url in ["https://", "unix:", "http://", "", "http://h:99999", "http://a b", "http://a\r\nX: y"] {
            assert!(matches!(target(url), Err(Failure::Usage(_))), "{url:?}");
        }
    }
}
