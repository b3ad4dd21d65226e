//! The shared memory of a block, with the last accesses to each two bytes.

use super::order::{Knowledge, MAX_AGENTS};
use super::{Chunk, byte_bits};
use crate::fault::{FaultKind, Run, Trouble};

/// Bytes per entry of the access tables. Accesses to single bytes of a granule are not distinguished.
const GRANULE: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agent {
    Warp(u32),
    /// `cp.async` of a warp.
    Copies(u32),
    /// Bulk stores of a warp.
    BulkStores(u32),
    /// `wgmma` of a warpgroup.
    Tensor(u32),
    /// Bulk and tensor loads that report to the mbarrier at an address.
    BulkLoads(u32),
}

impl Agent {
    /// Whether it accesses memory through the generic proxy.
    fn is_generic(self) -> bool {
        matches!(self, Agent::Warp(_) | Agent::Copies(_))
    }

    fn describe(self) -> String {
        match self {
            Agent::Warp(w) => format!("warp {w}"),
            Agent::Copies(w) => format!("a cp.async of warp {w} that is not waited for"),
            Agent::BulkStores(w) => format!("a bulk store of warp {w} that is not waited for"),
            Agent::Tensor(g) => format!("a wgmma of warpgroup {g} that is not waited for"),
            Agent::BulkLoads(at) => format!("a bulk load on mbarrier {at:#x} that is not waited for"),
        }
    }
}

/// An access: the agent, its time, and its clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access<'a> {
    pub agent: u8,
    pub stamp: u32,
    pub knows: &'a Knowledge,
}

/// Contents, written bits and access tables.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    base: usize,
    bytes: usize,
    data: Vec<u8>,
    /// One bit per byte; 16 bytes per entry.
    written: Vec<u16>,
    agents: Vec<Agent>,
    /// Agent and time of the last write to each granule.
    writer: Vec<u8>,
    write_time: Vec<u32>,
    /// For each agent, the time of its last read of each granule. Empty for agents without reads.
    read_time: Vec<Vec<u32>>,
    last_write: Vec<u32>,
    last_read: Vec<u32>,
    /// Addresses of mbarriers, and their range. Ordinary stores to them are a fault.
    mbarriers: Vec<usize>,
    mbarrier_range: (usize, usize),
}

impl Shared {
    /// Unwritten memory in `base..end`. Times recorded so far are in the past.
    pub fn reset(&mut self, base: usize, end: usize, n_warps: u32) {
        self.base = base;
        self.bytes = end;
        self.data.resize(end.next_multiple_of(16), 0);
        self.written.clear();
        self.written.resize(end.div_ceil(16), 0);
        let granules = end.div_ceil(GRANULE) + 8;
        if self.writer.len() < granules {
            self.writer.resize(granules, 0);
            self.write_time.resize(granules, 0);
            self.read_time.iter_mut().for_each(|times| {
                if !times.is_empty() {
                    times.resize(granules, 0);
                }
            });
        }
        self.agents.clear();
        self.agents.extend((0..n_warps).map(Agent::Warp));
        for table in [&mut self.last_write, &mut self.last_read] {
            table.clear();
            table.resize(MAX_AGENTS, 0);
        }
        self.read_time.resize(MAX_AGENTS, Vec::new());
        self.mbarriers.clear();
        self.mbarrier_range = (usize::MAX, 0);
    }

    /// The latest time of any access.
    pub fn latest(&self) -> u32 {
        self.last_write.iter().chain(&self.last_read).max().copied().unwrap_or(0)
    }

    /// The number of an agent, assigned at its first access.
    pub fn agent(&mut self, agent: Agent) -> Run<u8> {
        if let Some(index) = self.agents.iter().position(|known| *known == agent) {
            return Ok(index as u8);
        }
        if self.agents.len() == MAX_AGENTS {
            let what = format!("more than {MAX_AGENTS} warps, mbarriers and kinds of copies at work in a block");
            return Err(Trouble::warp(FaultKind::Operand, what));
        }
        self.agents.push(agent);
        Ok(self.agents.len() as u8 - 1)
    }

    /// Checks bounds and alignment.
    #[inline]
    pub fn place(&self, address: u64, n: usize) -> Result<usize, (FaultKind, String)> {
        let at = address as usize;
        if address & (n as u64 - 1) != 0 {
            return Err((FaultKind::Misaligned, format!("{n} bytes at shared {address:#x}")));
        }
        self.span(at, n)
    }

