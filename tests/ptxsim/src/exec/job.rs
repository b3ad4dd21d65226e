//! Asynchronous copies in flight: they run immediately, at a random time, or when a wait forces them.

use std::sync::Arc;

use super::{Block, Env};
use crate::fault::{FaultKind, Place, Run, Trouble};
use crate::isa::access::bad;
use crate::memory::order::Knowledge;
use crate::memory::shared::Access;
use crate::memory::{Chunk, byte_bits};
use crate::tensor_map::{Swizzle, TensorMap};

/// The mbarrier of a load, and the phase in which it was issued.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    pub barrier: usize,
    pub phase: u32,
}

/// `cp.async` of one lane: shared address, global address, bytes, bytes read (the others are zero).
pub(crate) type Piece = (usize, u64, usize, usize);

#[derive(Debug)]
pub(crate) enum What {
    Pieces(Vec<Piece>),
    /// `cp.async.mbarrier.arrive`: arrivals at barriers after the earlier `cp.async` of the warp.
    Arrive(Vec<usize>),
    Load {
        to: usize,
        from: u64,
        bytes: usize,
        report: Report,
    },
    LoadBox {
        to: usize,
        map: Arc<TensorMap>,
        at: Vec<i32>,
        report: Report,
    },
    Store {
        to: u64,
        from: usize,
        bytes: usize,
    },
    StoreBox {
        map: Arc<TensorMap>,
        at: Vec<i32>,
        from: usize,
    },
    /// `cp.reduce.async.bulk … .add.f32`
    AddFloats {
        to: u64,
        from: usize,
        bytes: usize,
    },
}

#[derive(Debug)]
pub(crate) struct Job {
    pub what: What,
    /// Agent, time and clocks for the race checks.
    pub agent: u8,
    pub stamp: u32,
    pub knows: Arc<Knowledge>,
    /// The issuing thread. Waits for bulk groups are per thread.
    pub place: Place,
}

/// When asynchronous work completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Haste {
    AtOnce,
    Sometime,
    WhenForced,
}

/// Bytes per access of a bulk copy.
const CHUNK: usize = 16;

impl Block {
    pub fn issue(&mut self, env: &Env, job: Job) -> Run {
        if self.haste == Haste::AtOnce || self.haste == Haste::Sometime && self.rng.one_in(4) {
            return self.run_job(env, job);
        }
        self.pending.push(job);
        Ok(())
    }

    /// Completes a random copy. False if none is in flight.
    pub fn run_any_job(&mut self, env: &Env) -> Run<bool> {
        if self.pending.is_empty() {
            return Ok(false);
        }
        let index = self.rng.below(self.pending.len());
        let job = self.pending.swap_remove(index);
        self.run_job(env, job)?;
        Ok(true)
    }

    /// Completes the selected copies.
    pub fn force(&mut self, env: &Env, waited_for: impl Fn(&Job) -> bool) -> Run {
        while let Some(index) = self.pending.iter().position(&waited_for) {
            let job = self.pending.swap_remove(index);
            self.run_job(env, job)?;
        }
        Ok(())
    }

    fn run_job(&mut self, env: &Env, job: Job) -> Run {
        if let What::Arrive(_) = job.what {
            self.force(env, |other| {
                other.agent == job.agent && other.stamp <= job.stamp && matches!(other.what, What::Pieces(_))
            })?;
        }
        let place = job.place;
        self.perform(env, &job).map_err(|mut trouble| {
            trouble.place = Some(place);
            trouble
        })
    }

