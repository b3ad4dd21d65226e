//! Kernels of Arm on x86-64: `guest.c`, compiled for Arm and run by QEMU, calls them.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use jambac_kernels::target::{ArmLevel, CpuTarget};

use crate::loader::{LoadError, Slot};

const COMPILER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";

/// The guest's dynamic linker, of its C library.
const LINKER: &str = "/lib/ld-linux-aarch64.so.1";

/// A running guest.
pub(crate) struct Emulator {
    guest: Mutex<Child>,
    _folder: tempfile::TempDir,
}

/// In which order threads run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Ascending,
    Descending,
    Together,
}

impl Emulator {
    /// Whether the target's code can be emulated, and if not, what is missing.
    pub(crate) fn missing(target: CpuTarget) -> Option<&'static str> {
        let runs = |program: &str| {
            let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            found.is_ok_and(|status| status.success())
        };
        match target {
            CpuTarget::X86(_) => Some("a CPU of this level"),
            CpuTarget::Arm(_) if !runs(COMPILER) => Some(COMPILER),
            CpuTarget::Arm(_) if !runs(EMULATOR) => Some(EMULATOR),
            CpuTarget::Arm(_) if !Path::new(LINKER).exists() => Some(LINKER),
            CpuTarget::Arm(_) => None,
        }
    }

    /// Starts a guest on a CPU that has the instructions of the target; where QEMU knows one, no others.
    pub(crate) fn start(target: CpuTarget, shared_object: &[u8]) -> io::Result<Emulator> {
        let folder = tempfile::tempdir()?;
        let [source, guest, code] = ["guest.c", "guest", "code.so"].map(|name| folder.path().join(name));
        fs::write(&source, include_str!("guest.c"))?;
        fs::write(&code, shared_object)?;
        let flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"];
        let compiled = Command::new(COMPILER).args(flags).arg(&guest).arg(&source).arg("-ldl").output()?;
        if !compiled.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&compiled.stderr).into_owned()));
        }
        let cpu = if target == CpuTarget::Arm(ArmLevel::V82) { "neoverse-n1" } else { "max" };
        let mut command = Command::new(EMULATOR);
        command.args(["-cpu", cpu]).arg(&guest).arg(&code);
        let guest = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Emulator { guest: Mutex::new(guest), _folder: folder })
    }

    /// Calls a kernel with every thread number, between guard bytes, and copies back what it wrote.
    pub(crate) fn call(&self, name: &str, n_threads: u64, order: Order, slots: Vec<Slot>) -> Result<(), LoadError> {
        let failed = |error: io::Error| LoadError::of(format!("{name} on {EMULATOR}: {error}"));
        let mut guest = self.guest.lock().expect("no call panicked");
        let mut request = Vec::new();
        let number = |request: &mut Vec<u8>, n: u64| request.extend(n.to_le_bytes());
        number(&mut request, name.len() as u64);
        request.extend(name.as_bytes());
        [n_threads, order as u64, slots.len() as u64].iter().for_each(|&n| number(&mut request, n));
        for slot in &slots {
            let (kind, length, bytes): (u64, u64, &[u8]) = match slot {
                Slot::Scalar(value) => (0, *value, &[]),
                Slot::Read(bytes) => (1, bytes.len() as u64, bytes),
                Slot::Write(bytes) => (2, bytes.len() as u64, bytes),
            };
            number(&mut request, kind);
            number(&mut request, length);
            request.extend(bytes);
        }
        let input = guest.stdin.as_mut().expect("a pipe");
        input.write_all(&request).and_then(|()| input.flush()).map_err(failed)?;
        let output = guest.stdout.as_mut().expect("a pipe");
        let mut length = [0; 8];
        output.read_exact(&mut length).map_err(failed)?;
        let mut message = vec![0; u64::from_le_bytes(length) as usize];
        output.read_exact(&mut message).map_err(failed)?;
        if !message.is_empty() {
            return Err(LoadError::of(format!("{name} on {EMULATOR}: {}", String::from_utf8_lossy(&message))));
        }
        for slot in slots {
            if let Slot::Write(bytes) = slot {
                output.read_exact(bytes).map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let guest = self.guest.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        // It ends where its input ends.
        drop(guest.stdin.take());
        let _ = guest.wait();
    }
}
