//! From start to end: loading, clients that vanish, draining.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::sync::mpsc;

use jamba_runtime::Engine;
use jamba_serve::{Address, ServeError, ServeOptions, Stop};
use serde_json::json;

use crate::client::{Running, engine, post};

/// A request whose answer takes as long as the context.
fn long() -> String {
    post(
        "/v1/completions",
        "application/json",
        &json!({ "prompt": [1], "max_tokens": 99, "ignore_eos": true, "stream": true }).to_string(),
    )
}

/// Reads the head of a stream and its first event.
fn first_event(stream: &TcpStream) -> BufReader<TcpStream> {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert!(reader.read_line(&mut line).expect("a line") > 0, "the stream ended");
    }
    reader
}

#[test]
fn before_the_plan_is_open_requests_are_told_so() {
    let stop = Stop::new();
    // The address is not known before the plan is open, so the port is chosen here.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let (may_open, wait) = mpsc::channel::<()>();
    let (is_ready, ready) = mpsc::channel();
    let of_thread = stop.clone();
    let thread = std::thread::spawn(move || {
        let open = || {
            wait.recv().expect("the test tells");
            Ok::<Engine, ServeError>(engine())
        };
        let tell = |_: &str, _: &Engine| {
            is_ready.send(()).expect("the test waits");
            Ok(())
        };
        let address = Address::Tcp("127.0.0.1".to_owned(), port);
        jamba_serve::serve(&address, ServeOptions::default(), open, tell, &of_thread)
    });
    let get = || loop {
        // The socket is bound before the plan is opened, but not before this thread runs.
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            use std::io::Write;
            let request = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).expect("the request is sent");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("a response");
            return text;
        }
        std::thread::yield_now();
    };
    let loading = get();
    assert!(loading.starts_with("HTTP/1.1 503") && loading.contains("\"code\":\"loading\""), "{loading}");
    may_open.send(()).expect("the server waits");
    ready.recv().expect("the server is ready");
    assert!(get().starts_with("HTTP/1.1 200"));
    stop.stop();
    thread.join().expect("no panic").expect("a quiet end");
}

#[test]
fn clients_that_vanish_leave_nothing() {
    let server = Running::new(ServeOptions::default());
    for _ in 0..20 {
        let stream = server.open(&long());
        drop(first_event(&stream));
        drop(stream);
    }
    // The server notices when it writes; then the slot is free.
    while server.get("/slots").json() != json!([]) {
        std::thread::yield_now();
    }
    let answer = server.post("/v1/completions", &json!({ "prompt": [1, 2, 3], "n": 3, "max_tokens": 5 }));
    assert_eq!(answer.status, 200);
}

#[test]
fn what_runs_ends_before_the_server_does() {
    let server = Running::new(ServeOptions::default());
    let stream = server.open(&long());
    let mut reader = first_event(&stream);
    server.stop();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).expect("the rest of the stream");
    assert!(rest.contains("\"finish_reason\":\"length\"") && rest.contains("[DONE]"), "{rest}");
    let address = server.address.clone();
    server.wait().expect("a quiet end");
    assert!(TcpStream::connect(address).is_err(), "the socket is closed");
}

#[test]
fn an_address_in_use_is_refused_by_name() {
    let server = Running::new(ServeOptions::default());
    let (host, port) = server.address.rsplit_once(':').expect("a port");
    let address = Address::Tcp(host.to_owned(), port.parse().expect("a number"));
    let open = || panic!("the plan is not opened");
    let result = jamba_serve::serve::<ServeError>(&address, ServeOptions::default(), open, |_, _| Ok(()), &Stop::new());
    let error = result.unwrap_err().to_string();
    assert!(error.contains(&server.address) && error.contains("--port"), "{error}");
}

#[test]
fn a_unix_socket_serves_and_is_removed() {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("jamba.sock");
    let (stop, (is_ready, ready)) = (Stop::new(), mpsc::channel());
    let (address, of_thread) = (Address::Unix(path.clone()), stop.clone());
    let thread = std::thread::spawn(move || {
        let tell = |_: &str, _: &Engine| {
            is_ready.send(()).expect("the test waits");
            Ok(())
        };
        jamba_serve::serve::<ServeError>(&address, ServeOptions::default(), || Ok(engine()), tell, &of_thread)
    });
    ready.recv().expect("the server is ready");
    let mut stream = UnixStream::connect(&path).expect("a connection");
    stream.write_all(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a response");
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("\"id\":\"toy\""), "{text}");
    stop.stop();
    thread.join().expect("no panic").expect("a quiet end");
    assert!(!path.exists());
}

#[test]
fn the_page_talks_to_its_own_server_alone() {
    let server = Running::new(ServeOptions::default());
    let page = server.get("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("connect-src 'self'"), "{policy}");
    assert!(!page.body.contains("http"), "the page names another server");
}
