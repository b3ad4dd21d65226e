//! Opens the files of a checkpoint's folder, which may come from a stranger.
//!
//! A published folder may have symbolic links, which archives keep. A link to a private key would put the key into the plan. So the
//! kernel resolves each name beneath the folder (openat2), or beneath the model's folder of the Hugging Face cache, whose snapshots
//! are links to `../../blobs`. Only regular files are opened: a FIFO or a device is refused at once.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::small_file;

/// Most bytes of a small file: config.json, tokenizer.json, the index of the shards. Parsed JSON takes up to 40 times as many.
const MOST_BYTES: u64 = 64 << 20;

/// Most bytes of config.json, which has a few thousand.
pub(crate) const MOST_CONFIG_BYTES: u64 = 4 << 20;

/// Beginning of the name of a model's folder in the Hugging Face cache: `models--ORG--NAME`.
const HUB_MODEL: &str = "models--";

/// Where symbolic links of a checkpoint may lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Links {
    /// To files of the folder, or of the model's folder in the Hugging Face cache that the folder is in.
    #[default]
    Inside,
    /// Anywhere.
    Anywhere,
}

/// An open folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// `None` where links may lead anywhere.
    root: Option<Root>,
}

/// The folder that no link leads out of.
#[derive(Debug)]
struct Root {
    file: OwnedFd,
    path: PathBuf,
    /// From the root to the folder.
    below: PathBuf,
}

impl Folder {
    /// Opens the folder `path`. Links in `path` itself are followed: whoever names it chose them.
    ///
    /// # Errors
    /// The path leads to no folder.
    pub fn open(path: &Path, links: Links) -> Result<Folder> {
        let root = match links {
            Links::Inside => Some(Root::of(path).map_err(|cause| Error::io(path, cause))?),
            Links::Anywhere => None,
        };
        Ok(Folder { path: path.into(), root })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file by its path in the folder.
    ///
    /// # Errors
    /// There is no such file, a link leads out of the folder, or the file is a folder, a FIFO or a device.
    pub fn file(&self, name: impl AsRef<Path>) -> Result<File> {
        let name = name.as_ref();
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = match &self.root {
            None => openat(CWD, &path, flags, Mode::empty()),
            Some(root) => root.resolve(name, flags),
        };
        let file = File::from(opened.map_err(|error| self.refused(error, &path))?);
        let metadata = file.metadata().map_err(|cause| Error::io(&path, cause))?;
        match metadata.file_type() {
            kind if kind.is_file() => Ok(file),
            kind if kind.is_dir() => Err(Error::file(&path, "a folder", "a file")),
            _ => Err(Error::file(&path, "a device, FIFO or socket", "a file")),
        }
    }

    /// Whether `name` leads to something in the folder, or is a link that leads out of it. Opening it tells which.
    pub fn has(&self, name: impl AsRef<Path>) -> bool {
        self.reach(name.as_ref()).is_ok() || self.path.join(name).is_symlink()
    }

    /// Checks that a path in the folder, whatever it leads to, stays in it.
    ///
    /// # Errors
    /// As [`Folder::file`], but for the kind of file.
    pub fn reach(&self, name: &Path) -> Result<()> {
        let path = self.path.join(name);
        let found = match &self.root {
            None => openat(CWD, &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()),
            Some(root) => root.resolve(name, OFlags::PATH | OFlags::CLOEXEC),
        };
        found.map(|_| ()).map_err(|error| self.refused(error, &path))
    }

    /// Reads a small text file: [`small_file::read`], of a file in the folder of at most 64 MiB.
    ///
    /// # Errors
    /// As [`Folder::file`] and [`small_file::read`]; the file is longer.
    pub fn read(&self, name: impl AsRef<Path>) -> Result<Vec<u8>> {
        self.read_within(name.as_ref(), MOST_BYTES)
    }

    /// [`Folder::read`] of at most `most` bytes.
    pub(crate) fn read_within(&self, name: &Path, most: u64) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        let mut bytes = Vec::new();
        // One byte more tells a longer file.
        self.file(name)?.take(most + 1).read_to_end(&mut bytes).map_err(|cause| Error::io(&path, cause))?;
        if bytes.len() as u64 > most {
            return Err(Error::file(&path, format!("more than {most} bytes"), format!("at most {most}")));
        }
        small_file::text(bytes, &path)
    }

    /// [`Folder::read`], or `None` if there is no such file.
    pub(crate) fn read_if_there(&self, name: impl AsRef<Path>) -> Result<Option<Vec<u8>>> {
        match self.read(name) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::Io { cause, .. }) if cause.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn refused(&self, error: Errno, path: &Path) -> Error {
        match (error, &self.root) {
            (Errno::XDEV | Errno::LOOP, Some(root)) => {
                let expected =
                    format!("only files in {} (--allow-links reads what links lead to)", root.path.display());
                Error::file(path, "a symbolic link that leads out of the folder", expected)
            }
            (Errno::NOSYS, Some(_)) => {
                let expected = "openat2, of Linux 5.6 (--allow-links opens files without it)";
                Error::file(path, "a system that does not confine links", expected)
            }
            // What open(2) says about a socket.
            (Errno::NXIO, _) => Error::file(path, "a device, FIFO or socket", "a file"),
            (error, _) => Error::io(path, error.into()),
        }
    }
}

