//! The plan's code, loaded: an ELF shared object, given to the dynamic linker through an anonymous file, so that nothing
//! is written to disk.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use jamba_plan::format::KernelRecord;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::RuntimeError;

/// A kernel: its argument array, the thread that calls, the number of threads.
pub(super) type KernelFn = unsafe extern "C" fn(args: *const u64, thread: u64, n_threads: u64);

/// Code of one target, and its kernels by index.
#[derive(Debug)]
pub(super) struct Code {
    pub(super) kernels: Vec<KernelFn>,
    _library: Library,
    /// Kept open, and dropped last: the linker tells libraries apart by name, and the name is the descriptor's.
    _file: File,
}

impl Code {
    /// Loads the code of a plan whose digest was checked.
    pub(super) fn load(target: &str, elf: &[u8], records: &[KernelRecord]) -> Result<Code, RuntimeError> {
        let failed = |reason: String| RuntimeError::Code { target: target.to_owned(), reason };
        let file = memfd_create("jamba-code", MemfdFlags::CLOEXEC).map_err(|error| failed(error.to_string()))?;
        let mut file = File::from(file);
        file.write_all(elf).map_err(|error| failed(error.to_string()))?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // SAFETY: the object is what the compiler wrote (its digest was checked): kernels, without initialisers.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|error| failed(error.to_string()))?;
        let mut kernels = Vec::with_capacity(records.len());
        for record in records {
            // SAFETY: the compiler gives every kernel of the program this one signature.
            let kernel = unsafe { library.get::<KernelFn>(record.symbol.as_bytes()) };
            kernels.push(*kernel.map_err(|error| failed(error.to_string()))?);
        }
        Ok(Code { kernels, _library: library, _file: file })
    }
}
