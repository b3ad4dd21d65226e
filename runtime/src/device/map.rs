//! Files mapped into memory.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::RuntimeError;

/// Maps a file for reading.
///
/// The file must not be changed while it is mapped: replace plans by renaming, as the compiler does.
pub(crate) fn map(path: &Path) -> Result<Mmap, RuntimeError> {
    let failed = |action: &'static str| {
        let path = path.to_path_buf();
        move |source| RuntimeError::Io { path, action, source }
    };
    let file = File::open(path).map_err(failed("open it"))?;
    let metadata = file.metadata().map_err(failed("open it"))?;
    if !metadata.is_file() {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a file");
        return Err(failed("map it")(source));
    }
    if metadata.len() == 0 {
        let source = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it is empty");
        return Err(failed("map it")(source));
    }
    // SAFETY: the mapping is private and only read. That nobody changes the file meanwhile is the caller's side of the
    // contract above; the compiler never writes into a finished plan, it renames a new one over it.
    unsafe { Mmap::map(&file) }.map_err(failed("map it"))
}
