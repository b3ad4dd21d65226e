//! Guards: bytes around each allocation that no kernel may write, for checked execution.

use super::driver::{Driver, DriverError};

/// Size of a guard, a multiple of every allocation's alignment.
pub(super) const GUARD_BYTES: u64 = 4096;

/// Content of the guards.
const PATTERN: u8 = 0xa5;

/// The guards of all allocations: name, and addresses before and after.
#[derive(Default)]
pub(super) struct Guards(Vec<(&'static str, [u64; 2])>);

impl Guards {
    /// Allocates memory between two guards and returns its address.
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

    /// Size of the guards of `n` allocations, in bytes.
    pub(super) fn bytes(n: u64) -> u64 {
        2 * n * GUARD_BYTES
    }

    /// The first allocation with an overwritten guard.
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
