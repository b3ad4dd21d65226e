//! Memory of the CPU: page-aligned regions with a guard before them and readable slack behind.

use jamba_plan::format::{PAGE_BYTES, SLACK_BYTES};
use memmap2::MmapMut;

use crate::RuntimeError;

/// Bytes before a region that nobody may touch; a page, so that the region begins on one.
const GUARD_BYTES: usize = PAGE_BYTES as usize;

/// Bytes behind a region that kernels may read and nobody may write.
const SLACK: usize = SLACK_BYTES as usize;

/// One region of memory, zero at first.
#[derive(Debug)]
pub(super) struct Region {
    map: MmapMut,
    bytes: usize,
    /// What it is for: `arena`.
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
        // Fewer TLB misses where the system allows it; nothing depends on it.
        let _ = region.map.advise(memmap2::Advice::HugePage);
        Ok(region)
    }

    /// Makes all of it resident, so that its first use costs no page faults and finds no memory gone.
    pub(super) fn prefault(&mut self) {
        // Systems older than Linux 5.14 lack the advice.
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

    /// True when nobody wrote into the guard or the slack.
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
