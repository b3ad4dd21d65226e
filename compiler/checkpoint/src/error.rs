//! Errors of a checkpoint folder: file, key or tensor, found, expected.

use std::path::{Path, PathBuf};

/// The reason to refuse a checkpoint. The `Display` text is complete: it names the file and needs no source chain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system could not read a file or folder.
    #[error("{}: {cause}", path.display())]
    Io { path: PathBuf, cause: std::io::Error },
    /// A file is not valid JSON.
    #[error("{}: JSON error: {cause}", path.display())]
    Json { path: PathBuf, cause: serde_json::Error },
    /// A file or folder as a whole is wrong: missing, truncated, of another kind.
    #[error("{}: found {found}, expected {expected}", path.display())]
    File { path: PathBuf, found: String, expected: String },
    /// A key of a JSON file has an unsupported value, or several keys contradict each other.
    #[error("{}: {key}: found {found}, expected {expected}", path.display())]
    Key {
        path: PathBuf,
        /// The key, or the keys separated by commas.
        key: String,
        found: String,
        expected: String,
    },
    /// An unknown key of config.json, which could change the arithmetic.
    #[error(
        "{}: {key}: unknown key that could change the arithmetic: found {found}, expected no such key{}",
        path.display(),
        way_out(key)
    )]
    UnknownKey { path: PathBuf, key: String, found: String },
    /// An invalid description or storage of a tensor.
    #[error("{}: tensor {tensor}: found {found}, expected {expected}", path.display())]
    Tensor {
        /// The shard, or the index file.
        path: PathBuf,
        tensor: String,
        found: String,
        expected: String,
    },
}

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

/// How to build without an unknown key. Keys inside others cannot be ignored.
fn way_out(key: &str) -> String {
    match key.contains('.') {
        true => String::new(),
        false => format!("; to build without it: ignore_keys = [{key:?}] under [model] in a model.toml"),
    }
}
