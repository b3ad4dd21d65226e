//! Plans mapped into memory.

use std::fs::File;
use std::path::{Path, PathBuf};

use jamba_plan::{Plan, Verify};
use memmap2::Mmap;

use crate::RuntimeError;

/// A plan's file, mapped for reading.
///
/// The file must not be changed while it is mapped: replace plans by renaming, as the compiler does.
#[derive(Debug)]
pub struct PlanFile {
    path: PathBuf,
    pub(crate) map: Mmap,
}

impl PlanFile {
    /// Maps a file; reads nothing yet.
    pub fn open(path: &Path) -> Result<PlanFile, RuntimeError> {
        Ok(PlanFile { path: path.to_path_buf(), map: map(path)? })
    }

    /// Checks the plan. Tells how many bytes of how many in all were compared with their digests.
    pub fn plan(&self, verify: Verify, tell: &mut dyn FnMut(u64, u64)) -> Result<Plan<'_>, RuntimeError> {
        Plan::parse_telling(&self.map, verify, tell)
            .map_err(|source| RuntimeError::Plan { path: self.path.clone(), source })
    }

    /// All bytes of the plan.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn map(path: &Path) -> Result<Mmap, RuntimeError> {
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
    // SAFETY: the mapping is private and only read. That nobody changes the file meanwhile is the other side of
    // the contract above; the compiler never writes into a finished plan, it renames a new one over it.
    unsafe { Mmap::map(&file) }.map_err(failed("map it"))
}
