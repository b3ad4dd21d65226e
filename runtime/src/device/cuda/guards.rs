//! Guards: bytes around each allocation that no kernel may write, where steps are checked.

use super::driver::{Driver, DriverError};

/// Bytes of a guard; a multiple of every alignment that memory has.
pub(super) const GUARD_BYTES: u64 = 4096;

/// What they hold.
const PATTERN: u8 = 0xa5;

/// A guard that a step wrote into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// Index of the step in its entry.
    pub(super) step: usize,
    /// The allocation.
    pub(super) region: &'static str,
}

/// The guards of all allocations.
#[derive(Default)]
pub(super) struct Guards(Vec<(&'static str, [u64; 2])>);

impl Guards {
    /// Takes memory between two guards; the address between them.
    pub(super) fn allocate(
        &mut self,
        driver: &mut dyn Driver,
        what: &'static str,
        bytes: u64,
    ) -> Result<u64, DriverError> {
        let begin = driver.allocate(what, bytes + 2 * GUARD_BYTES)? + GUARD_BYTES;
        let guards = [begin - GUARD_BYTES, begin + bytes];
        for at in guards {
            driver.fill(at, GUARD_BYTES, PATTERN)?;
        }
        self.0.push((what, guards));
        Ok(begin)
    }

    /// Bytes that they take around `n` allocations.
    pub(super) fn bytes(n: u64) -> u64 {
        2 * n * GUARD_BYTES
    }

    /// The first allocation with a guard that was written.
    pub(super) fn broken(&self, driver: &mut dyn Driver) -> Result<Option<&'static str>, DriverError> {
        let mut bytes = [0; GUARD_BYTES as usize];
        for (what, guards) in &self.0 {
            for &at in guards {
                driver.download(at, &mut bytes)?;
                if bytes.iter().any(|&byte| byte != PATTERN) {
                    return Ok(Some(what));
                }
            }
        }
        Ok(None)
    }
}
