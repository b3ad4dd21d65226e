//! An output while it is written: a temporary file that replaces the target at the end.

use std::fs::{self, File, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::target::{Target, check_type};
use super::{Content, Output, OutputError, Place, Refusal, unfinished};

/// Mode of new files, less the umask. Others must not change them whatever the umask is: a plan is a program.
const NEW_FILE: u32 = 0o644;

/// Mode of new files with [`Content::Private`].
const PRIVATE_FILE: u32 = 0o600;

/// An output that is being written. Dropping it before [`OutputFile::finish`] removes the temporary file.
#[derive(Debug)]
pub struct OutputFile {
    output: Output,
    file: File,
    /// The name of the temporary file, if it has one.
    staged: Option<unfinished::Entry>,
}

impl OutputFile {
    pub(super) fn create(output: Output) -> Result<OutputFile, OutputError> {
        let opened = match nameless(&output.folder()) {
            Some(file) => Ok((file, None)),
            None => named(&output.folder()).map(|(file, entry)| (file, Some(entry))),
        };
        let is_private = output.kind.content == Content::Private;
        let opened = opened.and_then(|(file, staged)| {
            if is_private {
                file.set_permissions(Permissions::from_mode(PRIVATE_FILE))?;
            }
            Ok((file, staged))
        });
        match opened {
            Ok((file, staged)) => Ok(OutputFile { output, file, staged }),
            Err(source) => {
                Err(OutputError::new(output.path(), Refusal::Io { action: "create a file beside it", source }))
            }
        }
    }

    /// The temporary file, for seeking and writing.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The bytes cannot be written.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        let written = self.file.write_all(bytes);
        written.map_err(|source| self.failed("write it", source))
    }

    /// Replaces the target by the bytes written so far. For stdout, prints them; a reader that closed the pipe is no error.
    ///
    /// # Errors
    /// The target is unchanged, unless it is a mount point and the copy into it failed.
    pub fn finish(mut self) -> Result<(), OutputError> {
        let done = match &self.output.place {
            Place::Stdout => match self.copy_to_stdout() {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                done => done.map_err(|source| Refusal::Io { action: "write it", source }),
            },
            Place::File(_) => self.replace_target(),
        };
        done.map_err(|refusal| OutputError::new(self.output.path(), refusal))
    }

    fn copy_to_stdout(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut out = io::stdout().lock();
        io::copy(&mut self.file, &mut out)?;
        out.flush()
    }

    fn replace_target(&mut self) -> Result<(), Refusal> {
        let Place::File(target) = &self.output.place else { return Ok(()) };
        let io = |action| move |source: io::Error| Refusal::Io { action, source };
        // The target may have changed while the output was written.
        let existing = fs::symlink_metadata(target.path()).ok();
        if let Some(metadata) = &existing {
            check_type(metadata)?;
        }
        if let Some(old) = target.existing() {
            // Keeps mode and owner where this user may set them.
            let _ = std::os::unix::fs::fchown(&self.file, Some(old.uid()), Some(old.gid()));
            self.file.set_permissions(Permissions::from_mode(old.mode() & 0o7777)).map_err(io("set its mode"))?;
        }
        self.file.sync_all().map_err(io("write it"))?;
        if !target.folder_is_writable() {
            return copy_into(&mut self.file, target.path()).map_err(io("write it"));
        }
        let placed = place(&self.file, &mut self.staged, target, existing.is_some());
        match placed {
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                copy_into(&mut self.file, target.path()).map_err(io("write it"))
            }
            placed => placed.map_err(io("rename a file to it")),
        }
    }

    fn failed(&self, action: &'static str, source: io::Error) -> OutputError {
        OutputError::new(self.output.path(), Refusal::Io { action, source })
    }
}

/// Gives the temporary file the name of the target.
fn place(file: &File, staged: &mut Option<unfinished::Entry>, target: &Target, target_exists: bool) -> io::Result<()> {
    if staged.is_none() && !target_exists {
        match link(file, target.path()) {
            Err(Errno::EXIST) => {} // it has come into being
            linked => return linked.map_err(io::Error::from),
        }
    }
    if staged.is_none() {
        // No call of Linux links a nameless file over an existing one.
        let entry = unfinished::Entry::file(fresh_name(target.folder()));
        link(file, entry.path())?;
        *staged = Some(entry);
    }
    if let Some(entry) = staged {
        fs::rename(entry.path(), target.path())?;
        entry.keep();
    }
    Ok(())
}

/// Overwrites an existing file in place.
pub(super) fn copy_into(from: &mut File, path: &Path) -> io::Result<()> {
    let mut to = fs::OpenOptions::new().write(true).open(path)?;
    from.seek(SeekFrom::Start(0))?;
    let bytes = io::copy(from, &mut to)?;
    to.set_len(bytes)?;
    to.sync_all()
}

/// A file without a name; `None` if the file system has none, or without /proc, which gives it a name later.
fn nameless(folder: &Path) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(folder, flags, Mode::from_raw_mode(NEW_FILE)).ok().map(File::from)?;
    let path = descriptor_path(&file);
    fs::metadata(&path).is_ok_and(|found| file.metadata().is_ok_and(|own| own.ino() == found.ino())).then_some(file)
}

/// A file with a hidden name.
pub(super) fn named(folder: &Path) -> io::Result<(File, unfinished::Entry)> {
    loop {
        let entry = unfinished::Entry::file(fresh_name(folder));
        let opened = fs::OpenOptions::new().read(true).write(true).create_new(true).mode(NEW_FILE).open(entry.path());
        match opened {
            Ok(file) => return Ok((file, entry)),
            Err(error) => {
                entry.keep(); // another process owns the name
                if error.kind() != io::ErrorKind::AlreadyExists {
                    return Err(error);
                }
            }
        }
    }
}

fn link(file: &File, path: &Path) -> Result<(), Errno> {
    rustix::fs::linkat(CWD, descriptor_path(file), CWD, path, AtFlags::SYMLINK_FOLLOW)
}

fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A hidden name that this process has not used before.
fn fresh_name(folder: &Path) -> PathBuf {
    static N_NAMES: AtomicU64 = AtomicU64::new(0);
    let number = N_NAMES.fetch_add(1, Ordering::Relaxed);
    folder.join(format!(".jamba-{}-{number}.tmp", std::process::id()))
}
