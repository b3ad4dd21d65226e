//! Page-aligned memory regions between pages that cannot be accessed: a kernel that leaves its region is stopped there. Behind a region
//! is slack, which may be read.

use jamba_plan::format::SLACK_BYTES;
use memmap2::{Advice, MmapMut};
use rustix::mm::{MprotectFlags, mprotect};

use super::image::PAGE_BYTES;
use crate::RuntimeError;

/// Size of the guard before a region, and of the one behind its slack: one page of the system, at most.
const GUARD_BYTES: usize = PAGE_BYTES as usize;

/// Size of the slack after a region. Kernels may read it, vector loads past the end do, and must not write it.
const SLACK: usize = SLACK_BYTES as usize;

/// A memory region, initially zero.
#[derive(Debug)]
pub(super) struct Region {
    map: MmapMut,
    bytes: usize,
    /// The guard before the region can be accessed, to tell afterwards whether it was written.
    is_watched: bool,
    /// Name for messages, for example `arena`.
    pub(super) name: &'static str,
}

impl Region {
    pub(super) fn new(name: &'static str, bytes: u64) -> Result<Region, RuntimeError> {
        let whole = usize::try_from(bytes).ok().and_then(|bytes| {
            bytes.checked_add(SLACK)?.checked_next_multiple_of(GUARD_BYTES)?.checked_add(2 * GUARD_BYTES)
        });
        let taken = match whole {
            Some(whole) => MmapMut::map_anon(whole),
            None => Err(std::io::ErrorKind::OutOfMemory.into()),
        };
        let failed = |source| RuntimeError::Memory { what: name, bytes, source };
        let mut region = Region { bytes: bytes as usize, map: taken.map_err(failed)?, is_watched: false, name };
        // A hint that reduces TLB misses.
        let _ = region.map.advise(Advice::HugePage);
        let last = region.map.len() - GUARD_BYTES;
        region
            .protect(0, MprotectFlags::empty())
            .and_then(|()| region.protect(last, MprotectFlags::empty()))
            .map_err(failed)?;
        Ok(region)
    }

    /// Sets the access to the guard at `start`.
    fn protect(&mut self, start: usize, flags: MprotectFlags) -> std::io::Result<()> {
        let guard = self.map[start..start + GUARD_BYTES].as_mut_ptr().cast();
        // SAFETY: the pages are inside the mapping. They are accessed only in `guards_hold`, while they are readable.
        Ok(unsafe { mprotect(guard, GUARD_BYTES, flags) }?)
    }

    /// Makes writes before the region visible to [`Region::guards_hold`], which otherwise end the process.
    pub(super) fn watch(&mut self) {
        self.is_watched = self.protect(0, MprotectFlags::READ | MprotectFlags::WRITE).is_ok();
    }

    /// Makes the region resident, so that later accesses cause no page faults and cannot run out of memory.
    pub(super) fn prefault(&mut self) {
        // Before Linux 5.14 the advice does not exist; touch every page.
        let bytes = self.bytes + SLACK;
        if self.map.advise_range(Advice::PopulateWrite, GUARD_BYTES, bytes).is_err() {
            for byte in self.as_mut_slice().iter_mut().step_by(GUARD_BYTES) {
                *byte = std::hint::black_box(*byte);
            }
        }
    }

    /// Address of the first byte.
    pub(super) fn address(&mut self) -> u64 {
        self.as_mut_slice().as_mut_ptr().expose_provenance() as u64
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.map[GUARD_BYTES..GUARD_BYTES + self.bytes]
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.map[GUARD_BYTES..GUARD_BYTES + self.bytes]
    }

    /// True if slack and, after [`Region::watch`], the guard before the region are still zero.
    pub(super) fn guards_hold(&self) -> bool {
        let zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
        let slack = GUARD_BYTES + self.bytes..self.map.len() - GUARD_BYTES;
        (!self.is_watched || zero(&self.map[..GUARD_BYTES])) && zero(&self.map[slack])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_zero_aligned_and_guarded() {
        let mut region = Region::new("test", 100).unwrap();
        assert!(region.address().is_multiple_of(PAGE_BYTES));
        assert_eq!(region.as_slice(), [0; 100]);
        assert!(region.guards_hold());
        let end = GUARD_BYTES + 100;
        region.map[end] = 1;
        assert!(!region.guards_hold());
        region.map[end] = 0;
        region.watch();
        assert!(region.guards_hold());
        region.map[GUARD_BYTES - 1] = 1;
        assert!(!region.guards_hold());
    }

    #[test]
    fn pages_around_a_region_cannot_be_accessed() {
        for bytes in [0, 1, PAGE_BYTES - 1, PAGE_BYTES, 3 * PAGE_BYTES + 7] {
            let mut region = Region::new("test", bytes).unwrap();
            region.as_mut_slice().fill(1);
            let (begin, end) = (region.address(), region.address() + bytes);
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let access = |address: u64| {
                let of_line = |line: &str| {
                    let (range, rest) = line.split_once(' ')?;
                    let (from, to) = range.split_once('-')?;
                    let [from, to] = [from, to].map(|hex| u64::from_str_radix(hex, 16).unwrap());
                    (from..to).contains(&address).then(|| rest[..4].to_owned())
                };
                maps.lines().find_map(of_line).unwrap()
            };
            let behind = (end + SLACK as u64).next_multiple_of(PAGE_BYTES);
            let found = [begin - 1, begin, end + SLACK as u64 - 1, behind].map(access);
            assert_eq!(found, ["---p", "rw-p", "rw-p", "---p"], "{bytes} bytes");
        }
    }

    #[test]
    fn too_much_is_refused() {
        assert!(matches!(Region::new("test", u64::MAX), Err(RuntimeError::Memory { what: "test", .. })));
    }
}
