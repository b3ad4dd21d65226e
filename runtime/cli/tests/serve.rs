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
    let is_told = line.starts_with("Serving toy at http") && line.contains("://127.0.0.1:");
    assert!(is_told && line.contains("3 sequences"), "{line}");
    let address = line.split("://").nth(1).and_then(|rest| rest.split(": ").next()).unwrap().to_owned();
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

/// A line of the status of a process's thread.
fn status(thread: &std::path::Path, name: &str) -> u32 {
    let text = std::fs::read_to_string(thread.join("status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn the_sandbox_holds_for_every_thread() {
    let own = status(std::path::Path::new("/proc/self"), "Seccomp_filters:");
    for (mode, filters) in [("on", 2), ("off", 0)] {
        let (mut child, address) = start(&["--sandbox", mode, "--threads", "2"]);
        // A request needs threads that did not exist before.
        let body = r#"{"prompt": [1, 2, 3], "max_tokens": 3}"#;
        let mut stream = TcpStream::connect(&address).unwrap();
        let head = format!("Host: {address}\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
        write!(stream, "POST /v1/completions HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n{body}").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
        let threads: Vec<_> = threads.map(|entry| entry.unwrap().path()).collect();
        assert!(threads.len() >= 4, "{threads:?}"); // steps, a worker, HTTP, signals
        for thread in threads {
            assert_eq!(status(&thread, "Seccomp_filters:"), own + filters, "{mode}: {thread:?}");
        }
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

fn health(url: &str) -> (Option<i32>, String) {
    let output = jamba(&["health", url]).output().unwrap();
    assert!(output.stdout.is_empty());
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_health_check_asks_for_ready() {
    let (mut child, address) = start(&[]);
    assert_eq!(health(&format!("http://{address}")), (Some(0), String::new()));
    assert_eq!(health(&format!("{address}/version")), (Some(0), String::new()));
    let (code, error) = health(&format!("http://{address}/nothing"));
    assert!(code == Some(1) && error.contains("status 404: there is no /nothing"), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    let (code, error) = health(&format!("http://{address}"));
    assert!(code == Some(1) && error.contains(&address) && error.contains("refused"), "{error}");
    let (code, error) = health("unix:/no/such/socket");
    assert!(code == Some(1) && error.contains("/no/such/socket"), "{error}");
    // A server that says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let output = jamba(&["health", &url, "--timeout", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no answer in 1 s"));
    assert_eq!(health("https://localhost").0, Some(2));
}

#[test]
fn tls_needs_a_certificate_and_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (certificate, key) = (file("cert", &made.cert.pem()), file("key", &made.signing_key.serialize_pem()));
    let (mut child, address) = start(&["--sandbox", "on", "--tls-cert", &certificate, "--tls-key", &key]);
    let url = format!("https://{address}");
    let ask = |authority: &str| jamba(&["health", &url, "--ca", authority]).output().unwrap();
    let output = ask(&certificate);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let output = ask(&key);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("found no certificate"));
    child.kill().unwrap();
    child.wait().unwrap();
    let error = refused(&["serve", PLAN, "--tls-cert", &key, "--tls-key", &key], 1);
    assert!(error.contains(&key) && error.contains("found no certificate"), "{error}");
    refused(&["serve", PLAN, "--tls-cert", &certificate], 2);
}

#[test]
fn the_service_manager_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let received = || {
        let mut bytes = [0; 64];
        let n = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..n].to_vec()).unwrap()
    };
    let mut command = jamba(&["serve", PLAN, "--port", "0", "--sandbox", "on"]);
    let mut child = command.env("NOTIFY_SOCKET", &path).spawn().unwrap();
    assert_eq!(received(), "READY=1");
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(received(), "STOPPING=1");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// A file beside the server, with a line's rest after `start`.
fn line_of(file: &str, start: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../serve").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_else(|| panic!("{file} has no {start}")).to_owned()
}

/// The command lines of the unit and the Dockerfile are understood: what they lack here are their files.
#[test]
fn the_service_files_start_the_server() {
    let words = |list: &str| serde_json::from_str::<Vec<String>>(list).unwrap();
    let entry = [words(&line_of("Dockerfile", "ENTRYPOINT ")), words(&line_of("Dockerfile", "CMD "))].concat();
    let args: Vec<&str> = entry.iter().map(String::as_str).collect();
    assert_eq!(args[0], "/usr/bin/jamba");
    assert!(refused(&args[1..], 1).contains("/keys"));
    let check = line_of("Dockerfile", "HEALTHCHECK ");
    let check = words(&check[check.find('[').unwrap()..]);
    assert_eq!(check[..2], ["/usr/bin/jamba", "health"]);
    // A server may run here.
    assert_ne!(jamba(&["health", &check[2]]).output().unwrap().status.code(), Some(2));
    let options = line_of("jamba.service", "#   JAMBA_OPTIONS=");
    let start = line_of("jamba.service", "ExecStart=").replace("$JAMBA_OPTIONS", &options);
    let args: Vec<&str> = start.split(' ').collect();
    assert_eq!(args[..3], ["/usr/bin/jamba", "serve", "/etc/jamba/plan"]);
    assert!(refused(&args[1..], 1).contains("/etc/jamba/keys"));
}

#[test]
fn systemd_understands_the_unit() {
    let unit = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../serve/jamba.service");
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("jamba.service");
    let text = std::fs::read_to_string(unit).unwrap().replace("/usr/bin/jamba", env!("CARGO_BIN_EXE_jamba"));
    std::fs::write(&copy, text).unwrap();
    let Ok(output) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output() else {
        println!("skipped: systemd-analyze is not installed");
        return;
    };
    let found = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = found.lines().filter(|line| line.contains("jamba.service")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

#[test]
fn metrics_have_a_socket_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "0".repeat(64)).unwrap();
    let args = ["serve", PLAN, "--port", "0", "--metrics-listen", "127.0.0.1:0", "--api-keys", keys.to_str().unwrap()];
    let mut child = jamba(&args).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let metrics = log.find_map(|line| Some(line.split_once("metrics at http://")?.1.to_owned())).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let api = line.split("http://").nth(1).and_then(|rest| rest.split(": ").next()).unwrap();
    assert!(get(api, "/metrics").starts_with("HTTP/1.1 401"));
    assert!(get(&metrics, "/metrics").contains("jamba_num_requests_running"));
    assert!(get(&metrics, "/slots").ends_with("[]"));
    assert_eq!(health(&metrics), (Some(0), String::new()));
    assert!(get(&metrics, "/v1/models").starts_with("HTTP/1.1 404"));
    child.kill().unwrap();
    child.wait().unwrap();
    for option in ["--metrics-listen", "--kv-events"] {
        let error = refused(&["serve", PLAN, option, "9090"], 2);
        assert!(error.contains("HOST:PORT"), "{error}");
    }
    let error = refused(&["serve", PLAN, "--kv-events", "tcp://*:5557", "--api-keys", keys.to_str().unwrap()], 2);
    assert!(error.contains("--share-cache"), "{error}");
}
