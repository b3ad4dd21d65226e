//! Temporary files and folders with names, so that a program that receives a signal can remove them. A program that is killed
//! cannot: the next one that makes a temporary folder removes its folders. It knows them by their lock, which ends with the process.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
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
    /// Of a folder: says that its owner lives.
    lock: Option<File>,
}

impl Entry {
    /// Registers the path of a file that is about to be created.
    pub(super) fn file(path: PathBuf) -> Entry {
        PATHS.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        Entry { path, lock: None }
    }

    /// Creates a folder in the system's folder for temporary files. Only this user can read it.
    ///
    /// # Errors
    /// It cannot be created; the error names the path.
    pub fn folder() -> io::Result<Entry> {
        Entry::folder_in(&std::env::temp_dir())
    }

    /// Like [`Entry::folder`], in another folder.
    ///
    /// # Errors
    /// As [`Entry::folder`].
    pub fn folder_in(parent: &Path) -> io::Result<Entry> {
        static N_FOLDERS: AtomicU64 = AtomicU64::new(0);
        use std::os::unix::fs::DirBuilderExt;
        loop {
            let number = N_FOLDERS.fetch_add(1, Ordering::Relaxed);
            let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let name = format!("{FOLDER}{}-{number}-{:x}", std::process::id(), clock.subsec_nanos());
            let mut entry = Entry::file(parent.join(name));
            match std::fs::DirBuilder::new().mode(0o700).create(entry.path()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    entry.keep();
                    continue;
                }
                Err(error) => {
                    entry.keep();
                    return Err(io::Error::new(error.kind(), format!("{}: {error}", entry.path().display())));
                }
            }
            // Before the lock, another process may take the folder for an abandoned one.
            let Some(lock) = lock(entry.path()) else { continue };
            remove_abandoned(parent, lock.owner);
            entry.lock = lock.file;
            return Ok(entry);
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

/// How the names of temporary folders begin.
const FOLDER: &str = "jamba-";

/// A folder that this process has locked.
struct Locked {
    /// `None` where the file system has no locks.
    file: Option<File>,
    /// The folder's user.
    owner: u32,
}

/// Locks a folder. `None` if another process has it locked, or has removed it.
fn lock(folder: &Path) -> Option<Locked> {
    let file = File::open(folder).ok()?;
    let metadata = file.metadata().ok()?;
    let file = match file.try_lock() {
        Ok(()) => Some(file),
        Err(TryLockError::WouldBlock) => return None,
        Err(TryLockError::Error(_)) => None,
    };
    let is_there = std::fs::symlink_metadata(folder).is_ok_and(|found| found.ino() == metadata.ino());
    is_there.then(|| Locked { file, owner: metadata.uid() })
}

/// Removes the temporary folders of this user's processes that were killed.
fn remove_abandoned(parent: &Path, owner: u32) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_ours = name.to_str().and_then(|name| name.strip_prefix(FOLDER)).is_some_and(is_number);
        // No link: the type is that of the entry itself.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_ours && is_folder && entry.metadata().is_ok_and(|metadata| metadata.uid() == owner) {
            let abandoned = lock(&entry.path()).filter(|lock| lock.file.is_some());
            if abandoned.is_some() {
                delete(&entry.path());
            }
        }
    }
}

/// True for `PROCESS-NUMBER-TIME`.
fn is_number(rest: &str) -> bool {
    let parts: Vec<&str> = rest.split('-').collect();
    parts.len() == 3 && parts.iter().all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_hexdigit()))
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
    fn folders_of_killed_processes_are_removed_and_those_in_use_are_kept() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        let used = Entry::folder_in(parent.path()).unwrap();
        for name in ["jamba-4000000-0-1f", "jamba-4000000-0", "jamba-notes", "other-1-2-3"] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("kernels.ptx"), "x").unwrap();
        }
        std::os::unix::fs::symlink(at("other-1-2-3"), at("jamba-4000000-1-1f")).unwrap();
        // As another process sees it: the lock of `used` belongs to another open file.
        let next = Entry::folder_in(parent.path()).unwrap();
        assert!(used.path().is_dir() && next.path().is_dir() && used.path() != next.path());
        assert!(!at("jamba-4000000-0-1f").exists());
        for name in ["jamba-4000000-0", "jamba-notes", "other-1-2-3", "jamba-4000000-1-1f"] {
            assert!(at(name).join("kernels.ptx").exists(), "{name}");
        }
        let path = used.path().to_owned();
        drop(used);
        assert!(!path.exists());
    }

    #[test]
    fn ignored_signals_are_in_the_mask() {
        let status = "Name:\tjamba\nSigIgn:\t0000000000001001\nSigCgt:\tffffffffffffffff\n";
        assert_eq!([1, 2, 13, 15].map(|signal| is_in_mask(status, signal)), [true, false, true, false]);
        assert!(!is_in_mask("", 1) && !is_in_mask(status, 0) && !is_in_mask(status, 65));
    }
}
