//! Packs parameters into the bytes of weights.
//!
//! A weight is packed once, at build time, into the [`Layout`] that its kernels read; each parameter is read once. All cores
//! pack; the bytes do not depend on their number. Floating-point weights are written a few panels at a time. An integer weight
//! is [`Quantized`] as a whole: its scales come first in the plan, so the integers stay in memory until the scales are written.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use half::{bf16, f16};
use jamba_plan::format::{ElementOrder, Layout, PartOrder, Transform, Weight, WeightFormat};

use crate::error::CodegenError;
use crate::loss::{Loss, PartLosses, Sums};

mod feedback;
mod quantized;

pub use feedback::{BLOCK, Moments};
pub use quantized::Quantized;

/// A source of parameters: a bound checkpoint.
pub trait ParameterSource: Sync {
    /// Reads rows `first_row … first_row + n_rows` of matrix `group` of a parameter, widened to f32, in row-major order.
    ///
    /// A parameter has the shape \[groups, n, k\]: stacked experts, outputs, inputs; a vector has k = 1. `out` holds n_rows · k
    /// elements.
    fn read_rows(&self, parameter: &str, group: u64, first_row: u64, n_rows: u64, out: &mut [f32]) -> io::Result<()>;

    /// Reads rows from `first_row` on that the checkpoint stores in this format, without rounding: the integers, or the bits of the
    /// E4M3 numbers, and the scales, one for each [`shared_inputs`](jamba_plan::quantize::shared_inputs) of a row. Returns false if the
    /// checkpoint does not store them so.
    ///
    /// # Errors
    /// A number that is NaN.
    fn read_quantized(
        &self,
        _format: WeightFormat,
        _parameter: &str,
        _group: u64,
        _first_row: u64,
        _q: &mut [i8],
        _scales: &mut [f32],
    ) -> io::Result<bool> {
        Ok(false)
    }

    /// The second moments of the inputs of matrix `group` of a parameter. With them, integers are packed with error feedback;
    /// without, they are rounded to nearest.
    fn moments(&self, _parameter: &str, _group: u64) -> Option<Arc<Moments>> {
        None
    }
}

/// Whether packing measures the rounding error of each parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Nothing,
    Loss,
}

/// Writes packed weights in order, each at its offset, with zeros in between. Calls `progress` with the number of bytes written
/// after each weight. Returns that number and the losses of the parameters with a nonzero loss.
///
/// # Errors
/// A parameter cannot be read, a value to be quantized is not finite, or a write fails.
pub fn pack_all(
    source: &dyn ParameterSource,
    weights: &[Weight],
    out: &mut dyn Write,
    measure: Measure,
    mut progress: impl FnMut(u64),
) -> Result<(u64, Vec<Loss>), CodegenError> {
    let mut at = 0;
    let mut losses = Vec::new();
    // Integers whose scales were just written.
    let mut integers = None;
    for (index, weight) in weights.iter().enumerate() {
        write_zeros(out, weight.offset - at)?;
        let written = match (weight.transform, integers.take()) {
            (Transform::Scale(_), _) => {
                let Quantized { values, scales, loss } = Quantized::read(source, &weights[index + 1], measure)?;
                integers = Some(values);
                losses.extend(loss);
                write(weight, out, &scales)?
            }
            (_, Some(values)) => write(weight, out, &values)?,
            (_, None) if weight.format.scales().is_some() => {
                let Quantized { values, loss, .. } = Quantized::read(source, weight, measure)?;
                losses.extend(loss);
                write(weight, out, &values)?
            }
            (_, None) => {
                let mut measured = PartLosses::of(weight, measure);
                let written = pack_floats(source, weight, out, measured.as_mut())?;
                losses.extend(measured.map_or_else(Vec::new, PartLosses::finish));
                written
            }
        };
        assert_eq!(written, weight.bytes, "weight {:?} is as long as planned", weight.parts);
        at = weight.offset + written;
        progress(at);
    }
    Ok((at, losses))
}

/// Writes zeros as padding between and after weights.
pub(crate) fn write_zeros(out: &mut dyn Write, bytes: u64) -> Result<(), CodegenError> {
    io::copy(&mut io::Read::take(io::repeat(0), bytes), out)
        .map(|_| ())
        .map_err(|source| CodegenError::Pack { parameter: "padding".into(), source })
}

