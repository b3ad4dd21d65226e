//! Encrypted connections.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use jamba_serve::{ServeOptions, Tls};

use crate::client::Running;

/// The files of a certificate for `localhost` and of its key.
fn certificate(folder: &tempfile::TempDir, name: &str) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (folder.path().join(name), folder.path().join(format!("{name}.key")));
    std::fs::write(&certificate, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    (certificate, key)
}

fn get(address: &str, host: &str, authority: &Path) -> std::io::Result<String> {
    let stream = TcpStream::connect(address).expect("the server listens");
    let mut stream = jamba_serve::connect(stream, host, authority)?;
    stream.write_all(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn a_client_that_knows_the_certificate_is_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let ((ours, key), (other, _)) = (certificate(&folder, "ours"), certificate(&folder, "other"));
    let tls = Some(Tls::read(&ours, &key).expect("a certificate"));
    let server = Running::new(ServeOptions { tls, ..ServeOptions::default() });
    let address = server.address.clone();
    let answer = get(&address, "localhost", &ours).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"id\":\"toy\""), "{answer}");
    // Another authority, and another name.
    assert!(get(&address, "localhost", &other).is_err());
    assert!(get(&address, "example.org", &ours).is_err());
    // What is no handshake is answered by an alert and the end of the connection, and the server goes on.
    let mut plain = TcpStream::connect(&address).expect("the server listens");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut bytes = Vec::new();
    let _ = plain.read_to_end(&mut bytes); // the server may reset the connection
    assert!(!bytes.starts_with(b"HTTP"), "{bytes:?}");
    let held = TcpStream::connect(&address).expect("a client that does not begin its handshake");
    assert!(get(&address, "localhost", &ours).is_ok());
    drop(held);
    server.stop();
    server.wait().expect("a quiet end");
}
