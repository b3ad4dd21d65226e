//! The bytes of a plan: a file, or memory of the program.
//!
//! Of a file, the weights are mapped, because they may be larger than memory. Everything else is read into private memory when the file
//! is opened, hashed there and used from there: code, program and texts are those whose digests were compared, whatever happens to the
//! file afterwards. Both lie in one range of addresses, at their offsets in the file.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jamba_plan::format::PAGE_BYTES;
use jamba_plan::sections::{FIRST_SECTION, Section, SectionKind};
use jamba_plan::{Plan, Verify, frame};
use memmap2::{Advice, Mmap, MmapMut};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap};

use crate::RuntimeError;

/// The bytes of a plan: a file, of which the weights are mapped for reading, or memory of the program.
///
/// The file must not be modified: the weights would change. To replace a plan, rename a new file over it, as the compiler does. Reading
/// the weights of a file that was truncated raises SIGBUS, which kills the process unless it has a handler; programs can install one
/// with [`faults::report_bus_errors`](crate::faults::report_bus_errors). Everything but the weights was copied when the file was opened.
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
    exposed: Option<Exposed>,
}

/// Who else may write to the file of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposed {
    /// Its group.
    ToGroup,
    /// Every user.
    ToAll,
    /// Its owner, who is neither root nor the user of this process: the id.
    ToOwner(u32),
}

impl Exposed {
    /// Of the permissions and the owner of a file.
    fn of(mode: u32, owner: u32, user: u32) -> Option<Exposed> {
        match mode {
            _ if owner != 0 && owner != user => Some(Exposed::ToOwner(owner)),
            _ if mode & 0o002 > 0 => Some(Exposed::ToAll),
            _ if mode & 0o020 > 0 => Some(Exposed::ToGroup),
            _ => None,
        }
    }
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exposed::ToGroup => f.write_str("its group may write to the plan"),
            Exposed::ToAll => f.write_str("every user may write to the plan"),
            Exposed::ToOwner(user) => write!(f, "the plan belongs to user {user}"),
        }
    }
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Memory(&'static [u8]),
}

/// Path reported for a plan that was opened from memory.
const IN_MEMORY: &str = "plan in memory";

impl PlanFile {
    /// Maps the weights of a file and reads the rest, without verifying it.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] if the file cannot be read, or is none: a FIFO or a device is refused at once. [`RuntimeError::Memory`] if the
    /// memory does not suffice for what is not weights.
    pub fn open(path: &Path) -> Result<PlanFile, RuntimeError> {
        let (map, exposed) = map(path)?;
        Ok(PlanFile { path: path.to_path_buf(), bytes: Bytes::Mapped(map), exposed })
    }

    /// Uses a plan in memory, for example one embedded by [`include_plan!`](crate::include_plan), without copying it.
    ///
    /// # Errors
    /// [`RuntimeError::Unaligned`] if the memory is not aligned to 4096 bytes.
    pub fn from_memory(bytes: &'static [u8]) -> Result<PlanFile, RuntimeError> {
        match bytes.as_ptr().addr() as u64 % PAGE_BYTES {
            off if off > 0 && !bytes.is_empty() => Err(RuntimeError::Unaligned { off }),
            _ => Ok(PlanFile { path: IN_MEMORY.into(), bytes: Bytes::Memory(bytes), exposed: None }),
        }
    }

