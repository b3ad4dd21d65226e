//! Weights: mapped from the plan, or drawn if the plan has a seed instead (synthetic weights).

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use jamba_plan::Plan;
use jamba_plan::format::{Program, ProgramInfo, Weight};
use jamba_plan::synthetic;
use memmap2::Advice;
use tracing::debug_span;

use super::memory::Region;
use crate::RuntimeError;
use crate::device::map::PlanFile;
use crate::options::{Listener, report_bytes};

/// Bytes that a thread draws at a time, rounded to whole panels.
const CHUNK_BYTES: usize = 1 << 19;

/// The packed weights of an open plan.
pub(super) enum Weights {
    /// A range of the plan's file, followed by at least `SLACK_BYTES`.
    Mapped(Arc<PlanFile>, Range<usize>),
    /// Drawn from the plan's seed.
    Synthetic(Region),
}

impl Weights {
    pub(super) fn open(
        plan: &Plan<'_>,
        (info, program): (&ProgramInfo, &Program),
        file: Arc<PlanFile>,
        n_threads: usize,
        progress: Listener<'_>,
    ) -> Result<Weights, RuntimeError> {
        match (plan.weights_range(info.kind), plan.manifest().synthetic_seed) {
            (Some(range), _) => {
                // A hint to read ahead.
                file.advise(Advice::WillNeed, &range);
                Ok(Weights::Mapped(file, range))
            }
            (None, seed) => {
                let mut region = Region::new("weights", info.memory.weights)?;
                if let Some(seed) = seed {
                    let _draw = debug_span!("draw weights", bytes = info.memory.weights).entered();
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

    /// Makes mapped weights resident. Drawn weights already are.
    pub(super) fn prefault(&self) {
        if let Weights::Mapped(file, range) = self {
            // Before Linux 5.14 the advice does not exist; the first steps read the pages then.
            file.advise(Advice::PopulateRead, range);
        }
    }

    /// The region of drawn weights.
    pub(super) fn region(&self) -> Option<&Region> {
        match self {
            Weights::Mapped(..) => None,
            Weights::Synthetic(region) => Some(region),
        }
    }
}

/// Draws all weights in chunks that threads take from a queue. Values depend neither on chunks nor on threads.
fn draw(weights: &[Weight], seed: u64, mut out: &mut [u8], n_threads: usize, progress: Listener<'_>) {
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
                report_bytes(progress, "drawing weights", done, total);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..n_threads {
            // Fewer threads draw the same values.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || work(false));
        }
        work(true);
    });
}
