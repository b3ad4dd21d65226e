//! Temporary files and folders with names, so that a program that receives a signal can remove them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Paths that exist or are about to.
static PATHS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes all temporary files and folders of this process. For programs that are about to exit because of a signal; not
/// for signal handlers.
pub fn remove() {
    for path in PATHS.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        delete(&path);
    }
}

/// True if this process was started with a signal ignored, as `nohup` does with SIGHUP and a shell's `&` with SIGINT. A program must
/// not handle such a signal. False without /proc.
pub fn is_ignored(signal: i32) -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| is_in_mask(&status, signal))
}

/// Reads `SigIgn:`, a hexadecimal mask whose lowest bit is signal 1.
fn is_in_mask(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 1)
}

fn delete(path: &Path) {
    // There is nothing to do about a failure: the path may not exist yet, or any more.
    let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
}

/// A temporary file or folder. Dropping the entry removes it.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
}

impl Entry {
    /// Registers the path of a file that is about to be created.
    pub(super) fn file(path: PathBuf) -> Entry {
        PATHS.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        Entry { path }
    }

    /// Creates a folder in the system's folder for temporary files. Only this user can read it.
    ///
    /// # Errors
    /// It cannot be created; the error names the path.
    pub fn folder() -> io::Result<Entry> {
        static N_FOLDERS: AtomicU64 = AtomicU64::new(0);
        use std::os::unix::fs::DirBuilderExt;
        loop {
            let number = N_FOLDERS.fetch_add(1, Ordering::Relaxed);
            let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let name = format!("jamba-{}-{number}-{:x}", std::process::id(), clock.subsec_nanos());
            let entry = Entry::file(std::env::temp_dir().join(name));
            match std::fs::DirBuilder::new().mode(0o700).create(entry.path()) {
                Ok(()) => return Ok(entry),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => entry.keep(),
                Err(error) => {
                    entry.keep();
                    return Err(io::Error::new(error.kind(), format!("{}: {error}", entry.path().display())));
                }
            }
        }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes dropping the entry, and [`remove`], leave the path alone.
    pub(super) fn keep(&self) {
        PATHS.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| *path != self.path);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = paths.iter().position(|path| *path == self.path) {
            paths.swap_remove(index);
            delete(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_in_the_mask() {
        let status = "Name:\tjamba\nSigIgn:\t0000000000001001\nSigCgt:\tffffffffffffffff\n";
        assert_eq!([1, 2, 13, 15].map(|signal| is_in_mask(status, signal)), [true, false, true, false]);
        assert!(!is_in_mask("", 1) && !is_in_mask(status, 0) && !is_in_mask(status, 65));
    }
}
