//! Rounding error of packed weights: parameter values compared with the values that the packed weights represent.

use std::io;

use jamba_plan::format::{Transform, Weight, WeightFormat};
use jamba_plan::quantize;

use crate::error::CodegenError;
use crate::pack::{self, Measure, ParameterSource, pack_all};

/// The loss of the rows of one parameter in one packed weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// Canonical name; the expert's index is `*` if experts are stacked.
    pub parameter: String,
    /// First row and number of rows, per expert if experts are stacked.
    pub rows: (u64, u64),
    pub format: WeightFormat,
    /// Number of values over all experts.
    pub n_values: u64,
    /// max |w|.
    pub largest: f32,
    /// max |w − q|, where q is the packed value of w.
    pub max_error: f32,
    /// ‖w − q‖ / ‖w‖; 0 if all values are 0.
    pub relative_rms: f64,
}

/// The losses of weights in order, without lossless parameters. Packs the weights and discards the bytes;
/// [`link`](crate::link::link()) measures while it writes a plan.
///
/// # Errors
/// A parameter cannot be read, or a value to be quantized is not finite.
pub fn losses(source: &dyn ParameterSource, weights: &[Weight]) -> Result<Vec<Loss>, CodegenError> {
    let (_, losses) = pack_all(source, weights, &mut io::sink(), Measure::Loss, |_| ())?;
    Ok(losses)
}

/// ‖w − q‖² / ‖w‖² of rows that are rounded to nearest; 0 if all values are 0.
pub fn nearest_error(format: WeightFormat, rows: &[Vec<f32>]) -> f64 {
    let mut sums = Sums::default();
    for row in rows {
        if format.scales().is_none() {
            row.iter().for_each(|&w| sums.add(w, pack::round(format, w)));
            continue;
        }
        let scales = quantize::row_scales(format, row);
        let mut q = vec![0; row.len()];
        quantize::row(format, row, &scales, &mut q);
        let shared = quantize::shared_inputs(format, row.len());
        for (at, (&w, &q)) in row.iter().zip(&q).enumerate() {
            sums.add(w, quantize::unscaled(format, q) * scales[at / shared]);
        }
    }
    if sums.squares == 0.0 { 0.0 } else { sums.squared_errors / sums.squares }
}

/// Accumulates the losses of the parts of one weight.
pub(crate) struct PartLosses<'a> {
    weight: &'a Weight,
    sums: Vec<Sums>,
}

impl<'a> PartLosses<'a> {
    /// `None` if losses are not measured or the weight is packed without rounding.
    pub(crate) fn of(weight: &'a Weight, measure: Measure) -> Option<PartLosses<'a>> {
        let is_rounded = weight.transform == Transform::None && weight.format != WeightFormat::F32;
        (measure == Measure::Loss && is_rounded)
            .then(|| PartLosses { weight, sums: vec![Sums::default(); weight.parts.len()] })
    }

    /// Adds the sums of values of a part.
    pub(crate) fn add(&mut self, part: usize, more: Sums) {
        let sums = &mut self.sums[part];
        sums.largest = sums.largest.max(more.largest);
        sums.max_error = sums.max_error.max(more.max_error);
        sums.squares += more.squares;
        sums.squared_errors += more.squared_errors;
    }

    /// The losses of the parts with a nonzero loss.
    pub(crate) fn finish(self) -> Vec<Loss> {
        let Weight { parts, format, layout, .. } = self.weight;
        let lossy = parts.iter().zip(self.sums).filter(|(_, sums)| sums.max_error > 0.0);
        lossy
            .map(|(part, sums)| Loss {
                parameter: part.parameter.clone(),
                rows: (part.first_row, part.rows),
                format: *format,
                n_values: layout.groups * part.rows * layout.k,
                largest: sums.largest,
                max_error: sums.max_error,
                relative_rms: (sums.squared_errors / sums.squares).sqrt(),
            })
            .collect()
    }
}

/// Sums over some values.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sums {
    largest: f32,
    max_error: f32,
    squares: f64,
    squared_errors: f64,
}

impl Sums {
    /// Adds a value w, packed as q.
    pub(crate) fn add(&mut self, w: f32, q: f32) {
        self.largest = self.largest.max(w.abs());
        self.squares += f64::from(w) * f64::from(w);
        if w != q {
            let error = w - q;
            self.max_error = self.max_error.max(error.abs());
            self.squared_errors += f64::from(error) * f64::from(error);
        }
    }
}
