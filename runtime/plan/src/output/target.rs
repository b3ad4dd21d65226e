//! The path of an output, resolved to the file that it would replace.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::{HEAD_BYTES, Kind, Refusal};

/// Symbolic links that are followed before a path counts as a loop, as in Linux.
const MAX_LINKS: usize = 40;

/// Folders below an input folder whose files count as inputs, and files looked at.
const MAX_DEPTH: usize = 4;
const MAX_FILES: usize = 100_000;

/// A file, whatever its name: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl Identity {
    /// Of the file that a path leads to; `None` if there is none.
    pub(super) fn of(path: &Path) -> Option<Identity> {
        fs::metadata(path).ok().map(|metadata| Identity::from(&metadata))
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Identity {
        Identity(metadata.dev(), metadata.ino())
    }
}

/// The file behind stdout and its length; `None` if it is no regular file.
pub(super) fn stdout() -> Option<(Identity, u64)> {
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().ok()?;
    let metadata = File::from(stdout).metadata().ok()?;
    metadata.is_file().then(|| (Identity::from(&metadata), metadata.len()))
}

/// The path after all links of the part that exists.
pub(super) fn resolve_existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let resolved = absolute.ancestors().find_map(|part| Some((fs::canonicalize(part).ok()?, part)));
    match resolved {
        Some((resolved, part)) => resolved.join(absolute.strip_prefix(part).unwrap_or(Path::new(""))),
        None => absolute,
    }
}

/// The regular files in a folder and its folders. Links to files are followed, links to folders are not.
pub(super) fn identities_in(folder: &Path) -> Vec<Identity> {
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => folders.push((path, depth + 1)),
                Ok(kind) if kind.is_dir() => {}
                _ => found.extend(Identity::of(&path)),
            }
            if found.len() == MAX_FILES {
                return found;
            }
        }
    }
    found
}

/// A path that can be written.
#[derive(Debug)]
pub(super) struct Target {
    /// Without links.
    path: PathBuf,
    /// The folder of `path`.
    folder: PathBuf,
    /// The regular file at `path`.
    existing: Option<Metadata>,
    /// False if the folder takes no new files. The existing file is written in place then.
    folder_is_writable: bool,
}

impl Target {
    /// Follows links and checks that a file can be written there.
    pub(super) fn resolve(path: &Path) -> Result<Target, Refusal> {
        let path = follow(path)?;
        let existing = match fs::symlink_metadata(&path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(Refusal::Io { action: "write it", source }),
        };
        if let Some(metadata) = &existing {
            check_type(metadata)?;
        }
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let access = rustix::fs::access(&folder, Access::WRITE_OK | Access::EXEC_OK);
        let in_place = || existing.is_some() && rustix::fs::access(&path, Access::WRITE_OK).is_ok();
        match access {
            Err(error) if !in_place() => Err(Refusal::Io { action: "write to its folder", source: error.into() }),
            _ => Ok(Target { folder, existing, folder_is_writable: access.is_ok(), path }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of the temporary file.
    pub(super) fn staging_folder(&self) -> PathBuf {
        if self.folder_is_writable { self.folder.clone() } else { std::env::temp_dir() }
    }

    pub(super) fn folder_is_writable(&self) -> bool {
        self.folder_is_writable
    }

    pub(super) fn existing(&self) -> Option<&Metadata> {
        self.existing.as_ref()
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        self.existing.as_ref().map(Identity::from)
    }

    /// Refuses an existing file without write permission for owner, group and others. Root could write it.
    pub(super) fn check_permission(&self) -> Result<(), Refusal> {
        match &self.existing {
            Some(metadata) if metadata.mode() & 0o222 == 0 => Err(Refusal::ReadOnly(metadata.mode() & 0o777)),
            _ => Ok(()),
        }
    }

    /// True if there is no file, an empty one, or one of this kind.
    pub(super) fn has_kind(&self, kind: Kind) -> Result<bool, Refusal> {
        if self.existing.as_ref().is_none_or(|metadata| metadata.len() == 0) {
            return Ok(true);
        }
        let mut head = Vec::new();
        let read = File::open(&self.path).and_then(|file| file.take(HEAD_BYTES as u64).read_to_end(&mut head));
        read.map_err(|source| Refusal::Io { action: "tell what it is", source })?;
        Ok((kind.recognizes)(&head))
    }
}

/// Refuses everything but regular files.
pub(super) fn check_type(metadata: &Metadata) -> Result<(), Refusal> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(Refusal::Folder);
    }
    let special = [
        (kind.is_char_device() || kind.is_block_device(), "device"),
        (kind.is_fifo(), "FIFO"),
        (kind.is_socket(), "socket"),
        (!kind.is_file(), "special file"),
    ];
    match special.into_iter().find(|(is, _)| *is) {
        Some((_, name)) => Err(Refusal::Special(name)),
        None => Ok(()),
    }
}

/// The path after all links. The last part may be missing, the folder may not.
fn follow(path: &Path) -> Result<PathBuf, Refusal> {
    if path.as_os_str().is_empty() {
        return Err(Refusal::Path("the path is empty, expected a file"));
    }
    let mut path = path.to_owned();
    for _ in 0..=MAX_LINKS {
        let ends_in_slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let Some(name) = path.file_name().filter(|_| !ends_in_slash) else {
            // `..`, `/`, `folder/`
            return Err(if path.is_dir() || !ends_in_slash { Refusal::Folder } else { missing(&path) });
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = match fs::canonicalize(folder) {
            Ok(resolved) if resolved.is_dir() => resolved,
            Ok(_) => return Err(Refusal::NotAFolder(folder.to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Refusal::NoFolder(folder.to_owned()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                return Err(Refusal::NotAFolder(folder.to_owned()));
            }
            Err(source) => return Err(Refusal::Io { action: "find its folder", source }),
        };
        let whole = folder.join(name);
        match fs::read_link(&whole) {
            Ok(link) => path = folder.join(link),
            Err(_) => return Ok(whole), // not a link
        }
    }
    Err(Refusal::Path("its symbolic links form a loop"))
}

/// The refusal of `folder/`, which does not exist or is a file.
fn missing(path: &Path) -> Refusal {
    if path.exists() { Refusal::NotAFolder(path.to_owned()) } else { Refusal::NoFolder(path.to_owned()) }
}
