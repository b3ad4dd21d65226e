//! Weights: mapped where they lie in the plan, or drawn where the plan has a seed instead.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use jamba_plan::Plan;
use jamba_plan::format::{Program, ProgramInfo, Weight};
use jamba_plan::synthetic;
use memmap2::Advice;

use super::memory::Region;
use super::report;
use crate::device::map::PlanFile;
use crate::{Progress, RuntimeError};

/// Bytes that a thread draws at once, in whole panels.
const CHUNK_BYTES: usize = 1 << 19;

/// The packed weights of an open plan.
pub(super) enum Weights {
    /// In the plan's file; at least `SLACK_BYTES` of the file follow them.
    Mapped(Arc<PlanFile>, Range<usize>),
    /// Drawn.
    Synthetic(Region),
}

impl Weights {
    pub(super) fn open(
        plan: &Plan<'_>,
        (info, program): (&ProgramInfo, &Program),
        file: Arc<PlanFile>,
        n_threads: usize,
        progress: Option<&(dyn Fn(Progress) + Sync)>,
    ) -> Result<Weights, RuntimeError> {
        match (plan.weights_range(info.kind), plan.manifest().synthetic_seed) {
            (Some(range), _) => {
                // Only a hint to read ahead: kernels find the pages either way.
                file.advise(Advice::WillNeed, &range);
                Ok(Weights::Mapped(file, range))
            }
            (None, seed) => {
                let mut region = Region::new("weights", info.memory.weights)?;
                if let Some(seed) = seed {
                    draw(&program.weights, seed, region.as_mut_slice(), n_threads, progress);
                }
                Ok(Weights::Synthetic(region))
            }
        }
    }

    /// Address of the first byte.
    pub(super) fn address(&mut self) -> u64 {
        match self {
            Weights::Mapped(file, range) => file.bytes()[range.clone()].as_ptr().expose_provenance() as u64,
            Weights::Synthetic(region) => region.address(),
        }
    }

    /// Reads what is not in memory yet, so that no step has to. Drawn weights were written already.
    pub(super) fn prefault(&self) {
        if let Weights::Mapped(file, range) = self {
            // Systems older than Linux 5.14 lack the advice; there the first steps read them.
            file.advise(Advice::PopulateRead, range);
        }
    }

    /// The region, when the weights are not the file's.
    pub(super) fn region(&self) -> Option<&Region> {
        match self {
            Weights::Mapped(..) => None,
            Weights::Synthetic(region) => Some(region),
        }
    }
}

/// Draws every weight, in parts that the threads take one after another: the values depend on neither.
fn draw(
    weights: &[Weight],
    seed: u64,
    mut out: &mut [u8],
    n_threads: usize,
    progress: Option<&(dyn Fn(Progress) + Sync)>,
) {
    let mut parts = Vec::new();
    let mut at = 0;
    for weight in weights {
        out = &mut std::mem::take(&mut out)[(weight.offset - at) as usize..];
        let (bytes, rest) = std::mem::take(&mut out).split_at_mut(weight.bytes as usize);
        (out, at) = (rest, weight.offset + weight.bytes);
        let panel_bytes = weight.layout.panel_bytes(weight.format);
        let n_panels = (CHUNK_BYTES / panel_bytes).max(1);
        for (index, chunk) in bytes.chunks_mut(n_panels * panel_bytes).enumerate() {
            parts.push((weight, (index * n_panels) as u64, chunk));
        }
    }
    let (total, done) = (at, AtomicU64::new(0));
    let parts = Mutex::new(parts.into_iter());
    let next = || parts.lock().ok().and_then(|mut parts| parts.next());
    let work = |report_progress: bool| {
        while let Some((weight, first, chunk)) = next() {
            synthetic::fill_panels(weight, seed, first, chunk);
            let done = done.fetch_add(chunk.len() as u64, Ordering::Relaxed) + chunk.len() as u64;
            if report_progress {
                report(progress, "drawing weights", done, total);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..n_threads {
            scope.spawn(|| work(false));
        }
        work(true);
    });
}