    fn perform(&mut self, env: &Env, job: &Job) -> Run {
        let by = Access { agent: job.agent, stamp: job.stamp, knows: &job.knows };
        match &job.what {
            What::Pieces(pieces) => {
                let news = self.shared.news(&by);
                let mut hint = 0;
                for (to, from, n, read) in pieces {
                    let chunk = if read == n {
                        env.global.load(&mut hint, *from, *n).map_err(bad(job.place.lane()))?
                    } else {
                        let (mut bytes, mut written) = ([0; 16], byte_bits(16));
                        let forget = |i: usize, known: bool| written &= !(u16::from(!known) << i);
                        env.global.read(*from, &mut bytes[..*read], forget).map_err(bad(job.place.lane()))?;
                        Chunk::from_bytes(&bytes, written)
                    };
                    self.shared.note_write(&by, news, *to, *n)?;
                    self.shared.store(*to, *n, &chunk);
                    self.stats.global_loaded += *read as u64;
                }
            }
            What::Arrive(barriers) => {
                let mut knows = (*job.knows).clone();
                knows.happened.raise(job.agent, job.stamp);
                for address in barriers {
                    self.mbarrier(*address)?.arrive(1, Some(&knows))?;
                }
            }
            What::Load { to, from, bytes, report } => {
                for at in (0..*bytes).step_by(CHUNK) {
                    let chunk = env.global.load(&mut 0, from + at as u64, CHUNK).map_err(bad(job.place.lane()))?;
                    self.write_async(&by, to + at, &chunk)?;
                }
                self.stats.global_loaded += *bytes as u64;
                self.mbarrier(report.barrier)?.complete(*bytes as u32, report.phase)?;
            }
            What::LoadBox { to, map, at, report } => {
                self.load_box(env, &by, *to, map, at).map_err(|mut trouble| {
                    trouble.what.push_str(&format!(" (a box at {at:?} of {:?})", map.dims));
                    trouble
                })?;
                self.stats.global_loaded += map.box_bytes() as u64;
                self.mbarrier(report.barrier)?.complete(map.box_bytes() as u32, report.phase)?;
            }
            What::Store { to, from, bytes } => {
                for at in (0..*bytes).step_by(CHUNK) {
                    let chunk = self.read_async(&by, from + at, CHUNK)?;
                    env.global.store(&mut 0, to + at as u64, CHUNK, &chunk).map_err(bad(job.place.lane()))?;
                }
                self.stats.global_stored += *bytes as u64;
            }
            What::StoreBox { map, at, from } => self.store_box(env, &by, map, at, *from)?,
            What::AddFloats { to, from, bytes } => {
                for at in (0..*bytes).step_by(4) {
                    let chunk = self.read_async(&by, from + at, 4)?;
                    let add =
                        |old: u64| u64::from((f32::from_bits(old as u32) + f32::from_bits(chunk.words[0])).to_bits());
                    let (_, written) =
                        env.global.update(&mut 0, to + at as u64, 4, add).map_err(bad(job.place.lane()))?;
                    if !written || chunk.written != byte_bits(4) {
                        return Err(Trouble::warp(FaultKind::Poison, "a reduction of unwritten memory"));
                    }
                }
                self.stats.global_stored += *bytes as u64;
            }
        }
        Ok(())
    }

    /// Reads up to 16 bytes through the async proxy.
    pub fn read_async(&mut self, by: &Access, at: usize, n: usize) -> Run<Chunk> {
        self.shared.span(at, n).map_err(|(kind, what)| Trouble::warp(kind, what))?;
        if self.shared.news(by).writes {
            self.shared.check_writer(by, at, n, "read")?;
        }
        if self.shared.unfenced(by) {
            self.shared.check_fence(by, at, n, "read")?;
        }
        self.shared.stamp_read(by, at, n);
        Ok(self.shared.load(at, n))
    }

    /// Writes 16 bytes through the async proxy.
    fn write_async(&mut self, by: &Access, at: usize, chunk: &Chunk) -> Run {
        self.shared.span(at, CHUNK).map_err(|(kind, what)| Trouble::warp(kind, what))?;
        let news = self.shared.news(by);
        if self.shared.unfenced(by) {
            self.shared.check_fence(by, at, CHUNK, "written")?;
        }
        self.shared.note_write(by, news, at, CHUNK)?;
        self.shared.store(at, CHUNK, chunk);
        Ok(())
    }

