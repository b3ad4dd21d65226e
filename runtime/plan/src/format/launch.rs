//! How a kernel of a GPU is launched: blocks from the counts of a step, threads and shared memory known at build time.

use super::Count;
use serde::{Deserialize, Serialize};

/// Grid, block and dynamic shared memory of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Blocks along x, y and z.
    pub grid: [Blocks; 3],
    /// Threads of a block, along x; a multiple of 32.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
}

/// Number of blocks along one axis of a grid. Blocks that the step's actual counts leave without work return at once, so a
/// grid may be sized by the largest counts that a captured graph is replayed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Blocks {
    /// As many whatever the device and the step.
    Fixed(u32),
    /// As many on each multiprocessor: persistent kernels.
    PerSm(u32),
    /// `ceil(count · factor / per_block)`, 1 at least.
    Of {
        /// What the work is counted in.
        count: Count,
        /// Pieces of work in one of the count.
        factor: u32,
        /// Pieces of work that one block does.
        per_block: u32,
    },
}

impl Blocks {
    /// The number on a device of `n_sms` multiprocessors, where `of` gives a step's counts.
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
    /// A grid of one axis.
    pub fn along_x(blocks: Blocks, threads: u32, shared_bytes: u32) -> Launch {
        Launch { grid: [blocks, Blocks::Fixed(1), Blocks::Fixed(1)], threads, shared_bytes }
    }

    /// Blocks along x, y and z on a device of `n_sms` multiprocessors, where `of` gives a step's counts.
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
