//! Uploads weights from the mapped plan, or draws them on the host, in pieces. Host memory never holds all of them.

use jamba_plan::format::Weight;
use jamba_plan::synthetic;

use super::driver::{Driver, DriverError};
use crate::options::{Listener, report_bytes};

/// Bytes that are drawn or copied at a time.
const CHUNK_BYTES: usize = 1 << 25;

/// Bytes that a thread draws at a time, rounded to whole panels.
const SHARE_BYTES: usize = 1 << 19;

/// Uploads the plan's weights to address `to`.
pub(super) fn copy(driver: &mut dyn Driver, to: u64, weights: &[u8], listen: Listener<'_>) -> Result<(), DriverError> {
    let mut done = 0;
    for chunk in weights.chunks(CHUNK_BYTES) {
        driver.upload(to + done, chunk)?;
        done += chunk.len() as u64;
        report_bytes(listen, "copying weights", done, weights.len() as u64);
    }
    Ok(())
}

/// Draws every weight and uploads it to address `to` plus its offset. Draws the next piece while one is uploaded.
pub(super) fn draw(
    driver: &mut dyn Driver,
    to: u64,
    (weights, seed): (&[Weight], u64),
    (n_threads, listen): (Option<usize>, Listener<'_>),
) -> Result<(), DriverError> {
    let n_threads = n_threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |cores| cores.get()));
    let total = weights.last().map_or(0, |last| last.offset + last.bytes);
    let mut pieces = weights.iter().flat_map(pieces);
    let (mut drawn, mut drawing) = (Vec::new(), Vec::new());
    let mut current = pieces.next();
    if let Some(first) = &current {
        first.draw(seed, n_threads, &mut drawn);
    }
    while let Some(piece) = current {
        let next = pieces.next();
        std::thread::scope(|scope| {
            if let Some(next) = &next {
                scope.spawn(|| next.draw(seed, n_threads, &mut drawing));
            }
            driver.upload(to + piece.at(), &drawn)
        })?;
        report_bytes(listen, "drawing weights", piece.at() + drawn.len() as u64, total);
        std::mem::swap(&mut drawn, &mut drawing);
        current = next;
    }
    Ok(())
}

/// Panels of a weight that are drawn and uploaded together.
struct Piece<'a> {
    weight: &'a Weight,
    first: usize,
    n: usize,
}

/// The pieces of a weight.
fn pieces(weight: &Weight) -> impl Iterator<Item = Piece<'_>> {
    let panel_bytes = weight.layout.panel_bytes(weight.format);
    let n_panels = weight.bytes as usize / panel_bytes;
    let at_once = (CHUNK_BYTES / panel_bytes).max(1);
    (0..n_panels).step_by(at_once).map(move |first| Piece { weight, first, n: at_once.min(n_panels - first) })
}

impl Piece<'_> {
    fn panel_bytes(&self) -> usize {
        self.weight.layout.panel_bytes(self.weight.format)
    }

    /// Offset of the piece in the weights, in bytes.
    fn at(&self) -> u64 {
        self.weight.offset + (self.first * self.panel_bytes()) as u64
    }

    /// Draws the piece in shares that threads take from a queue.
    fn draw(&self, seed: u64, n_threads: usize, out: &mut Vec<u8>) {
        out.resize(self.n * self.panel_bytes(), 0);
        let of_share = (SHARE_BYTES / self.panel_bytes()).max(1);
        let shares = out.chunks_mut(of_share * self.panel_bytes());
        let n_threads = n_threads.min(shares.len());
        let shares = std::sync::Mutex::new(shares.enumerate());
        let next = || shares.lock().ok().and_then(|mut shares| shares.next());
        let work = || {
            while let Some((index, share)) = next() {
                synthetic::fill_panels(self.weight, seed, (self.first + index * of_share) as u64, share);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..n_threads {
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
    }
}
