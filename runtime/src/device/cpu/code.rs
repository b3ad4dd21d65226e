//! Loads the plan's code, an ELF shared object, through an anonymous file (memfd), without writing to disk.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use jamba_plan::format::KernelRecord;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::RuntimeError;

/// A kernel: argument array, index of the calling thread, number of threads.
pub(super) type KernelFn = unsafe extern "C" fn(args: *const u64, thread: u64, n_threads: u64);

/// Loaded code of one target.
#[derive(Debug)]
pub(super) struct Code {
    pub(super) kernels: Vec<KernelFn>,
    _library: Library,
    /// Kept open and dropped last: the linker identifies libraries by path, and this path contains the descriptor.
    _file: File,
}

impl Code {
    /// Loads the code of a verified plan.
    pub(super) fn load(target: &str, elf: &[u8], records: &[KernelRecord]) -> Result<Code, RuntimeError> {
        let failed = |reason: String| RuntimeError::Code { target: target.to_owned(), reason };
        let file = memfd_create("jamba-code", MemfdFlags::CLOEXEC).map_err(|error| failed(error.to_string()))?;
        let mut file = File::from(file);
        file.write_all(elf).map_err(|error| failed(error.to_string()))?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // SAFETY: the object was written by the compiler (`Plan::parse` checked its digest) and has no initializers.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|error| failed(error.to_string()))?;
        let mut kernels = Vec::with_capacity(records.len());
        for record in records {
            // SAFETY: the compiler gives every kernel this signature.
            let kernel = unsafe { library.get::<KernelFn>(record.symbol.as_bytes()) };
            kernels.push(*kernel.map_err(|error| failed(error.to_string()))?);
        }
        Ok(Code { kernels, _library: library, _file: file })
    }
}