fn write(weight: &Weight, out: &mut dyn Write, bytes: &[u8]) -> Result<u64, CodegenError> {
    let parameter = || weight.parts.first().map_or_else(String::new, |part| part.parameter.clone());
    out.write_all(bytes).map_err(|source| CodegenError::Pack { parameter: parameter(), source })?;
    Ok(bytes.len() as u64)
}

/// Writes a packed floating-point weight including padding, and returns its length in bytes.
///
/// # Errors
/// A parameter cannot be read, or a write fails.
pub fn pack(source: &dyn ParameterSource, weight: &Weight, out: &mut dyn Write) -> Result<u64, CodegenError> {
    pack_floats(source, weight, out, None)
}

fn pack_floats(
    source: &dyn ParameterSource,
    weight: &Weight,
    out: &mut dyn Write,
    mut measured: Option<&mut PartLosses<'_>>,
) -> Result<u64, CodegenError> {
    let Layout { k, lanes, order, .. } = weight.layout;
    let row = k as usize;
    // Row-major layouts and vectors have tiny panels: process many at a time if they are adjacent.
    let panels_at_once = match weight.order {
        PartOrder::Stacked => (16384 / (k * lanes)).max(1),
        PartOrder::Interleaved => 1,
    };
    let stored_row = match order {
        ElementOrder::Panels => row,
        ElementOrder::Rows { stride, .. } => stride as usize,
    };
    let measures = measured.is_some();
    let pack = |(rows, panels): &mut (Vec<f32>, Vec<f32>), run: &Run<'_>| {
        rows.resize((panels_at_once * lanes) as usize * row, 0.0);
        panels.resize((panels_at_once * lanes) as usize * stored_row, 0.0);
        let taken = &mut rows[..run.n_rows as usize * row];
        if run.n_rows > 0 {
            source.read_rows(run.parameter, run.group, run.first_row, run.n_rows, taken)?;
        }
        let mut sums = Sums::default();
        if measures {
            taken.iter().for_each(|&w| sums.add(w, round(weight.format, w)));
        }
        check_range(weight.format, taken)?;
        apply(weight.transform, taken);
        let n_stored = run.n_rows.max(1).next_multiple_of(lanes) as usize;
        let stored = &mut panels[..n_stored * stored_row];
        match order {
            ElementOrder::Panels => transpose_panels(taken, stored, row, lanes as usize),
            ElementOrder::Rows { .. } => pad_rows(taken, stored, row, stored_row),
        }
        let mut bytes = Vec::new();
        encode(weight.format, stored, &mut bytes);
        Ok((bytes, sums))
    };
    let mut written = 0;
    each_packed(weight, panels_at_once, pack, |run, (bytes, sums)| {
        if let Some(measured) = &mut measured {
            measured.add(run.part, sums);
        }
        written += bytes.len() as u64;
        out.write_all(&bytes)
    })?;
    Ok(written)
}

/// Rows of one part of a weight that are packed together.
pub(crate) struct Run<'a> {
    /// Index of the part.
    pub part: usize,
    pub parameter: &'a str,
    pub group: u64,
    /// First row in the parameter.
    pub first_row: u64,
    /// 0 for a panel of padding.
    pub n_rows: u64,
}

/// The runs of a weight, of at most `panels_at_once` panels, in storage order.
fn runs(weight: &Weight, panels_at_once: u64) -> impl Iterator<Item = Run<'_>> {
    let lanes = weight.layout.lanes;
    let n_panels = weight.layout.panels();
    let (mut group, mut panel) = (0, 0);
    std::iter::from_fn(move || {
        if panel >= n_panels {
            (group, panel) = (group + 1, 0);
        }
        if group >= weight.layout.groups || n_panels == 0 {
            return None;
        }
        let (index, first_row) = weight.part_of_panel(panel);
        let part = &weight.parts[index];
        let n_rows = (panels_at_once * lanes).min(part.rows.saturating_sub(first_row));
        panel += n_rows.div_ceil(lanes).max(1);
        Some(Run { part: index, parameter: &part.parameter, group, first_row: part.first_row + first_row, n_rows })
    })
}

/// Cores that this process may use. The system reads files to count them.
fn n_cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, |cores| cores.get()))
}

/// Values that the cores pack between two writes.
const BATCH: u64 = 1 << 22;

