//! The bytes of a plan: a mapped file, or memory of the program.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use jamba_plan::format::PAGE_BYTES;
use jamba_plan::{Plan, Verify};
use memmap2::{Advice, Mmap};

use crate::RuntimeError;

/// The bytes of a plan: a file mapped for reading, or memory of the program.
///
/// A mapped file must not be modified. To replace a plan, rename a new file over it, as the compiler does. Reading a file that
/// was truncated raises SIGBUS, which kills the process unless it has a handler; programs can install one with
/// [`faults::report_bus_errors`](crate::faults::report_bus_errors).
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

/// Path reported for a plan that was opened from memory.
const IN_MEMORY: &str = "plan in memory";

impl PlanFile {
    /// Maps a file without reading it.
    pub fn open(path: &Path) -> Result<PlanFile, RuntimeError> {
        Ok(PlanFile { path: path.to_path_buf(), bytes: Bytes::Mapped(map(path)?) })
    }

    /// Uses a plan in memory, for example one embedded by [`include_plan!`](crate::include_plan), without copying it.
    ///
    /// # Errors
    /// [`RuntimeError::Unaligned`] if the memory is not aligned to 4096 bytes.
    pub fn from_memory(bytes: &'static [u8]) -> Result<PlanFile, RuntimeError> {
        match bytes.as_ptr().addr() as u64 % PAGE_BYTES {
            off if off > 0 && !bytes.is_empty() => Err(RuntimeError::Unaligned { off }),
            _ => Ok(PlanFile { path: IN_MEMORY.into(), bytes: Bytes::Memory(bytes) }),
        }
    }

    /// Verifies and parses the plan. Calls `tell` with the bytes hashed so far and the bytes to hash in total.
    ///
    /// # Errors
    /// [`RuntimeError::Plan`] names the section and field that are wrong.
    pub fn plan(&self, verify: Verify, tell: &mut dyn FnMut(u64, u64)) -> Result<Plan<'_>, RuntimeError> {
        Plan::parse_telling(self.bytes(), verify, tell)
            .map_err(|source| RuntimeError::Plan { path: self.path.clone(), source })
    }

    /// The bytes of the plan.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Memory(bytes) => bytes,
        }
    }

    /// Gives the kernel a hint about the use of a range of the file. No effect on plans in memory.
    pub(crate) fn advise(&self, advice: Advice, range: &Range<usize>) {
        if let Bytes::Mapped(map) = &self.bytes {
            // Only a hint; older kernels may not know it.
            let _ = map.advise_range(advice, range.start, range.len());
        }
    }

    /// The path of the file, or `plan in memory`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A source of a plan: the path of its file, or a [`PlanFile`] that is open already.
pub trait PlanSource {
    /// Opens the plan's bytes, without reading or verifying them.
    fn into_plan(self) -> Result<PlanFile, RuntimeError>;
}

impl<P: AsRef<Path>> PlanSource for P {
    fn into_plan(self) -> Result<PlanFile, RuntimeError> {
        PlanFile::open(self.as_ref())
    }
}

impl PlanSource for PlanFile {
    fn into_plan(self) -> Result<PlanFile, RuntimeError> {
        Ok(self)
    }
}

/// Embeds a plan in the program: evaluates to a page-aligned `&'static [u8]` for
/// [`PlanFile::from_memory`](crate::PlanFile::from_memory). The path is relative to the source file.
///
/// ```
/// use jamba_runtime::{Engine, OpenOptions, PlanFile, include_plan};
///
/// static PLAN: &[u8] = include_plan!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/toy.plan"));
///
/// let engine = Engine::open(PlanFile::from_memory(PLAN)?, OpenOptions::default())?;
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
    // SAFETY: the mapping is private and read-only. Its bytes stay constant if no process writes to the file, which the
    // documentation of `PlanFile` requires of callers; the compiler replaces plans by renaming.
    unsafe { Mmap::map(&file) }.map_err(failed("map it"))
}
