//! Execution of blocks, warp by warp and instruction by instruction.

pub(crate) mod barrier;
pub(crate) mod block;
pub(crate) mod groups;
pub(crate) mod job;
pub(crate) mod mbarrier;
pub(crate) mod product;
pub(crate) mod warp;

use crate::fault::FaultKind;
use crate::isa::approx::Error;
use crate::memory::Chunk;
use crate::memory::byte_bits;
use crate::memory::global::Global;
use crate::program::Program;

pub(crate) use block::Block;
pub(crate) use warp::Warp;

/// The launch: state shared by all blocks.
pub(crate) struct Env<'a> {
    pub program: &'a Program,
    pub global: &'a Global,
    pub parameters: Vec<u8>,
    pub grid: [u32; 3],
    pub threads: [u32; 3],
    pub shared_end: usize,
    pub n_sms: u32,
    pub error: Error,
    pub seed: u64,
    /// Number of the launch on its device, from 1.
    pub launch: u64,
    /// Most warp instructions per block.
    pub budget: u64,
    /// Lanes of a warp may diverge at accesses to shared memory.
    pub split_lanes: bool,
}

impl Env<'_> {
    pub fn n_threads(&self) -> u32 {
        self.threads.iter().product()
    }

    /// Bytes of the kernel's parameters.
    pub fn parameter(&self, offset: u64, n: usize) -> Result<Chunk, (FaultKind, String)> {
        let at = offset as usize;
        match self.parameters.get(at..at.saturating_add(n)) {
            Some(bytes) => {
                let mut all = [0; 16];
                all[..n].copy_from_slice(bytes);
                Ok(Chunk::from_bytes(&all, byte_bits(n)))
            }
            None => Err((FaultKind::OutOfBounds, format!("{n} bytes at {offset} of the parameters"))),
        }
    }
}
