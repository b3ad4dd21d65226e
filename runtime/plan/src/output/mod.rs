//! Output files of the programs: everything that a command writes because an option names it.
//!
//! A command lists its inputs and claims its outputs before it starts to work ([`Outputs`]). A claim refuses paths that cannot be
//! written and files that must not be replaced:
//!
//! | refused | overridden by [`Replace::AnyFile`] (`--force`) |
//! |---|---|
//! | a folder, device, FIFO or socket | no |
//! | an input of the command, or a file of an input folder, also through links and as stdout | no |
//! | the output of another option of the command, also in a folder that an option fills ([`Outputs::fills`]) | no |
//! | a folder that is missing or not writable | no |
//! | a file of another [`Kind`] than the one to be written | yes |
//! | a file without write permission | yes |
//!
//! Symbolic links are followed. `-` is stdout.
//!
//! [`Output::create`] then opens a temporary file in the folder of the target. [`OutputFile::finish`] renames it over the target,
//! which keeps its mode and owner. Until then the target is unchanged. The temporary file has no name (`O_TMPFILE`), so that a
//! killed process leaves nothing behind. Where the file system cannot do that, it has a hidden name, and
//! [`unfinished::remove`] deletes it when the program receives a signal. If the target cannot be renamed over because it
//! is a mount point, as a single file in a container can be, the finished bytes are copied into it.

mod file;
mod target;
pub mod unfinished;

use std::io;
use std::path::{Path, PathBuf};

pub use file::OutputFile;
use target::{Identity, Target};

/// The content of an output: how to recognize it in an existing file.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The name in messages, with its article: `a plan`.
    pub name: &'static str,
    /// Whether a terminal can show it.
    pub content: Content,
    /// Tells from the first [`HEAD_BYTES`] bytes of a file whether it has this content.
    pub recognizes: fn(&[u8]) -> bool,
}

/// Whether a terminal can show an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// UTF-8.
    Text,
    /// Anything else. It is not written to a terminal.
    Binary,
    /// As [`Content::Binary`], with what somebody wrote, such as a prompt: a new file can be read by its owner only.
    Private,
}

/// Number of bytes at the start of a file that [`Kind::recognizes`] gets; fewer if the file is shorter.
pub const HEAD_BYTES: usize = 1024;

impl Kind {
    /// A plan.
    pub const PLAN: Kind =
        Kind { name: "a plan", content: Content::Binary, recognizes: |head| head.starts_with(&crate::header::MAGIC) };

    /// Any content: every regular file may be replaced.
    pub const ANY: Kind = Kind { name: "a file", content: Content::Binary, recognizes: |_| true };
}

/// Which existing files an output may replace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replace {
    /// Files of the same kind, and empty files.
    #[default]
    SameKind,
    /// Any regular file that is not an input.
    AnyFile,
}

