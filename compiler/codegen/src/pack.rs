//! Parameters → packed weight bytes, one panel at a time.
//!
//! A weight is packed once, at build time, into the [`Layout`] that its kernels read; never more than one panel of it is in
//! memory. Integers and their scales are two weights: each is written in a pass of its own over the parameter, which
//! quantizes a panel's rows and keeps one of the two.

use std::io::{self, Write};

use half::{bf16, f16};
use jamba_plan::format::{ElementOrder, Layout, Part, PartOrder, Transform, Weight, WeightFormat};
use jamba_plan::quantize;

use crate::error::CodegenError;

/// Where parameters come from: a bound checkpoint.
pub trait ParameterSource {
    /// Widens rows `first_row … first_row + n_rows` of matrix `group` of a parameter to f32, row after row.
    ///
    /// A parameter is seen as \[groups, n, k\]: stacked experts, outputs, inputs; a vector has k = 1. `out` holds n_rows · k elements.
    fn read_rows(&self, parameter: &str, group: u64, first_row: u64, n_rows: u64, out: &mut [f32]) -> io::Result<()>;

    /// The same rows as the checkpoint's own integers with a scale each, `q` and `scales` as long as they need to be; false
    /// where it stores none.
    fn read_int8(&self, _parameter: &str, _group: u64, _first_row: u64, _q: &mut [i8], _scales: &mut [f32]) -> bool {
        false
    }
}

/// Writes a packed weight that is not of scales, padding included, and returns its length in bytes.
pub fn pack(source: &dyn ParameterSource, weight: &Weight, out: &mut dyn Write) -> Result<u64, CodegenError> {
    match weight.format {
        WeightFormat::Int8 | WeightFormat::Int4 => pack_integers(source, weight, out),
        _ => pack_floats(source, weight, out),
    }
}

fn pack_floats(source: &dyn ParameterSource, weight: &Weight, out: &mut dyn Write) -> Result<u64, CodegenError> {
    let Layout { k, lanes, order, .. } = weight.layout;
    let row = k as usize;
    // Row-major layouts and vectors have tiny panels: take many at a time where they follow each other.
    let panels_at_once = match weight.order {
        PartOrder::Stacked => (16384 / (k * lanes)).max(1),
        PartOrder::Interleaved => 1,
    };
    let stored_row = match order {
        ElementOrder::Panels => row,
        ElementOrder::Rows { stride, .. } => stride as usize,
    };
    let mut rows = vec![0f32; (panels_at_once * lanes) as usize * row];
    let mut panels = vec![0f32; (panels_at_once * lanes) as usize * stored_row];
    let mut bytes = Vec::new();
    each_run(weight, panels_at_once, |part, group, first_row, n_rows| {
        let taken = &mut rows[..n_rows as usize * row];
        if n_rows > 0 {
            source.read_rows(&part.parameter, group, first_row, n_rows, taken)?;
        }
        apply(weight.transform, taken);
        let n_stored = n_rows.max(1).next_multiple_of(lanes) as usize;
        let stored = &mut panels[..n_stored * stored_row];
        match order {
            ElementOrder::Panels => transpose_panels(taken, stored, row, lanes as usize),
            ElementOrder::Rows { .. } => pad_rows(taken, stored, row, stored_row),
        }
        encode(weight.format, stored, &mut bytes);
        out.write_all(&bytes)?;
        Ok(bytes.len() as u64)
    })
}

fn pack_integers(source: &dyn ParameterSource, weight: &Weight, out: &mut dyn Write) -> Result<u64, CodegenError> {
    let layout = weight.layout;
    let mut panel = vec![0; weight.layout.panel_bytes(weight.format)];
    each_run(weight, 1, |part, group, first_row, n_rows| {
        let rows = Quantized::read(source, part, weight, (group, first_row, n_rows))?;
        panel.fill(0);
        for (lane, q) in rows.q.chunks_exact(layout.k as usize).enumerate() {
            quantize::place_in(&layout, weight.format, q, lane, &mut panel);
        }
        out.write_all(&panel)?;
        Ok(panel.len() as u64)
    })
}