    /// Checks bounds.
    pub fn span(&self, at: usize, n: usize) -> Result<usize, (FaultKind, String)> {
        if at < self.base || at.saturating_add(n) > self.bytes {
            let what = format!("{n} bytes at shared {at:#x}, which lies in {:#x}..{:#x}", self.base, self.bytes);
            return Err((FaultKind::OutOfBounds, what));
        }
        Ok(at)
    }

    pub fn set_mbarriers(&mut self, addresses: impl Iterator<Item = usize>) {
        self.mbarriers.clear();
        self.mbarriers.extend(addresses);
        let (low, high) = (self.mbarriers.iter().min(), self.mbarriers.iter().max());
        self.mbarrier_range = (low.copied().unwrap_or(usize::MAX), high.map_or(0, |last| last + 8));
    }

    /// Up to 16 bytes inside one chunk of 16.
    #[inline]
    pub fn load(&self, at: usize, n: usize) -> Chunk {
        let mut bytes = [0; 16];
        bytes[..n].copy_from_slice(&self.data[at..at + n]);
        Chunk::from_bytes(&bytes, self.written[at / 16] >> (at % 16) & byte_bits(n))
    }

    #[inline]
    pub fn store(&mut self, at: usize, n: usize, chunk: &Chunk) {
        self.data[at..at + n].copy_from_slice(&chunk.bytes()[..n]);
        let bits = byte_bits(n) << (at % 16);
        let cell = &mut self.written[at / 16];
        *cell = *cell & !bits | (chunk.written << (at % 16)) & bits;
    }

