//! What can be wrong with a checkpoint folder: the file, the key or tensor in it, what was found, what was expected.

use std::path::{Path, PathBuf};

/// Why a checkpoint was refused. The `Display` text is complete: it names the file and needs no source chain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system could not read a file or folder.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("{}: JSON error: {cause}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        cause: serde_json::Error,
    },
    /// A file or folder as a whole is wrong: missing, truncated, of another kind.
    #[error("{}: found {found}, expected {expected}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// A key of a JSON file (or several keys that contradict each other) has a value that cannot be honoured.
    #[error("{}: {key}: found {found}, expected {expected}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key, or the keys separated by commas.
        key: String,
        /// The value.
        found: String,
        /// The values that would do.
        expected: String,
    },
    /// A key of config.json that this compiler does not know, and that could therefore change the arithmetic.
    #[error(
        "{}: {key}: unknown key that could change the arithmetic: found {found}, expected no such key",
        path.display()
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        found: String,
    },
    /// A tensor is described or stored wrongly.
    #[error("{}: tensor {tensor}: found {found}, expected {expected}", path.display())]
    Tensor {
        /// The shard, or the index file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What the file says of it.
        found: String,
        /// What it should say.
        expected: String,
    },
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(path: &Path, cause: std::io::Error) -> Self {
        Self::Io { path: path.into(), cause }
    }

    pub(crate) fn file(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::File { path: path.into(), found: found.into(), expected: expected.into() }
    }

    pub(crate) fn key(path: &Path, key: &str, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Key { path: path.into(), key: key.into(), found: found.into(), expected: expected.into() }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Tensor { path: path.into(), tensor: tensor.into(), found: found.into(), expected: expected.into() }
    }
}