/// The reason why a path cannot be an output.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is an input of the same command.
    #[error("is an input of this command: write to another file")]
    Input,
    /// It is the output of another option.
    #[error("is the file of {0} too: give each output its own file")]
    Claimed(String),
    /// It is a folder of outputs, and one of them cannot be written.
    #[error("gets a file {file}, which {refusal}")]
    Within {
        /// The name in the folder.
        file: Box<str>,
        /// The reason.
        refusal: Box<Refusal>,
    },
    /// It is a folder.
    #[error("is a folder: name a file in it")]
    Folder,
    /// It is a device, a FIFO or a socket.
    #[error("is a {0}, expected a regular file")]
    Special(&'static str),
    /// It has other content.
    #[error("exists and is not {expected}: write to another file, or replace it with --force")]
    OtherKind {
        /// The kind to be written.
        expected: &'static str,
    },
    /// It has no write permission.
    #[error("exists and is read-only (mode {0:03o}): write to another file, or replace it with --force")]
    ReadOnly(u32),
    /// Its folder does not exist.
    #[error("its folder does not exist: mkdir -p {}", .0.display())]
    NoFolder(PathBuf),
    /// Its folder is a file.
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// The path is empty, or its links form a loop.
    #[error("{0}")]
    Path(&'static str),
    /// Stdout is a terminal and the output is binary.
    #[error("stdout is a terminal, and {0} is binary: write to a file, or pipe it")]
    Terminal(&'static str),
    /// A file operation failed.
    #[error("cannot {action}: {source}")]
    Io {
        /// The operation, as an infinitive for the message.
        action: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// A path that cannot be written, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {refusal}", option.as_ref().map(|option| format!("{option} ")).unwrap_or_default(), path.display())]
pub struct OutputError {
    /// The option that names the path, if a command line did.
    pub option: Option<String>,
    /// The path.
    pub path: PathBuf,
    /// The reason.
    pub refusal: Refusal,
}

impl OutputError {
    fn new(path: &Path, refusal: Refusal) -> OutputError {
        OutputError { option: None, path: path.to_owned(), refusal }
    }
}

/// Path of an output that goes to stdout.
const STDOUT: &str = "-";

/// The inputs and outputs of one command.
#[derive(Debug, Default)]
pub struct Outputs {
    replace: Replace,
    inputs: Vec<Identity>,
    /// Files of input folders. One of them that has the content of an output is not read, so it may be replaced: a plan in the
    /// folder of its checkpoint.
    in_folders: Vec<Identity>,
    claimed: Vec<Claimed>,
    filled: Vec<Filled>,
}

/// A claimed output.
#[derive(Debug)]
struct Claimed {
    option: String,
    /// After all links; `-` for stdout.
    path: PathBuf,
    /// The file behind stdout, if it is a regular one.
    stdout: Option<Identity>,
}

/// A folder that an option fills with files.
#[derive(Debug)]
struct Filled {
    option: String,
    /// After all links.
    path: PathBuf,
    holds: fn(&str) -> bool,
}

impl Filled {
    /// True for the path of a file that the option writes.
    fn writes(&self, path: &Path) -> bool {
        path.parent() == Some(&self.path) && name_of(path).is_some_and(self.holds)
    }
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name().and_then(|name| name.to_str())
}

impl Outputs {
    /// No inputs and outputs so far.
    pub fn new(replace: Replace) -> Outputs {
        Outputs { replace, ..Outputs::default() }
    }

    /// Adds a file, or a folder with its files, that the command reads. A path that does not exist is ignored.
    pub fn reads(&mut self, path: &Path) {
        match path.is_dir() {
            true => self.in_folders.extend(target::identities_in(path)),
            false => self.inputs.extend(Identity::of(path)),
        }
    }

    /// Claims the output `path` for an option. `-` is stdout.
    ///
    /// # Errors
    /// The path cannot be written, or the file must not be replaced; see the table at the top of this module.
    pub fn claim(&mut self, option: &str, path: &Path, kind: Kind) -> Result<Output, OutputError> {
        let claimed = self.try_to_claim(option, path, kind);
        claimed.map_err(|refusal| refused(option, path, refusal))
    }

    fn try_to_claim(&mut self, option: &str, path: &Path, kind: Kind) -> Result<Output, Refusal> {
        let output = Output::check(path, kind, self.replace)?;
        let (key, stdout) = match &output.place {
            Place::Stdout => (PathBuf::from(STDOUT), target::stdout()),
            Place::File(target) => (target.path().to_owned(), None),
        };
        if let Some(other) = self.claimed.iter().find(|other| other.path == key) {
            return Err(Refusal::Claimed(other.option.clone()));
        }
        if let Some(other) = self.filled.iter().find(|folder| folder.writes(&key)) {
            return Err(Refusal::Claimed(other.option.clone()));
        }
        match &output.place {
            // A shell's `>` has emptied the file, or made it: only `>>` keeps what a folder's file held.
            Place::Stdout => {
                let is_read = |(identity, bytes): &(Identity, u64)| {
                    self.inputs.contains(identity) || (*bytes > 0 && self.in_folders.contains(identity))
                };
                if stdout.as_ref().is_some_and(is_read) {
                    return Err(Refusal::Input);
                }
                let is_stdout = |path: &Path| stdout.is_some_and(|(found, _)| Identity::of(path) == Some(found));
                if let Some(other) = self.claimed.iter().find(|other| is_stdout(&other.path)) {
                    return Err(Refusal::Claimed(other.option.clone()));
                }
            }
            Place::File(target) => self.check_identity(target, kind)?,
        }
        output.check_kind()?;
        self.claimed.push(Claimed {
            option: option.to_owned(),
            path: key,
            stdout: stdout.map(|(identity, _)| identity),
        });
        Ok(output)
    }

    /// Creates the folder of an option that writes several files, with its parents.
    ///
    /// # Errors
    /// The path, or one of its parents, is a file or the output of another option; or the folder cannot be created.
    pub fn folder(&self, option: &str, path: &Path) -> Result<(), OutputError> {
        self.create_folder(path).map_err(|refusal| refused(option, path, refusal))
    }

    fn create_folder(&self, path: &Path) -> Result<(), Refusal> {
        if path.exists() && !path.is_dir() {
            return Err(Refusal::NotAFolder(path.to_owned()));
        }
        let resolved = target::resolve_existing(path);
        if let Some(other) = self.claimed.iter().find(|other| resolved.ancestors().any(|part| part == other.path)) {
            return Err(Refusal::Claimed(other.option.clone()));
        }
        std::fs::create_dir_all(path).map_err(|source| Refusal::Io { action: "create it", source })
    }

    /// As [`Outputs::folder`], for an option that fills the folder with files of this kind, whose names `holds` knows. They are
    /// written with [`Output::at`].
    ///
    /// # Errors
    /// Also if one of these files is there and is an input, the output of another option, or must not be replaced.
    pub fn fills(&mut self, option: &str, path: &Path, kind: Kind, holds: fn(&str) -> bool) -> Result<(), OutputError> {
        self.folder(option, path)?;
        self.check_filled(path, kind, holds).map_err(|refusal| refused(option, path, refusal))?;
        self.filled.push(Filled { option: option.to_owned(), path: target::resolve_existing(path), holds });
        Ok(())
    }

    fn check_filled(&self, path: &Path, kind: Kind, holds: fn(&str) -> bool) -> Result<(), Refusal> {
        let folder = Filled { option: String::new(), path: target::resolve_existing(path), holds };
        let within = |path: &Path, refusal: Refusal| {
            let file = name_of(path).unwrap_or_default().into();
            Refusal::Within { file, refusal: Box::new(refusal) }
        };
        if let Some(other) = self.claimed.iter().find(|other| folder.writes(&other.path)) {
            return Err(within(&other.path, Refusal::Claimed(other.option.clone())));
        }
        let entries = std::fs::read_dir(path).map_err(|source| Refusal::Io { action: "list it", source })?;
        let entries = entries.flatten().map(|entry| entry.path());
        for entry in entries.filter(|entry| name_of(entry).is_some_and(holds)) {
            self.check_file(&entry, kind).map_err(|refusal| within(&entry, refusal))?;
        }
        Ok(())
    }

    /// Checks a file without claiming it.
    fn check_file(&self, path: &Path, kind: Kind) -> Result<(), Refusal> {
        let target = Target::resolve(path)?;
        self.check_identity(&target, kind)?;
        Output { kind, replace: self.replace, place: Place::File(Box::new(target)) }.check_kind()
    }

    /// Refuses a file that is an input, or behind a stdout that is claimed.
    fn check_identity(&self, target: &Target, kind: Kind) -> Result<(), Refusal> {
        let Some(identity) = target.identity() else { return Ok(()) };
        if let Some(other) = self.claimed.iter().find(|other| other.stdout == Some(identity)) {
            return Err(Refusal::Claimed(other.option.clone()));
        }
        let is_read = self.in_folders.contains(&identity) && !target.has_kind(kind)?;
        if is_read || self.inputs.contains(&identity) { Err(Refusal::Input) } else { Ok(()) }
    }
}

fn refused(option: &str, path: &Path, refusal: Refusal) -> OutputError {
    OutputError { option: Some(option.to_owned()), path: path.to_owned(), refusal }
}

/// An output that may be written.
#[derive(Debug)]
pub struct Output {
    kind: Kind,
    replace: Replace,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Stdout,
    File(Box<Target>),
}

impl Output {
    /// An output of a library, without options and inputs. `replace` says which existing files may be replaced.
    ///
    /// # Errors
    /// As [`Outputs::claim`].
    pub fn at(path: &Path, kind: Kind, replace: Replace) -> Result<Output, OutputError> {
        let checked = Output::check(path, kind, replace).and_then(|output| {
            output.check_kind()?;
            Ok(output)
        });
        checked.map_err(|refusal| OutputError::new(path, refusal))
    }

    fn check(path: &Path, kind: Kind, replace: Replace) -> Result<Output, Refusal> {
        if path == Path::new(STDOUT) {
            if kind.content != Content::Text && io::IsTerminal::is_terminal(&io::stdout()) {
                return Err(Refusal::Terminal(kind.name));
            }
            return Ok(Output { kind, replace, place: Place::Stdout });
        }
        Ok(Output { kind, replace, place: Place::File(Box::new(Target::resolve(path)?)) })
    }

    /// Refuses a file of another kind and a read-only file.
    fn check_kind(&self) -> Result<(), Refusal> {
        match (&self.place, self.replace) {
            (Place::File(target), Replace::SameKind) => {
                target.check_permission()?;
                let expected = self.kind.name;
                if target.has_kind(self.kind)? { Ok(()) } else { Err(Refusal::OtherKind { expected }) }
            }
            _ => Ok(()),
        }
    }

    /// True if the output goes to stdout.
    pub fn is_stdout(&self) -> bool {
        matches!(self.place, Place::Stdout)
    }

    /// The path after all links; `-` for stdout.
    pub fn path(&self) -> &Path {
        match &self.place {
            Place::Stdout => Path::new(STDOUT),
            Place::File(target) => target.path(),
        }
    }

    /// The folder that holds the bytes until the output is finished.
    pub fn folder(&self) -> PathBuf {
        match &self.place {
            Place::Stdout => std::env::temp_dir(),
            Place::File(target) => target.staging_folder(),
        }
    }

    /// Opens a temporary file for the output.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(self) -> Result<OutputFile, OutputError> {
        OutputFile::create(self)
    }

    /// Writes the whole output.
    ///
    /// # Errors
    /// It cannot be written; an existing file is unchanged then.
    pub fn write(self, bytes: &[u8]) -> Result<(), OutputError> {
        let mut file = self.create()?;
        file.write_all(bytes)?;
        file.finish()
    }
}

#[cfg(test)]
mod tests;
