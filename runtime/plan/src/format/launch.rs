//! Launch configuration of GPU kernels: the grid depends on the counts of a step; threads and shared memory are known at build
//! time.

use super::Count;
use serde::{Deserialize, Serialize};

/// Grid, block size and dynamic shared memory of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Number of blocks along x, y and z.
    pub grid: [Blocks; 3],
    /// Threads per block, along x; a multiple of 32.
    pub threads: u32,
    /// Dynamic shared memory per block, in bytes.
    pub shared_bytes: u32,
}

/// Number of blocks along one axis of a grid. Blocks without work return immediately, so a grid may be sized for the largest
/// counts with which a captured graph is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Blocks {
    /// A constant, independent of the device and of the step.
    Fixed(u32),
    /// A constant per multiprocessor, for persistent kernels.
    PerSm(u32),
    /// `ceil(count · factor / per_block)`, at least 1.
    Of {
        /// The count that determines the amount of work.
        count: Count,
        /// Work items per unit of the count.
        factor: u32,
        /// Work items per block.
        per_block: u32,
    },
}

impl Blocks {
    /// Number of blocks on a device with `n_sms` multiprocessors; `of` returns the counts of the step.
    pub fn number(self, n_sms: u32, of: impl FnOnce(Count) -> u64) -> u64 {
        match self {
            Blocks::Fixed(blocks) => u64::from(blocks),
            Blocks::PerSm(blocks) => u64::from(blocks) * u64::from(n_sms),
            Blocks::Of { count, factor, per_block } => {
                (of(count) * u64::from(factor)).div_ceil(u64::from(per_block)).max(1)
            }
        }
    }
}

impl Launch {
    /// A one-dimensional grid.
    pub fn along_x(blocks: Blocks, threads: u32, shared_bytes: u32) -> Launch {
        Launch { grid: [blocks, Blocks::Fixed(1), Blocks::Fixed(1)], threads, shared_bytes }
    }

    /// Number of blocks along x, y and z on a device with `n_sms` multiprocessors; `of` returns the counts of the step.
    pub fn blocks(&self, n_sms: u32, of: impl Fn(Count) -> u64) -> [u64; 3] {
        self.grid.map(|axis| axis.number(n_sms, &of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_work() {
        let of = |count| if count == Count::Tokens { 17 } else { 0 };
        let rows = Blocks::Of { count: Count::Tokens, factor: 2, per_block: 8 };
        let none = Blocks::Of { count: Count::Outputs, factor: 2, per_block: 8 };
        let launch = Launch { grid: [rows, Blocks::PerSm(2), none], threads: 128, shared_bytes: 0 };
        assert_eq!(launch.blocks(132, of), [5, 264, 1]);
        assert_eq!(Launch::along_x(Blocks::Fixed(3), 32, 0).blocks(132, of), [3, 1, 1]);
    }
}