/// Writes the scales of a weight of integers, padding included, and returns their length in bytes.
pub fn pack_scales(source: &dyn ParameterSource, integers: &Weight, out: &mut dyn Write) -> Result<u64, CodegenError> {
    let Some((layout, format)) = integers.layout.scales(integers.format) else { return Ok(0) };
    let (per_row, lanes) = (layout.k as usize, layout.lanes as usize);
    let mut panel = vec![0f32; lanes * per_row];
    let mut bytes = Vec::new();
    each_run(integers, 1, |part, group, first_row, n_rows| {
        let rows = Quantized::read(source, part, integers, (group, first_row, n_rows))?;
        match layout.order {
            ElementOrder::Panels => transpose_panels(&rows.scales, &mut panel, per_row, lanes),
            ElementOrder::Rows { .. } => pad_rows(&rows.scales, &mut panel, per_row, per_row),
        }
        encode(format, &panel, &mut bytes);
        out.write_all(&bytes)?;
        Ok(bytes.len() as u64)
    })
}

/// Rows of a parameter as integers and scales.
pub struct Quantized {
    /// Rows of k integers.
    pub q: Vec<i8>,
    /// The scales of each row, one or one per group of inputs.
    pub scales: Vec<f32>,
}

impl Quantized {
    /// Rows of a parameter as a weight's integers, by (group, first row, number of rows): the checkpoint's own where it
    /// stores such, else quantized.
    pub fn read(
        source: &dyn ParameterSource,
        part: &Part,
        weight: &Weight,
        (group, first_row, n_rows): (u64, u64, u64),
    ) -> io::Result<Quantized> {
        let (k, n_rows) = (weight.layout.k as usize, n_rows as usize);
        if n_rows == 0 {
            return Ok(Quantized { q: Vec::new(), scales: Vec::new() });
        }
        let mut q = vec![0; n_rows * k];
        let mut scales = vec![0f32; n_rows];
        if weight.format == WeightFormat::Int8
            && source.read_int8(&part.parameter, group, first_row, &mut q, &mut scales)
        {
            return Ok(Quantized { q, scales });
        }
        let mut rows = vec![0f32; n_rows * k];
        source.read_rows(&part.parameter, group, first_row, n_rows as u64, &mut rows)?;
        if let Some(at) = rows.iter().position(|value| !value.is_finite()) {
            let (row, column) = (first_row as usize + at / k, at % k);
            let message = format!("row {row}, column {column} is {}, expected a finite number", rows[at]);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        scales.clear();
        for (row, q) in rows.chunks_exact(k).zip(q.chunks_exact_mut(k)) {
            let of_row = quantize::row_scales(weight.format, row);
            quantize::row(weight.format, row, &of_row, q);
            scales.extend(of_row);
        }
        Ok(Quantized { q, scales })
    }
}

/// Calls with (part, group, first row of the parameter, number of rows) for each run of at most so many panels of a part, in
/// the order in which they are stored; no rows are a panel of padding. Sums up the bytes that were written.
pub(crate) fn each_run(
    weight: &Weight,
    panels_at_once: u64,
    mut write: impl FnMut(&Part, u64, u64, u64) -> io::Result<u64>,
) -> Result<u64, CodegenError> {
    let lanes = weight.layout.lanes;
    let mut written = 0;
    for group in 0..weight.layout.groups {
        let mut panel = 0;
        while panel < weight.layout.panels() {
            let (part, first_row) = weight.panel(panel);
            let n_rows = (panels_at_once * lanes).min(part.rows.saturating_sub(first_row));
            written += write(part, group, part.first_row + first_row, n_rows)
                .map_err(|source| CodegenError::Pack { parameter: part.parameter.clone(), source })?;
            panel += n_rows.div_ceil(lanes).max(1);
        }
    }
    Ok(written)
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

/// Rows of k elements → panels `[k][lanes]` of `lanes` rows each, missing rows zero.
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

/// Rows of k elements → rows of `stride` elements, what is missing zero.
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
        _ => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
    }
}

#[cfg(test)]
mod tests;