/// Packs the runs of a weight on all cores, each with scratch memory of its own, and takes the results in storage order.
pub(crate) fn each_packed<S: Default, T: Send>(
    weight: &Weight,
    panels_at_once: u64,
    pack: impl Fn(&mut S, &Run<'_>) -> io::Result<T> + Sync,
    mut take: impl FnMut(&Run<'_>, T) -> io::Result<()>,
) -> Result<(), CodegenError> {
    let of_run = (panels_at_once * weight.layout.lanes * weight.layout.k).max(1);
    let runs: Vec<Run<'_>> = runs(weight, panels_at_once).collect();
    let n_threads = n_cores();
    for batch in runs.chunks((n_threads as u64 * BATCH / of_run).max(1) as usize) {
        let share = batch.len().div_ceil(n_threads);
        let pack_share = |runs: &[Run<'_>]| {
            let mut scratch = S::default();
            runs.iter().map(|run| pack(&mut scratch, run)).collect::<Vec<_>>()
        };
        let pack_share = &pack_share;
        let packed: Vec<io::Result<T>> = match n_threads.min(batch.len()) {
            1 => pack_share(batch),
            _ => std::thread::scope(|scope| {
                let shares: Vec<_> = batch.chunks(share).map(|runs| scope.spawn(move || pack_share(runs))).collect();
                let joined = shares.into_iter().map(|share| share.join());
                joined.flat_map(|share| share.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
            }),
        };
        for (run, packed) in batch.iter().zip(packed) {
            let error = |source| CodegenError::Pack { parameter: run.parameter.to_owned(), source };
            packed.and_then(|packed| take(run, packed)).map_err(error)?;
        }
    }
    Ok(())
}

/// Refuses values that a format would round to infinity.
fn check_range(format: WeightFormat, values: &[f32]) -> io::Result<()> {
    // Halfway from the format's largest number to the power of two above it.
    let limit = match format {
        WeightFormat::Bf16 => f32::from_bits(0x7f7f_8000),
        WeightFormat::F16 => 65520.0,
        _ => return Ok(()),
    };
    // Without an early exit, so that the compiler vectorises it.
    if values.iter().fold(true, |all, value| all & (value.abs() < limit)) {
        return Ok(());
    }
    let largest = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    let name = format.name();
    Err(io::Error::other(format!("found a weight of {largest:e}, which {name} cannot hold: build with --weights f32")))
}

/// Rounds a value to a format.
pub(crate) fn round(format: WeightFormat, value: f32) -> f32 {
    match format {
        WeightFormat::Bf16 => bf16::from_f32(value).to_f32(),
        WeightFormat::F16 => f16::from_f32(value).to_f32(),
        _ => value,
    }
}

fn apply(transform: Transform, values: &mut [f32]) {
    match transform {
        Transform::None | Transform::Scale(_) => {}
        Transform::DecayRate => {
            for value in values {
                *value = (-f64::from(*value).exp() * std::f64::consts::LOG2_E) as f32;
            }
        }
    }
}

/// Rows of k elements → panels `[k][lanes]` of `lanes` rows each, zero-padded.
fn transpose_panels(rows: &[f32], panels: &mut [f32], k: usize, lanes: usize) {
    if lanes == 1 {
        panels.copy_from_slice(rows);
        return;
    }
    for (panel, rows) in panels.chunks_exact_mut(k * lanes).zip(rows.chunks(k * lanes)) {
        let n_rows = rows.len() / k;
        for (j, column) in panel.chunks_exact_mut(lanes).enumerate() {
            for (lane, value) in column.iter_mut().enumerate() {
                *value = if lane < n_rows { rows[lane * k + j] } else { 0.0 };
            }
        }
    }
}

/// Rows of k elements → rows of `stride` elements, zero-padded.
fn pad_rows(rows: &[f32], stored: &mut [f32], k: usize, stride: usize) {
    stored.fill(0.0);
    for (stored, row) in stored.chunks_exact_mut(stride).zip(rows.chunks_exact(k)) {
        stored[..k].copy_from_slice(row);
    }
}

fn encode(format: WeightFormat, values: &[f32], bytes: &mut Vec<u8>) {
    bytes.clear();
    match format {
        WeightFormat::Bf16 => bytes.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes())),
        WeightFormat::F16 => bytes.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes())),
        WeightFormat::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        WeightFormat::Int8 | WeightFormat::Int4 | WeightFormat::Int3 | WeightFormat::Fp8 => {
            unreachable!("these are quantized")
        }
    }
}

#[cfg(test)]
mod tests;