    /// Fast path: reads up to 512 bytes through the generic proxy. Less than a word is in the low bits. Returns false, without
    /// effects, if a byte is unwritten, out of bounds or in a race.
    #[inline]
    pub fn load_row(&mut self, by: &Access, at: usize, n: usize, words: &mut [u32]) -> bool {
        let whole = self.span(at, n).is_ok() && self.is_written(at, n);
        if !whole || self.news(by).writes && self.check_writer(by, at, n, "read").is_err() {
            return false;
        }
        self.stamp_read(by, at, n);
        let data = &self.data[at..at + n];
        if n < 4 {
            words[0] = data.iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte));
            return true;
        }
        for (word, bytes) in words.iter_mut().zip(data.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        true
    }

    /// Fast path: writes words through the generic proxy to an aligned address. Returns false, without effects, if a word is out
    /// of bounds or in a race.
    #[inline]
    pub fn store_row(&mut self, by: &Access, at: usize, words: &[u32]) -> bool {
        let n = 4 * words.len();
        if self.span(at, n).is_err() {
            return false;
        }
        let news = self.news(by);
        if self.note_write(by, news, at, n).is_err() {
            return false;
        }
        for (bytes, word) in self.data[at..at + n].chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let mut place = at;
        while place < at + n {
            let part = (16 - place % 16).min(at + n - place);
            self.written[place / 16] |= byte_bits(part) << (place % 16);
            place += part;
        }
        true
    }

    /// Whether all bytes were written.
    #[inline]
    fn is_written(&self, at: usize, n: usize) -> bool {
        let (first, last) = (at / 16, (at + n - 1) / 16);
        let head = u16::MAX << (at % 16);
        let tail = u16::MAX >> (15 - (at + n - 1) % 16);
        if first == last {
            let bits = head & tail;
            return self.written[first] & bits == bits;
        }
        let ends = (self.written[first] | !head) & (self.written[last] | !tail);
        self.written[first + 1..last].iter().fold(ends, |all, chunk| all & chunk) == u16::MAX
    }

    /// Whether there are writes, and reads, that are not ordered before the access.
    #[inline]
    pub fn news(&self, by: &Access) -> News {
        let n = self.agents.len();
        let known = &by.knows.happened.as_slice()[..n];
        let beyond = |last: &[u32]| {
            let mut any = false;
            for i in 0..n {
                any |= last[i] > known[i] && i != by.agent as usize;
            }
            any
        };
        News { writes: beyond(&self.last_write[..n]), reads: beyond(&self.last_read[..n]) }
    }

    /// Whether there are ordinary stores without a proxy fence before the access.
    pub fn unfenced(&self, by: &Access) -> bool {
        let fenced = by.knows.fenced.as_slice();
        self.agents.iter().enumerate().any(|(i, agent)| agent.is_generic() && self.last_write[i] > fenced[i])
    }

    /// Checks and records a read by the generic proxy.
    #[inline]
    pub fn note_read(&mut self, by: &Access, news: News, at: usize, n: usize) -> Run {
        if news.writes {
            self.check_writer(by, at, n, "read")?;
        }
        self.stamp_read(by, at, n);
        Ok(())
    }

    #[inline]
    pub fn stamp_read(&mut self, by: &Access, at: usize, n: usize) {
        let granules = self.write_time.len();
        let times = &mut self.read_time[by.agent as usize];
        if times.is_empty() {
            times.resize(granules, 0);
        }
        times[at / GRANULE..(at + n).div_ceil(GRANULE)].fill(by.stamp);
        self.last_read[by.agent as usize] = by.stamp;
    }

    /// Checks and records a write by the generic proxy.
    #[inline]
    pub fn note_write(&mut self, by: &Access, news: News, at: usize, n: usize) -> Run {
        if news.writes {
            self.check_writer(by, at, n, "written")?;
        }
        if news.reads {
            self.check_readers(by, at, n)?;
        }
        let near = at < self.mbarrier_range.1 && at + n > self.mbarrier_range.0;
        if near && self.mbarriers.iter().any(|barrier| at < barrier + 8 && at + n > *barrier) {
            let what = format!("an ordinary store to shared {at:#x}, which holds an mbarrier");
            return Err(Trouble::warp(FaultKind::Barrier, what));
        }
        self.stamp_write(by, at, n);
        Ok(())
    }

    #[inline]
    pub fn stamp_write(&mut self, by: &Access, at: usize, n: usize) {
        let range = at / GRANULE..(at + n).div_ceil(GRANULE);
        self.writer[range.clone()].fill(by.agent);
        self.write_time[range].fill(by.stamp);
        self.last_write[by.agent as usize] = by.stamp;
    }

    /// Every write to the bytes must be ordered before the access.
    pub fn check_writer(&self, by: &Access, at: usize, n: usize, verb: &str) -> Run {
        let known = &by.knows.happened;
        for granule in at / GRANULE..(at + n).div_ceil(GRANULE) {
            let writer = self.writer[granule];
            if writer != by.agent && self.write_time[granule] > known.get(writer) {
                let who = self.agents[writer as usize].describe();
                let what = format!("shared {:#x} is {verb} while {who} writes it", granule * GRANULE);
                return Err(Trouble::warp(FaultKind::Race, what));
            }
        }
        Ok(())
    }

    /// Every read of the bytes must be ordered before the access.
    pub fn check_readers(&self, by: &Access, at: usize, n: usize) -> Run {
        let known = &by.knows.happened;
        for (reader, last) in self.last_read[..self.agents.len()].iter().enumerate() {
            if reader == by.agent as usize || *last <= known.get(reader as u8) {
                continue;
            }
            let range = at / GRANULE..(at + n).div_ceil(GRANULE);
            if let Some(i) = self.read_time[reader][range.clone()].iter().position(|t| *t > known.get(reader as u8)) {
                let who = self.agents[reader].describe();
                let what = format!("shared {:#x} is written while {who} reads it", (range.start + i) * GRANULE);
                return Err(Trouble::warp(FaultKind::Race, what));
            }
        }
        Ok(())
    }

    /// Ordinary stores to the bytes must be followed by a proxy fence.
    pub fn check_fence(&self, by: &Access, at: usize, n: usize, verb: &str) -> Run {
        let fenced = &by.knows.fenced;
        for granule in at / GRANULE..(at + n).div_ceil(GRANULE) {
            let writer = self.writer[granule];
            let generic = self.agents.get(writer as usize).is_some_and(|agent| agent.is_generic());
            if generic && self.write_time[granule] > fenced.get(writer) {
                let who = self.agents[writer as usize].describe();
                let what = format!(
                    "shared {:#x}, stored by {who}, is {verb} by the async proxy without fence.proxy.async",
                    granule * GRANULE
                );
                return Err(Trouble::warp(FaultKind::MissingProxyFence, what));
            }
        }
        Ok(())
    }
}

/// Whether there are unordered accesses, so that granules must be checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct News {
    pub writes: bool,
    pub reads: bool,
}

impl News {
    pub const NONE: News = News { writes: false, reads: false };
}
