//! Probes: what a confined thread cannot do, and what it still can.

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use super::*;

/// Runs `act` on a thread of its own in the sandbox. The other threads of the test stay as they are.
fn confined<T: Send>(confinement: &Confinement, backend: Backend, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|threads| {
        let work = || {
            confinement.confine_steps(backend).expect("the kernel has seccomp and Landlock");
            act()
        };
        threads.spawn(work).join().expect("no panic")
    })
}

fn required() -> Sandbox {
    Sandbox { reach: Reach::Server, is_required: true, ..Sandbox::default() }
}

fn confinement(sandbox: Sandbox) -> Confinement {
    Confinement::new(sandbox, &Address::Tcp("localhost".to_owned(), 0))
}

fn is_denied<T>(result: std::io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

#[test]
fn a_confined_thread_opens_nothing_and_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (file, new) = (folder.path().join("file"), folder.path().join("new"));
    fs::write(&file, "text").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    let pid = std::process::id();
    confined(&confinement(required()), Backend::Cpu, || {
        assert!(is_denied(fs::read(&file)) && is_denied(fs::read("/proc/self/maps")) && is_denied(fs::write(&new, "")));
        assert!(
            is_denied(fs::remove_file(&file)) && is_denied(fs::rename(&file, &new)) && is_denied(fs::metadata(&file))
        );
        assert!(is_denied(Command::new("/bin/true").status()));
        assert!(is_denied(TcpStream::connect(address)) && is_denied(TcpListener::bind("127.0.0.1:0")));
        assert!(is_denied(UnixDatagram::unbound()));
        // Its own sockets, threads and memory go on.
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        assert_eq!(std::thread::spawn(move || vec![1u8; 1 << 22].len()).join().unwrap(), 1 << 22);
        assert_eq!(std::process::id(), pid);
    });
    drop(client);
    assert_eq!(fs::read(&file).unwrap(), b"text");
}

#[test]
fn a_granted_folder_is_all_that_files_are_opened_in() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sandbox = Sandbox { folders: vec![folder.path().to_owned()], ..required() };
    fs::write(other.path().join("secret"), "text").unwrap();
    confined(&confinement(sandbox), Backend::Cpu, || {
        let (part, whole) = (folder.path().join("part"), folder.path().join("whole"));
        fs::write(&part, "text").unwrap();
        fs::rename(&part, &whole).unwrap();
        assert_eq!(fs::read(&whole).unwrap(), b"text");
        assert!(is_denied(fs::read(other.path().join("secret"))) && is_denied(fs::write(other.path().join("new"), "")));
        assert!(is_denied(Command::new("/bin/true").status()));
    });
}

#[test]
fn the_folder_of_a_socket_loses_files_and_shows_none() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    fs::write(&socket, "text").unwrap();
    let confinement = Confinement::new(required(), &Address::Unix(socket.clone()));
    confined(&confinement, Backend::Cpu, || {
        assert!(is_denied(fs::read(&socket)));
        fs::remove_file(&socket).unwrap();
    });
}

#[test]
fn beside_a_driver_files_are_open_and_programs_are_not() {
    confined(&confinement(required()), Backend::Cuda, || {
        assert!(fs::read("/proc/self/maps").is_ok());
        assert!(is_denied(Command::new("/bin/true").status()) && is_denied(TcpListener::bind("127.0.0.1:0")));
    });
}

#[test]
fn a_gap_is_a_warning_unless_the_sandbox_is_required() {
    let gap = || Err("the kernel has no Landlock".to_owned());
    let error = confinement(required()).check(gap()).unwrap_err().to_string();
    assert!(error.contains("no Landlock") && error.contains("--sandbox auto"), "{error}");
    assert!(confinement(Sandbox { is_required: false, ..required() }).check(gap()).is_ok());
}
