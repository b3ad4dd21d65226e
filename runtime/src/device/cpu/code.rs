//! Maps the plan's code into memory without the system's loader: no file, no library, no relocation, nothing that runs before the
//! first kernel. Memory is writable while it is filled, then read-only or executable, between pages that cannot be accessed.

use std::ptr::NonNull;

use jamba_plan::format::KernelRecord;
use memmap2::MmapMut;
use rustix::mm::{MprotectFlags, mprotect};

use super::image::{Image, PAGE_BYTES, Segment};
use crate::RuntimeError;

/// A kernel: argument array, number of the part, number of parts.
pub(super) type KernelFn = unsafe extern "C" fn(args: *const u64, part: u64, n_parts: u64);

/// Loaded code of one target.
#[derive(Debug)]
pub(super) struct Code {
    pub(super) kernels: Vec<KernelFn>,
    /// Never accessed: most of it is no longer writable.
    _map: MmapMut,
}

impl Code {
    /// Loads the code of a verified plan.
    ///
    /// # Errors
    /// Code that needs more than memory, code without a kernel of the plan, and a system that gives no executable memory.
    pub(super) fn load(target: &str, elf: &[u8], records: &[KernelRecord]) -> Result<Code, RuntimeError> {
        let failed = |reason: String| RuntimeError::Code { target: target.to_owned(), reason };
        let refused = |error: std::io::Error| {
            // What systemd's MemoryDenyWriteExecute and SELinux's execmem answer.
            let denies = error.kind() == std::io::ErrorKind::PermissionDenied;
            let hint =
                if denies { ": code is copied into memory that is made executable, which must be allowed" } else { "" };
            let (target, reason) = (target.to_owned(), format!("{error}{hint}"));
            RuntimeError::CodeNotLoaded { target, reason }
        };
        let image = Image::parse(elf).map_err(failed)?;
        let functions = records.iter().map(|record| image.function(&record.symbol)).collect::<Result<Vec<u64>, _>>();
        let functions = functions.map_err(failed)?;
        let guard = PAGE_BYTES as usize;
        let mut map = MmapMut::map_anon(image.bytes as usize + 2 * guard).map_err(refused)?;
        for Segment { address, contents, .. } in &image.segments {
            let start = guard + *address as usize;
            map[start..start + contents.len()].copy_from_slice(contents);
        }
        let base = NonNull::from(&mut map[..]).cast::<u8>();
        let protect = |start: usize, bytes: usize, flags: MprotectFlags| {
            // SAFETY: the pages are inside the mapping, which no reference covers from here on.
            unsafe { mprotect(base.add(start).as_ptr().cast(), bytes, flags) }.map_err(|error| refused(error.into()))
        };
        protect(0, image.bytes as usize + 2 * guard, MprotectFlags::empty())?;
        for Segment { addresses, is_executable, .. } in &image.segments {
            let (start, bytes) = (guard + addresses.start as usize, (addresses.end - addresses.start) as usize);
            let flags = if *is_executable { MprotectFlags::READ | MprotectFlags::EXEC } else { MprotectFlags::READ };
            protect(start, bytes, flags)?;
            if *is_executable {
                // SAFETY: the pages are inside the mapping.
                clear_instruction_cache(unsafe { base.add(start) }, bytes);
            }
        }
        let kernel = |address: u64| {
            // SAFETY: the address is inside the executable part of the mapping, and the compiler gives every kernel this
            // signature.
            unsafe { std::mem::transmute::<*const u8, KernelFn>(base.add(guard + address as usize).as_ptr()) }
        };
        Ok(Code { kernels: functions.into_iter().map(kernel).collect(), _map: map })
    }
}

/// Makes written instructions visible to instruction fetch, which x86 does by itself.
#[cfg(target_arch = "aarch64")]
fn clear_instruction_cache(start: NonNull<u8>, bytes: usize) {
    unsafe extern "C" {
        /// Of the compiler's runtime library.
        fn __clear_cache(begin: *mut u8, end: *mut u8);
    }
    // SAFETY: the bytes are readable.
    unsafe { __clear_cache(start.as_ptr(), start.add(bytes).as_ptr()) }
}

#[cfg(not(target_arch = "aarch64"))]
fn clear_instruction_cache(_start: NonNull<u8>, _bytes: usize) {}