impl Root {
    /// The folder, or the model's folder that the snapshot at `path` is in.
    fn of(path: &Path) -> std::io::Result<Root> {
        let real = std::fs::canonicalize(path)?;
        let root = hub_model(&real).unwrap_or(&real);
        let below = real.strip_prefix(root).unwrap_or(Path::new("")).to_owned();
        let file = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Root { file, path: root.to_owned(), below })
    }

    fn resolve(&self, name: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        // `Path::join` would take an absolute name in place of the folder.
        let path = match self.below.join(name) {
            _ if name.is_absolute() => return Err(Errno::XDEV),
            path if path == Path::new("") => PathBuf::from("."),
            path => path,
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        loop {
            // AGAIN: a rename elsewhere kept the kernel from telling where `..` leads.
            match openat2(&self.file, &path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }
}

/// `models--ORG--NAME` for `models--ORG--NAME/snapshots/COMMIT`.
fn hub_model(snapshot: &Path) -> Option<&Path> {
    let snapshots = snapshot.parent()?;
    let model = snapshots.parent()?;
    let is_model = model.file_name()?.to_str()?.starts_with(HUB_MODEL) && snapshots.file_name()? == "snapshots";
    is_model.then_some(model)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    /// A folder `model` beside a file `secret`.
    fn beside_a_secret() -> (tempfile::TempDir, PathBuf) {
        let outside = tempfile::tempdir().unwrap();
        let model = outside.path().join("model");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(outside.path().join("secret"), "a private key").unwrap();
        (outside, model)
    }

    fn refusal(path: &Path, name: &str) -> String {
        Folder::open(path, Links::Inside).unwrap().read(name).unwrap_err().to_string()
    }

    #[test]
    fn links_reach_nothing_outside() {
        let (outside, model) = beside_a_secret();
        std::fs::write(model.join("template"), "{{ x }}").unwrap();
        std::fs::create_dir(model.join("sub")).unwrap();
        symlink(outside.path().join("secret"), model.join("absolute")).unwrap();
        symlink("../secret", model.join("climbing")).unwrap();
        symlink("../../secret", model.join("sub/climbing")).unwrap();
        symlink("..", model.join("folder")).unwrap();
        symlink("/proc/self/fd/0", model.join("magic")).unwrap();
        symlink("../template", model.join("sub/inside")).unwrap();
        for name in ["absolute", "climbing", "sub/climbing", "folder/secret", "magic", "../secret", "/etc/passwd"] {
            let error = refusal(&model, name);
            assert!(error.contains("a symbolic link that leads out of the folder"), "{name}: {error}");
            assert!(error.contains("--allow-links"), "{name}: {error}");
        }
        let inside = Folder::open(&model, Links::Inside).unwrap();
        assert_eq!(inside.read("sub/inside").unwrap(), b"{{ x }}");
        assert_eq!(inside.read_if_there("nothing").unwrap(), None);
        assert_eq!([inside.has("absolute"), inside.has("sub/inside"), inside.has("nothing")], [true, true, false]);
        let anywhere = Folder::open(&model, Links::Anywhere).unwrap();
        assert_eq!(anywhere.read("absolute").unwrap(), b"a private key");
        assert_eq!(anywhere.read("climbing").unwrap(), b"a private key");
    }

    #[test]
    fn a_snapshot_of_the_cache_reads_its_blobs_and_no_other_models() {
        let hub = tempfile::tempdir().unwrap();
        let model = hub.path().join("models--org--name");
        let snapshot = model.join("snapshots/0a1b");
        std::fs::create_dir_all(&snapshot).unwrap();
        for folder in ["models--org--name/blobs", "models--org--other"] {
            std::fs::create_dir(hub.path().join(folder)).unwrap();
            std::fs::write(hub.path().join(folder).join("f00d"), folder).unwrap();
        }
        symlink("../../blobs/f00d", snapshot.join("config.json")).unwrap();
        symlink("../../../models--org--other/f00d", snapshot.join("other")).unwrap();
        let folder = Folder::open(&snapshot, Links::Inside).unwrap();
        assert_eq!(folder.read("config.json").unwrap(), b"models--org--name/blobs");
        assert!(refusal(&snapshot, "other").contains("leads out of the folder"));
        // Under another name, the same links lead out.
        std::fs::rename(&model, hub.path().join("name")).unwrap();
        assert!(refusal(&hub.path().join("name/snapshots/0a1b"), "config.json").contains("leads out of the folder"));
    }

    #[test]
    fn fifos_devices_and_long_files_are_refused_at_once() {
        let (_outside, model) = beside_a_secret();
        assert!(Command::new("mkfifo").arg(model.join("fifo")).status().unwrap().success());
        std::os::unix::net::UnixListener::bind(model.join("socket")).unwrap();
        for name in ["fifo", "socket"] {
            assert!(refusal(&model, name).contains("found a device, FIFO or socket, expected a file"), "{name}");
        }
        assert!(refusal(&model, ".").contains("found a folder, expected a file"));
        symlink("/dev/zero", model.join("zero")).unwrap();
        let anywhere = Folder::open(&model, Links::Anywhere).unwrap();
        assert!(anywhere.read("zero").unwrap_err().to_string().contains("a device, FIFO or socket"));
        // The file has no blocks.
        File::create(model.join("long")).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert!(refusal(&model, "long").contains("found more than 67108864 bytes, expected at most 67108864"));
    }
}
