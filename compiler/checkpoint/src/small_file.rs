//! Reads small text files. What other programs put in their place or at their beginning is named or left out.

use std::path::Path;

use crate::error::{Error, Result};

/// The beginning of the file that a download without Git LFS leaves in place of a large file.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// The mark that some editors write before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a text file, without a byte order mark at its beginning.
///
/// # Errors
/// The file cannot be read, is a pointer of Git LFS, or is UTF-16.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    text(std::fs::read(path).map_err(|cause| Error::io(path, cause))?, path)
}

/// The text in the bytes of `path`.
pub(crate) fn text(mut bytes: Vec<u8>, path: &Path) -> Result<Vec<u8>> {
    refuse_pointer(&bytes, path)?;
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(Error::file(path, "UTF-16", "UTF-8 (`iconv -f UTF-16 -t UTF-8` converts it)"));
    }
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(bytes)
}

/// Refuses what Git leaves in place of a large file where Git LFS is not installed.
pub(crate) fn refuse_pointer(file: &[u8], path: &Path) -> Result<()> {
    match file.starts_with(LFS_POINTER) {
        true => Err(Error::file(path, "a Git LFS pointer", "the file itself (`git lfs pull` fetches it)")),
        false => Ok(()),
    }
}
