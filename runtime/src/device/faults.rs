//! For programs, not libraries: failures of the machine that would kill the process become a sentence on stderr and exit
//! code 1.
//!
//! - [`report_bus_errors`]: a mapped file that another process truncates, or that a disk fails to read, raises SIGBUS when it is used.
//!   The runtime cannot prevent it: plans are mapped because they may be larger than memory, and Linux has no mapping that
//!   keeps the bytes of a truncated file. A library must not change signal handlers, so without this function such a fault
//!   kills the process.
//! - [`ReportingAllocator`]: Rust aborts if an allocation fails, for example under `ulimit -v`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use libc::siginfo_t;

/// Name of the program, for the message.
static PROGRAM: OnceLock<&str> = OnceLock::new();

/// Exit code of the faults that this module reports.
const FAILED: c_int = 1;

/// What a program does before it ends.
static BEFORE_EXIT: OnceLock<fn()> = OnceLock::new();

/// Runs `action` before a failure of the machine ends the process, for example to give a terminal its modes again. It runs in a
/// signal's handler or without memory, so it must neither allocate nor wait.
pub fn before_exit(action: fn()) {
    let _ = BEFORE_EXIT.set(action);
}

fn run_before_exit() {
    if let Some(action) = BEFORE_EXIT.get() {
        action();
    }
}

/// Installs a handler for SIGBUS: it names the mapped file at fault and ends the process with exit code 1. Faults in other
/// memory keep the system's effect. Also ignores SIGXFSZ, so that a write beyond `ulimit -f` is an error and not the end of
/// the process.
pub fn report_bus_errors(program: &'static str) {
    let _ = PROGRAM.set(program);
    // SAFETY: a zeroed `sigaction` is valid. The handler has the signature that SA_SIGINFO demands and calls only functions
    // that are async-signal-safe. `SIG_IGN` replaces no handler of ours.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_bus_error as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

extern "C" fn on_bus_error(signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: the system passes a valid pointer to a handler with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    let mut line = Line::new();
    let path = match mapping_of(address, &mut line) {
        Mapping::File => line.path(),
        Mapping::Unknown => b"a mapped file",
        Mapping::NoFile => {
            // SAFETY: restores the system's effect of the signal, which the access raises again when the handler returns.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            return;
        }
    };
    say(&[
        PROGRAM.get().copied().unwrap_or("jamba").as_bytes(),
        b": ",
        path,
        b": the file became shorter, or unreadable, while it was in use\nReplace a file in use by renaming a new one over it.\n",
    ]);
    run_before_exit();
    // SAFETY: ends the process without running any other code of it.
    unsafe { libc::_exit(FAILED) }
}

/// Writes to stderr with `write` alone.
fn say(parts: &[&[u8]]) {
    for part in parts {
        // SAFETY: the pointer and the length are those of a slice. There is nothing to do about a failure.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
}

/// What is mapped at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mapping {
    /// A file; the line has its path.
    File,
    /// Memory without a file.
    NoFile,
    /// /proc is not mounted.
    Unknown,
}

/// A line of /proc/self/maps without an allocation. Bytes beyond its capacity are dropped.
struct Line {
    bytes: [u8; 1024],
    len: usize,
}

impl Line {
    fn new() -> Line {
        Line { bytes: [0; 1024], len: 0 }
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    /// True for a line `BEGIN-END …` of hexadecimal numbers that contain the address.
    fn contains(&self, address: usize) -> bool {
        let mut bounds = [0_usize; 2];
        let mut index = 0;
        for &byte in &self.bytes[..self.len] {
            match (byte as char).to_digit(16) {
                Some(digit) => bounds[index] = (bounds[index] << 4) | digit as usize,
                None if byte == b'-' && index == 0 => index = 1,
                None => break,
            }
        }
        (bounds[0]..bounds[1]).contains(&address)
    }

    /// The path at the end of the line; empty if there is none.
    fn path(&self) -> &[u8] {
        let line = &self.bytes[..self.len];
        line.iter().position(|&byte| byte == b'/').map_or(&[], |at| &line[at..])
    }
}

/// Finds the mapping of an address in /proc/self/maps.
fn mapping_of(address: usize, line: &mut Line) -> Mapping {
    // SAFETY: the path ends in a zero byte.
    let file = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return Mapping::Unknown;
    }
    let mut chunk = [0_u8; 512];
    loop {
        // SAFETY: the pointer and the length are those of the array.
        let n = unsafe { libc::read(file, chunk.as_mut_ptr().cast(), chunk.len()) };
        let Some(bytes) = usize::try_from(n).ok().filter(|&n| n > 0).map(|n| &chunk[..n]) else {
            return Mapping::NoFile;
        };
        for &byte in bytes {
            match byte {
                b'\n' if line.contains(address) && line.path().is_empty() => return Mapping::NoFile,
                b'\n' if line.contains(address) => return Mapping::File,
                b'\n' => line.len = 0,
                _ => line.push(byte),
            }
        }
    }
}

/// The system's allocator. If it has no memory, it names the program and the size on stderr and ends the process with exit
/// code 1.
///
/// ```
/// use jamba_runtime::faults::ReportingAllocator;
///
/// #[global_allocator]
/// static ALLOCATOR: ReportingAllocator = ReportingAllocator::new("my-program");
/// ```
#[derive(Debug)]
pub struct ReportingAllocator {
    program: &'static str,
}

impl ReportingAllocator {
    /// The allocator of a program.
    pub const fn new(program: &'static str) -> ReportingAllocator {
        ReportingAllocator { program }
    }

    fn checked(&self, memory: *mut u8, bytes: usize) -> *mut u8 {
        if memory.is_null() && bytes > 0 {
            let mut digits = [0; 20];
            say(&[
                self.program.as_bytes(),
                b": out of memory: the system refuses ",
                decimal(bytes, &mut digits),
                b" bytes (ulimit -v shows the limit of a process in KiB)\n",
            ]);
            run_before_exit();
            // SAFETY: ends the process without running any other code of it.
            unsafe { libc::_exit(FAILED) }
        }
        memory
    }
}

/// Writes a number in decimal without an allocation.
fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut begin = digits.len();
    loop {
        begin -= 1;
        digits[begin] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[begin..];
        }
    }
}