    /// Copies a plan that is in memory, for example one that was received.
    ///
    /// # Errors
    /// [`RuntimeError::Memory`] if there is too little memory.
    pub fn copy_of(bytes: &[u8]) -> Result<PlanFile, RuntimeError> {
        let out_of_memory = |source| RuntimeError::Memory { what: "the plan", bytes: bytes.len() as u64, source };
        let mut copy = MmapMut::map_anon(bytes.len()).map_err(out_of_memory)?;
        copy.copy_from_slice(bytes);
        let copy = copy.make_read_only().map_err(out_of_memory)?;
        Ok(PlanFile { path: IN_MEMORY.into(), bytes: Bytes::Mapped(copy), exposed: None })
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

    /// Who else may write to the file, and so change what an open engine computes with.
    pub fn exposed(&self) -> Option<Exposed> {
        self.exposed
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

/// Most bytes of a plan beside its weights. The largest part is the tokenizer, of some MB.
const MOST_COPIED: u64 = 1 << 30;

fn map(path: &Path) -> Result<(Mmap, Option<Exposed>), RuntimeError> {
    let failed = |action: &'static str| {
        let path = path.to_path_buf();
        move |source| RuntimeError::Io { path, action, source }
    };
    let refused = |kind, reason: String| failed("map it")(std::io::Error::new(kind, reason));
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(failed("open it"))?;
    let metadata = file.metadata().map_err(failed("open it"))?;
    if !metadata.is_file() {
        return Err(refused(std::io::ErrorKind::InvalidInput, "it is not a file".to_owned()));
    }
    // SAFETY: it takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    let exposed = Exposed::of(metadata.mode(), metadata.uid(), user);
    let file_bytes = metadata.len();
    if file_bytes == 0 {
        return Err(refused(std::io::ErrorKind::UnexpectedEof, "it is empty".to_owned()));
    }
    let out_of_memory = |source| RuntimeError::Memory { what: "the plan", bytes: file_bytes, source };
    let length = usize::try_from(file_bytes).map_err(|_| out_of_memory(std::io::ErrorKind::OutOfMemory.into()))?;
    // Pages that are never written take no memory.
    let mut whole = MmapMut::map_anon(length).map_err(out_of_memory)?;
    let read = |range: Range<u64>, whole: &mut MmapMut| {
        let range = range.start as usize..range.end.min(file_bytes) as usize;
        file.read_exact_at(&mut whole[range.clone()], range.start as u64).map_err(failed("read it"))
    };
    read(0..FIRST_SECTION, &mut whole)?;
    // A file with another frame is refused for it when the plan is verified, before anything else in it is looked at.
    let sections = frame(&whole[..length.min(FIRST_SECTION as usize)], file_bytes).unwrap_or_default();
    let is_weights = |section: &Section| section.kind == SectionKind::Weights.code();
    let copied: u64 = sections.iter().filter(|section| !is_weights(section)).map(|section| section.bytes).sum();
    if copied > MOST_COPIED {
        let reason = format!("it has {copied} bytes beside its weights, expected at most {MOST_COPIED}");
        return Err(refused(std::io::ErrorKind::InvalidData, reason));
    }
    for section in sections {
        // The padding, which is verified too, is part of it.
        let range = section.offset..section.next_offset().unwrap_or(file_bytes).min(file_bytes);
        if !is_weights(&section) {
            read(range, &mut whole)?;
            continue;
        }
        let (place, bytes) = (&mut whole[range.start as usize..range.end as usize], (range.end - range.start) as usize);
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: the new mapping replaces pages of `whole`, which nothing else refers to, and is removed with it. Its bytes stay constant
        // if no process writes to the file, which the documentation of `PlanFile` requires of callers. Kernels read weights as numbers:
        // a change gives other numbers.
        match unsafe { mmap(place.as_mut_ptr().cast(), bytes, ProtFlags::READ, flags, &file, range.start) } {
            Ok(_) => {}
            // The system's pages are larger than those of plans.
            Err(Errno::INVAL) => read(range, &mut whole)?,
            Err(error) => return Err(failed("map it")(error.into())),
        }
    }
    Ok((whole.make_read_only().map_err(failed("map it"))?, exposed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_that_others_can_write_are_told() {
        let of = |mode: u32, owner| Exposed::of(0o100_000 | mode, owner, 1000);
        for (mode, owner) in [(0o644, 1000), (0o600, 1000), (0o755, 0), (0o444, 1000)] {
            assert_eq!(of(mode, owner), None, "{mode:o} of {owner}");
        }
        assert_eq!(of(0o664, 1000), Some(Exposed::ToGroup));
        assert_eq!(of(0o666, 0), Some(Exposed::ToAll));
        assert_eq!(of(0o646, 1000), Some(Exposed::ToAll));
        assert_eq!(of(0o644, 1001), Some(Exposed::ToOwner(1001)));
        // For root too, other users are others.
        assert_eq!(Exposed::of(0o100_644, 1000, 0), Some(Exposed::ToOwner(1000)));
    }
}
