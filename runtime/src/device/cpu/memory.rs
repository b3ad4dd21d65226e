//! Page-aligned memory regions with a guard before and readable slack after them.

use jamba_plan::format::{PAGE_BYTES, SLACK_BYTES};
use memmap2::MmapMut;

use crate::RuntimeError;

/// Size of the guard before a region: one page, so that the region is page-aligned.
const GUARD_BYTES: usize = PAGE_BYTES as usize;

/// Size of the slack after a region. Kernels may read it, vector loads past the end do, and must not write it.
const SLACK: usize = SLACK_BYTES as usize;

/// A memory region, initially zero.
#[derive(Debug)]
pub(super) struct Region {
    map: MmapMut,
    bytes: usize,
    /// Name for messages, for example `arena`.
    pub(super) name: &'static str,
}

impl Region {
    pub(super) fn new(name: &'static str, bytes: u64) -> Result<Region, RuntimeError> {
        let whole = usize::try_from(bytes).ok().and_then(|bytes| bytes.checked_add(GUARD_BYTES + SLACK));
        let taken = match whole {
            Some(whole) => MmapMut::map_anon(whole),
            None => Err(std::io::ErrorKind::OutOfMemory.into()),
        };
        let map = taken.map_err(|source| RuntimeError::Memory { what: name, bytes, source })?;
        let region = Region { bytes: map.len() - GUARD_BYTES - SLACK, map, name };
        // A hint that reduces TLB misses.
        let _ = region.map.advise(memmap2::Advice::HugePage);
        Ok(region)
    }

    /// Makes the region resident, so that later accesses cause no page faults and cannot run out of memory.
    pub(super) fn prefault(&mut self) {
        // Before Linux 5.14 the advice does not exist; touch every page.
        if self.map.advise(memmap2::Advice::PopulateWrite).is_err() {
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

    /// True if guard and slack are still zero.
    pub(super) fn guards_hold(&self) -> bool {
        let zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
        zero(&self.map[..GUARD_BYTES]) && zero(&self.map[GUARD_BYTES + self.bytes..])
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
    }

    #[test]
    fn too_much_is_refused() {
        assert!(matches!(Region::new("test", u64::MAX), Err(RuntimeError::Memory { what: "test", .. })));
    }
}