// SAFETY: every call is the system allocator's, whose results are handed on unless they are null.
unsafe impl GlobalAlloc for ReportingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that the system allocator asks for.
        self.checked(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        self.checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: as in `alloc`.
        self.checked(unsafe { System.realloc(memory, layout, bytes) }, bytes)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapping_of_an_address_is_found() {
        let mut line = Line::new();
        let code = the_mapping_of_an_address_is_found as *const () as usize;
        assert_eq!(mapping_of(code, &mut line), Mapping::File);
        let own = std::env::current_exe().unwrap();
        assert_eq!(line.path(), own.to_str().unwrap().as_bytes());
        let memory = memmap2::MmapMut::map_anon(4096).unwrap();
        assert_eq!(mapping_of(memory.as_ptr().addr(), &mut Line::new()), Mapping::NoFile);
        assert_eq!(mapping_of(0, &mut Line::new()), Mapping::NoFile);
    }

    #[test]
    fn lines_have_bounds_and_a_path() {
        let mut line = Line::new();
        b"7f00-7fff r--p 0000 08:01 7   /a b/c.plan".iter().for_each(|&byte| line.push(byte));
        assert_eq!([0x7eff, 0x7f00, 0x7ffe, 0x7fff].map(|address| line.contains(address)), [false, true, true, false]);
        assert_eq!(line.path(), b"/a b/c.plan");
    }

    #[test]
    fn numbers_are_written_without_memory() {
        assert_eq!(decimal(0, &mut [0; 20]), b"0");
        assert_eq!(decimal(usize::MAX, &mut [0; 20]), usize::MAX.to_string().as_bytes());
    }
}
