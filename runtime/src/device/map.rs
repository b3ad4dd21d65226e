//! Plans in memory: mapped files, and bytes that are there already.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use jamba_plan::format::PAGE_BYTES;
use jamba_plan::{Plan, Verify};
use memmap2::{Advice, Mmap};

use crate::RuntimeError;

/// A plan's bytes: a file that is mapped for reading, or memory of the program's own.
///
/// A file must not be changed while it is mapped: replace plans by renaming, as the compiler does.
///
/// ```
/// use jamba_runtime::{PlanFile, Verify};
///
/// let file = PlanFile::open("examples/toy.plan".as_ref())?;
/// let plan = file.plan(Verify::Everything, &mut |_done, _total| ())?;
/// assert_eq!(plan.manifest().model.name, "toy");
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
#[derive(Debug)]
pub struct PlanFile {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Memory(&'static [u8]),
}

/// What stands for the path of a plan that has none.
const IN_MEMORY: &str = "plan in memory";

impl PlanFile {
    /// Maps a file; reads nothing yet.
    pub fn open(path: &Path) -> Result<PlanFile, RuntimeError> {
        Ok(PlanFile { path: path.to_path_buf(), bytes: Bytes::Mapped(map(path)?) })
    }

    /// Takes a plan that is in memory: [`include_plan!`](crate::include_plan) puts one there. Nothing is copied, and no
    /// file is touched. Refuses memory that does not begin on a page of 4096 bytes.
    pub fn from_memory(bytes: &'static [u8]) -> Result<PlanFile, RuntimeError> {
        match bytes.as_ptr().addr() as u64 % PAGE_BYTES {
            off if off > 0 && !bytes.is_empty() => Err(RuntimeError::Unaligned { off }),
            _ => Ok(PlanFile { path: IN_MEMORY.into(), bytes: Bytes::Memory(bytes) }),
        }
    }

    /// Checks the plan. Tells how many bytes of how many in all were compared with their digests.
    pub fn plan(&self, verify: Verify, tell: &mut dyn FnMut(u64, u64)) -> Result<Plan<'_>, RuntimeError> {
        Plan::parse_telling(self.bytes(), verify, tell)
            .map_err(|source| RuntimeError::Plan { path: self.path.clone(), source })
    }

    /// All bytes of the plan.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Memory(bytes) => bytes,
        }
    }

    /// Tells the system how a part of the file will be used: only a hint, for what is mapped.
    pub(crate) fn advise(&self, advice: Advice, range: &Range<usize>) {
        if let Bytes::Mapped(map) = &self.bytes {
            // Systems may not know the advice; everything works without.
            let _ = map.advise_range(advice, range.start, range.len());
        }
    }

    /// Where the file is; `plan in memory` where it is none.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The bytes of a plan, within the program: `&'static [u8]` on a page's border, for
/// [`PlanFile::from_memory`](crate::PlanFile::from_memory) and [`Engine::open_memory`](crate::Engine::open_memory). The
/// path is relative to the file that it stands in.
///
/// ```
/// use jamba_runtime::{Engine, OpenOptions, include_plan};
///
/// static PLAN: &[u8] = include_plan!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/toy.plan"));
///
/// let engine = Engine::open_memory(PLAN, OpenOptions::default())?;
/// assert_eq!(engine.manifest().model.name, "toy");
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
#[macro_export]
macro_rules! include_plan {
    ($path:expr) => {{
        #[repr(C, align(4096))]
        struct Aligned<T: ?Sized>(T);
        static PLAN: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        &PLAN.0
    }};
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
