//! Packs integers and scales from a single read of the parameters.

use std::io;

use jamba_plan::format::{ElementOrder, Weight, WeightFormat};
use jamba_plan::quantize::{self, GROUP};

use super::{Measure, ParameterSource, Run, each_run, encode, pad_rows, transpose_panels};
use crate::error::CodegenError;
use crate::loss::{Loss, PartLosses};

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
        let (mut rows, mut panel) = (Rows::default(), vec![0; layout.panel_bytes(weight.format)]);
        let scale_layout = layout.scales(weight.format);
        let mut scale_panel = vec![0f32; scale_layout.map_or(0, |(layout, _)| (layout.k * layout.lanes) as usize)];
        let mut bytes = Vec::new();
        each_run(weight, 1, |run| {
            rows.read(source, weight, &run)?;
            if let Some(losses) = &mut losses {
                rows.measure(losses, weight, run.part);
            }
            panel.fill(0);
            for (lane, q) in rows.q.chunks_exact(layout.k as usize).enumerate() {
                quantize::place_in(&layout, weight.format, q, lane, &mut panel);
            }
            quantized.values.extend_from_slice(&panel);
            if let Some((layout, format)) = scale_layout {
                let (per_row, lanes) = (layout.k as usize, layout.lanes as usize);
                match layout.order {
                    ElementOrder::Panels => transpose_panels(&rows.scales, &mut scale_panel, per_row, lanes),
                    ElementOrder::Rows { .. } => pad_rows(&rows.scales, &mut scale_panel, per_row, per_row),
                }
                encode(format, &scale_panel, &mut bytes);
                quantized.scales.extend_from_slice(&bytes);
            }
            Ok(panel.len() as u64)
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
}

impl Rows {
    /// Reads the rows of a run. Uses the checkpoint's integers if it stores them and the format is int8; otherwise quantizes.
    fn read(&mut self, source: &dyn ParameterSource, weight: &Weight, run: &Run<'_>) -> io::Result<()> {
        let (k, n_rows) = (weight.layout.k as usize, run.n_rows as usize);
        self.values.clear();
        self.q.clear();
        self.q.resize(n_rows * k, 0);
        self.scales.clear();
        if n_rows == 0 {
            return Ok(());
        }
        if weight.format == WeightFormat::Int8 {
            self.scales.resize(n_rows, 0.0);
            if source.read_int8(run.parameter, run.group, run.first_row, &mut self.q, &mut self.scales) {
                return Ok(());
            }
            self.scales.clear();
        }
        self.values.resize(n_rows * k, 0.0);
        source.read_rows(run.parameter, run.group, run.first_row, run.n_rows, &mut self.values)?;
        if let Some(at) = self.values.iter().position(|value| !value.is_finite()) {
            let (row, column) = (run.first_row as usize + at / k, at % k);
            let message = format!("row {row}, column {column} is {}, expected a finite number", self.values[at]);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        for (row, q) in self.values.chunks_exact(k).zip(self.q.chunks_exact_mut(k)) {
            let scales = quantize::row_scales(weight.format, row);
            quantize::row(weight.format, row, &scales, q);
            self.scales.extend(scales);
        }
        Ok(())
    }

    /// The checkpoint's integers are lossless; all others are compared with the values.
    fn measure(&self, losses: &mut PartLosses<'_>, weight: &Weight, part: usize) {
        let k = weight.layout.k as usize;
        let per_row = self.scales.len() * k / self.q.len().max(1);
        let shared = if per_row == 1 { k } else { GROUP };
        for (index, (&w, &q)) in self.values.iter().zip(&self.q).enumerate() {
            losses.add(part, w, f32::from(q) * self.scales[index / k * per_row + index % k / shared]);
        }
    }
}
