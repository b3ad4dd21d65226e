//! Weights on their way to the device: out of the mapped plan, or drawn on the host, piece by piece. No copy of all of them is
//! ever in the host's memory.

use jamba_plan::format::Weight;
use jamba_plan::synthetic;

use super::driver::{Driver, DriverError};
use crate::{Progress, Unit};

/// Bytes that are drawn or copied at once.
const CHUNK_BYTES: usize = 1 << 25;

/// Bytes that a thread draws at once, in whole panels.
const SHARE_BYTES: usize = 1 << 19;

/// Told how far the work is.
pub(super) type Listener<'a> = Option<&'a (dyn Fn(Progress) + Sync)>;

/// Copies the weights of the plan to `to`.
pub(super) fn copy(driver: &mut dyn Driver, to: u64, weights: &[u8], listen: Listener<'_>) -> Result<(), DriverError> {
    let mut done = 0;
    for chunk in weights.chunks(CHUNK_BYTES) {
        driver.upload(to + done, chunk)?;
        done += chunk.len() as u64;
        tell(listen, "copying weights", done, weights.len() as u64);
    }
    Ok(())
}

/// Draws every weight and copies it to `to` and its offset.
pub(super) fn draw(
    driver: &mut dyn Driver,
    to: u64,
    (weights, seed): (&[Weight], u64),
    (n_threads, listen): (Option<usize>, Listener<'_>),
) -> Result<(), DriverError> {
    let n_threads = n_threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |cores| cores.get()));
    let total = weights.last().map_or(0, |last| last.offset + last.bytes);
    let mut buffer = Vec::new();
    for weight in weights {
        let panel_bytes = weight.layout.panel_bytes(weight.format);
        let n_panels = weight.bytes as usize / panel_bytes;
        let at_once = (CHUNK_BYTES / panel_bytes).max(1);
        for first in (0..n_panels).step_by(at_once) {
            let n = at_once.min(n_panels - first);
            buffer.resize(n * panel_bytes, 0);
            draw_panels((weight, seed), first as u64, n_threads, &mut buffer);
            let at = weight.offset + (first * panel_bytes) as u64;
            driver.upload(to + at, &buffer)?;
            tell(listen, "drawing weights", at + buffer.len() as u64, total);
        }
    }
    Ok(())
}

/// Draws whole panels of a weight from panel `first` on, in shares that the threads take one after another.
fn draw_panels((weight, seed): (&Weight, u64), first: u64, n_threads: usize, out: &mut [u8]) {
    let panel_bytes = weight.layout.panel_bytes(weight.format);
    let of_share = (SHARE_BYTES / panel_bytes).max(1);
    let shares = std::sync::Mutex::new(out.chunks_mut(of_share * panel_bytes).enumerate());
    let next = || shares.lock().ok().and_then(|mut shares| shares.next());
    let work = || {
        while let Some((index, share)) = next() {
            synthetic::fill_panels(weight, seed, first + (index * of_share) as u64, share);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..n_threads {
            scope.spawn(work);
        }
        work();
    });
}

fn tell(listen: Listener<'_>, what: &'static str, done: u64, total: u64) {
    if let Some(listen) = listen {
        listen(Progress { what, done, total, unit: Unit::Bytes });
    }
}