    fn load_box(&mut self, env: &Env, by: &Access, to: usize, map: &TensorMap, at: &[i32]) -> Run {
        let row_bytes = map.box_dims[0] as usize * map.elem.bytes();
        for (row, start) in rows(map, at).into_iter().enumerate() {
            for c in (0..row_bytes).step_by(CHUNK) {
                let chunk = match start {
                    Some(start) => read_row(env, map, start, at[0], c)?,
                    None => Chunk { words: [0; 4], written: byte_bits(CHUNK) },
                };
                self.write_async(by, map.swizzle.apply(to + row * row_bytes + c), &chunk)?;
            }
        }
        Ok(())
    }

    fn store_box(&mut self, env: &Env, by: &Access, map: &TensorMap, at: &[i32], from: usize) -> Run {
        let row_bytes = map.box_dims[0] as usize * map.elem.bytes();
        for (row, start) in rows(map, at).into_iter().enumerate() {
            for c in (0..row_bytes).step_by(CHUNK) {
                let chunk = self.read_async(by, map.swizzle.apply(from + row * row_bytes + c), CHUNK)?;
                let Some(start) = start else { continue };
                let first = i64::from(at[0]) * map.elem.bytes() as i64 + c as i64;
                let end = map.dims[0] as i64 * map.elem.bytes() as i64;
                let bytes = chunk.bytes();
                for i in (0..CHUNK as i64).filter(|i| (0..end).contains(&(first + i))) {
                    let place = (start as i64 + first + i) as u64;
                    let one = Chunk { words: [u32::from(bytes[i as usize]), 0, 0, 0], written: chunk.written >> i & 1 };
                    env.global.store(&mut 0, place, 1, &one).map_err(bad(0))?;
                    self.stats.global_stored += 1;
                }
            }
        }
        Ok(())
    }
}

/// For each row of a box, the address of the first element of its tensor row; `None` outside the tensor.
fn rows(map: &TensorMap, at: &[i32]) -> Vec<Option<u64>> {
    let n_rows: usize = map.box_dims[1..].iter().map(|n| *n as usize).product();
    (0..n_rows)
        .map(|row| {
            let mut rest = row;
            let mut address = map.address;
            for (axis, stride) in map.strides.iter().enumerate() {
                let n = map.box_dims[axis + 1] as usize;
                let index = i64::from(at[axis + 1]) + (rest % n) as i64;
                rest /= n;
                if index < 0 || index as u64 >= map.dims[axis + 1] {
                    return None;
                }
                address += stride * index as u64;
            }
            Some(address)
        })
        .collect()
}

/// 16 bytes of a row at byte `c` of the box; zeros outside the tensor.
fn read_row(env: &Env, map: &TensorMap, start: u64, x: i32, c: usize) -> Run<Chunk> {
    let first = i64::from(x) * map.elem.bytes() as i64 + c as i64;
    let end = map.dims[0] as i64 * map.elem.bytes() as i64;
    let address = start.wrapping_add(first as u64);
    if first >= 0 && first + CHUNK as i64 <= end && address.is_multiple_of(16) {
        return env.global.load(&mut 0, address, CHUNK).map_err(bad(0));
    }
    let (mut bytes, mut written) = ([0u8; CHUNK], byte_bits(CHUNK));
    for i in (0..CHUNK as i64).filter(|i| (0..end).contains(&(first + i))) {
        let chunk = env.global.load(&mut 0, (start as i64 + first + i) as u64, 1).map_err(bad(0))?;
        bytes[i as usize] = chunk.words[0] as u8;
        if chunk.written & 1 == 0 {
            written &= !(1 << i);
        }
    }
    Ok(Chunk::from_bytes(&bytes, written))
}

/// Alignment of a box in shared memory.
pub(crate) fn check_box(map: &TensorMap, address: usize) -> Run {
    let align = if map.swizzle == Swizzle::None { 16 } else { 128 };
    if !address.is_multiple_of(128.max(align)) {
        let what = format!("a box at shared {address:#x}; a multiple of 128 is expected");
        return Err(Trouble::warp(FaultKind::Misaligned, what));
    }
    Ok(())
}
