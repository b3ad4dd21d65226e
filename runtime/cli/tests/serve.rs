//! `jamba serve`: its start, its end by a signal, and what it refuses.
#![cfg(feature = "serve")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

const PLAN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/toy.plan");

fn jamba(args: &[&str]) -> Command {
    // Tests may have been started with signals ignored, as by a shell's `&`.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT,TERM,HUP", env!("CARGO_BIN_EXE_jamba")]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("JAMBA_LOG");
    command
}

fn refused(args: &[&str], code: i32) -> String {
    let output = jamba(args).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr
}

/// Starts a server and returns the address in its first line.
fn start(args: &[&str]) -> (Child, String) {
    let mut child = jamba(&[&["serve", PLAN, "--port", "0"], args].concat()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("Serving toy at http://127.0.0.1:") && line.contains("3 sequences"), "{line}");
    let address = line.split("http://").nth(1).and_then(|rest| rest.split(": ").next()).unwrap().to_owned();
    (child, address)
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_signal_ends_it_quietly() {
    for signal in ["TERM", "INT"] {
        let (mut child, address) = start(&["--alias", "jamba-toy"]);
        assert!(get(&address, "/v1/models").contains("\"id\":\"jamba-toy\""));
        let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let status = child.wait().unwrap();
        let mut log = String::new();
        child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("path=\"/v1/models\"") && log.contains("status=200"), "{log}");
    }
}

#[test]
fn other_machines_need_a_key() {
    let error = refused(&["serve", PLAN, "--host", "0.0.0.0"], 2);
    assert!(error.contains("--api-keys") && error.contains("--insecure"), "{error}");
    let error = refused(&["serve", "-m", PLAN, "b.plan"], 2);
    assert!(error.contains("b.plan"), "{error}");
    let error = refused(&["serve", PLAN, "--api-keys", "/no/such/file"], 1);
    assert!(error.contains("/no/such/file"), "{error}");
    let error = refused(&["serve", "/no/such.plan", "--port", "0"], 1);
    assert!(error.contains("/no/such.plan"), "{error}");
}

#[test]
fn a_key_is_stored_as_its_digest() {
    let mut child = jamba(&["serve", PLAN, "--digest-key"]).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let digest = String::from_utf8(output.stdout).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, &digest).unwrap();
    let (mut child, address) = start(&["--api-keys", path.to_str().unwrap()]);
    assert!(get(&address, "/v1/models").starts_with("HTTP/1.1 401"));
    let mut stream = TcpStream::connect(&address).unwrap();
    let head = "Host: localhost\r\nAuthorization: Bearer secret\r\nConnection: close";
    write!(stream, "GET /v1/models HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    child.kill().unwrap();
    child.wait().unwrap();
}
