//! Packs integers and scales from a single read of the parameters.

use std::io;
use std::sync::Arc;

use jamba_plan::format::{ElementOrder, Weight, WeightFormat};
use jamba_plan::quantize;

use super::feedback::{Feedback, Moments};
use super::{Measure, ParameterSource, Run, each_packed, encode, pad_rows, transpose_panels};
use crate::error::CodegenError;
use crate::loss::{Loss, PartLosses, Sums};

/// A packed integer weight.
pub struct Quantized {
    /// Packed integers, including padding.
    pub values: Vec<u8>,
    /// Packed scales, including padding.
    pub scales: Vec<u8>,
    /// The losses of the parts with a nonzero loss; empty if losses are not measured.
    pub loss: Vec<Loss>,
}

impl Quantized {
    /// Reads and quantizes the parameters of an integer weight. Holds the whole weight in memory.
    ///
    /// # Errors
    /// A parameter cannot be read, or a value is not finite.
    pub fn read(source: &dyn ParameterSource, weight: &Weight, measure: Measure) -> Result<Quantized, CodegenError> {
        let layout = weight.layout;
        let (values, scales) = (Vec::with_capacity(weight.bytes as usize), Vec::new());
        let mut quantized = Quantized { values, scales, loss: Vec::new() };
        let mut losses = PartLosses::of(weight, measure);
        let measures = losses.is_some();
        let scale_layout = layout.scales(weight.format);
        let pack = |rows: &mut Rows, run: &Run<'_>| {
            rows.read(source, weight, run)?;
            let sums = if measures { rows.sums(weight) } else { Sums::default() };
            let mut panel = vec![0; layout.panel_bytes(weight.format)];
            for (lane, q) in rows.q.chunks_exact(layout.k as usize).enumerate() {
                quantize::place_in(&layout, weight.format, q, lane, &mut panel);
            }
            let mut scales = Vec::new();
            if let Some((layout, format)) = scale_layout {
                let (per_row, lanes) = (layout.k as usize, layout.lanes as usize);
                let mut panel = vec![0f32; per_row * lanes];
                match layout.order {
                    ElementOrder::Panels => transpose_panels(&rows.scales, &mut panel, per_row, lanes),
                    ElementOrder::Rows { .. } => pad_rows(&rows.scales, &mut panel, per_row, per_row),
                }
                encode(format, &panel, &mut scales);
            }
            Ok((panel, scales, sums))
        };
        each_packed(weight, 1, pack, |run, (panel, scales, sums)| {
            if let Some(losses) = &mut losses {
                losses.add(run.part, sums);
            }
            quantized.values.extend_from_slice(&panel);
            quantized.scales.extend_from_slice(&scales);
            Ok(())
        })?;
        quantized.loss = losses.map_or_else(Vec::new, PartLosses::finish);
        Ok(quantized)
    }
}

/// Rows of a parameter as integers and scales.
#[derive(Default)]
struct Rows {
    /// The values before quantization; empty if the checkpoint stores integers.
    values: Vec<f32>,
    q: Vec<i8>,
    /// The scales of each row: one, or one per group of inputs.
    scales: Vec<f32>,
    row_scales: Vec<f32>,
    /// The factored moments of the current group's matrices.
    feedback: Vec<(Arc<Moments>, Option<Feedback>)>,
    group: u64,
}

impl Rows {
    /// Reads the rows of a run. Uses the checkpoint's integers or 8-bit floats if it stores the format; otherwise quantizes.
    fn read(&mut self, source: &dyn ParameterSource, weight: &Weight, run: &Run<'_>) -> io::Result<()> {
        let (k, n_rows) = (weight.layout.k as usize, run.n_rows as usize);
        self.values.clear();
        self.q.clear();
        self.q.resize(n_rows * k, 0);
        self.scales.clear();
        if n_rows == 0 {
            return Ok(());
        }
        let shared = weight.layout.shared_inputs(weight.format);
        self.scales.resize(n_rows * k.div_ceil(quantize::shared_inputs(weight.format, k)), 0.0);
        let (q, scales) = (&mut self.q, &mut self.scales);
        if source.read_quantized(weight.format, run.parameter, run.group, run.first_row, q, scales)?
            && one_for_each(&mut self.scales, n_rows, k.div_ceil(shared))
        {
            let scales = &mut self.scales;
            if weight.format == WeightFormat::Int4 {
                // Plans store these scales in bf16, so there is a loss to measure.
                scales.iter_mut().for_each(|scale| *scale = half::bf16::from_f32(*scale).to_f32());
                self.values.resize(n_rows * k, 0.0);
                source.read_rows(run.parameter, run.group, run.first_row, run.n_rows, &mut self.values)?;
            }
            return Ok(());
        }
        self.scales.clear();
        self.values.resize(n_rows * k, 0.0);
        source.read_rows(run.parameter, run.group, run.first_row, run.n_rows, &mut self.values)?;
        if let Some(at) = self.values.iter().position(|value| !value.is_finite()) {
            let (row, column) = (run.first_row as usize + at / k, at % k);
            let message = format!("row {row}, column {column} is {}, expected a finite number", self.values[at]);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let moments = if weight.format.is_integer() { source.moments(run.parameter, run.group) } else { None };
        let feedback = moments.map(|moments| self.feedback_of(moments, run.group));
        let rows = self.values.chunks_exact(k).zip(self.q.chunks_exact_mut(k));
        match feedback.and_then(|at| self.feedback[at].1.as_ref()) {
            Some(feedback) => rows.for_each(|(row, q)| {
                feedback.row(weight.format, row, &mut self.row_scales, q);
                self.scales.extend_from_slice(&self.row_scales);
            }),
            None => rows.for_each(|(row, q)| {
                let scales = quantize::scales_of(weight.format, row, shared);
                quantize::row(weight.format, row, &scales, q);
                self.scales.extend(scales);
            }),
        }
        Ok(())
    }

    /// The index of the factored moments; parts that are read together share them.
    fn feedback_of(&mut self, moments: Arc<Moments>, group: u64) -> usize {
        if self.group != group {
            self.feedback.clear();
            self.group = group;
        }
        let known = self.feedback.iter().position(|(known, _)| Arc::ptr_eq(known, &moments));
        known.unwrap_or_else(|| {
            let factored = Feedback::new(&moments);
            self.feedback.push((moments, factored));
            self.feedback.len() - 1
        })
    }

    /// The checkpoint's integers are lossless; all others are compared with the values.
    fn sums(&self, weight: &Weight) -> Sums {
        let k = weight.layout.k as usize;
        let per_row = self.scales.len() * k / self.q.len().max(1);
        let shared = weight.layout.shared_inputs(weight.format);
        let mut sums = Sums::default();
        for (index, (&w, &q)) in self.values.iter().zip(&self.q).enumerate() {
            let scale = self.scales[index / k * per_row + index % k / shared];
            sums.add(w, quantize::unscaled(weight.format, q) * scale);
        }
        sums
    }
}

/// Reduces the scales of rows to `per_row` for each row. False if a row has more that differ.
fn one_for_each(scales: &mut Vec<f32>, n_rows: usize, per_row: usize) -> bool {
    let found = scales.len() / n_rows;
    if found == per_row {
        return true;
    }
    let is_same = |row: &[f32]| row.iter().all(|scale| *scale == row[0]);
    if per_row != 1 || !scales.chunks_exact(found).all(is_same) {
        return false;
    }
    *scales = scales.iter().step_by(found).copied().collect();
    true
}
