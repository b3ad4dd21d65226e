//! Loads the plan's code, an ELF shared object, through an anonymous file (memfd), without writing to disk. Without /proc, which gives
//! the file a path, it goes through a temporary file that is removed as soon as it is loaded.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use jamba_plan::format::KernelRecord;
use jamba_plan::output::unfinished;
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
        let not_loaded = |error: std::io::Error| {
            let (target, reason) = (target.to_owned(), error.to_string());
            RuntimeError::CodeNotLoaded { target, reason }
        };
        let mut file = File::from(memfd_create("jamba-code", MemfdFlags::CLOEXEC).map_err(|e| not_loaded(e.into()))?);
        file.write_all(elf).map_err(not_loaded)?;
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let mut folder = None;
        if !path.exists() {
            let folder = folder.insert(unfinished::Entry::folder().map_err(not_loaded)?);
            path = folder.path().join("code.so");
            std::fs::write(&path, elf).map_err(not_loaded)?;
        }
        // SAFETY: the object was written by the compiler (`Plan::parse` checked its digest) and has no initializers.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|error| match error.to_string() {
            reason if is_of_the_system(&reason) => RuntimeError::CodeNotLoaded { target: target.to_owned(), reason },
            reason => failed(reason),
        })?;
        drop(folder);
        let mut kernels = Vec::with_capacity(records.len());
        for record in records {
            // SAFETY: the compiler gives every kernel this signature.
            let kernel = unsafe { library.get::<KernelFn>(record.symbol.as_bytes()) };
            kernels.push(*kernel.map_err(|error| failed(error.to_string()))?);
        }
        Ok(Code { kernels, _library: library, _file: file })
    }
}

/// True for a message of the dynamic linker about the system, not about the object: memory, descriptors, permissions.
fn is_of_the_system(reason: &str) -> bool {
    let parts = ["map segment", "memory", "cannot open", "cannot create", "open files", "permission", "Permission"];
    parts.iter().any(|part| reason.contains(part))
}
