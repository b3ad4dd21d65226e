//! What packing loses: the values of parameters against those that their packed weights stand for.
//!
//! Parameters are read and rounded once more, as [`pack`](mod@crate::pack) does it, some panels at a time.

use half::{bf16, f16};
use jamba_plan::format::{Transform, Weight, WeightFormat};
use jamba_plan::quantize::GROUP;

use crate::error::CodegenError;
use crate::pack::{ParameterSource, Quantized, each_run};

/// What the rows of one parameter lose in one packed weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// Canonical name; `*` stacks experts.
    pub parameter: String,
    /// The first of the rows, and how many they are, of each expert where they are stacked.
    pub rows: (u64, u64),
    /// What they are packed as.
    pub format: WeightFormat,
    /// How many values they are, all experts together.
    pub n_values: u64,
    /// max |w|.
    pub largest: f32,
    /// max |w − q|, q what the packed weight says of w.
    pub max_error: f32,
    /// ‖w − q‖ / ‖w‖; 0 where all values are.
    pub relative_rms: f64,
}

/// The losses of weights, in their order, those parameters alone that lose something.
///
/// # Errors
/// A parameter cannot be read, or not as integers.
pub fn losses(source: &dyn ParameterSource, weights: &[Weight]) -> Result<Vec<Loss>, CodegenError> {
    let mut losses = Vec::new();
    let rounded = |weight: &&Weight| weight.transform == Transform::None && weight.format != WeightFormat::F32;
    for weight in weights.iter().filter(rounded) {
        losses.extend(of_weight(source, weight)?.into_iter().filter(|loss| loss.max_error > 0.0));
    }
    Ok(losses)
}

fn of_weight(source: &dyn ParameterSource, weight: &Weight) -> Result<Vec<Loss>, CodegenError> {
    let row = weight.layout.k as usize;
    let mut sums = vec![Sums::default(); weight.parts.len()];
    let mut values = Vec::new();
    each_run(weight, 1, |part, group, first_row, n_rows| {
        let sums = weight.parts.iter().position(|other| std::ptr::eq(other, part)).map(|index| &mut sums[index]);
        if let (Some(sums), 1..) = (sums, n_rows) {
            values.resize(n_rows as usize * row, 0.0);
            source.read_rows(&part.parameter, group, first_row, n_rows, &mut values)?;
            match weight.format {
                WeightFormat::F32 => values.iter().for_each(|&w| sums.add(w, w)),
                WeightFormat::Bf16 => values.iter().for_each(|&w| sums.add(w, bf16::from_f32(w).to_f32())),
                WeightFormat::F16 => values.iter().for_each(|&w| sums.add(w, f16::from_f32(w).to_f32())),
                WeightFormat::Int8 | WeightFormat::Int4 => {
                    let Quantized { q, scales } = Quantized::read(source, part, weight, (group, first_row, n_rows))?;
                    let per_row = scales.len() / n_rows as usize;
                    let shared = if per_row == 1 { row } else { GROUP };
                    for (index, (&w, &q)) in values.iter().zip(&q).enumerate() {
                        sums.add(w, f32::from(q) * scales[index / row * per_row + index % row / shared]);
                    }
                }
            }
        }
        Ok(0)
    })?;
    let loss = |(part, sums): (&jamba_plan::format::Part, Sums)| Loss {
        parameter: part.parameter.clone(),
        rows: (part.first_row, part.rows),
        format: weight.format,
        n_values: weight.layout.groups * part.rows * weight.layout.k,
        largest: sums.largest,
        max_error: sums.max_error,
        relative_rms: if sums.squares > 0.0 { (sums.squared_errors / sums.squares).sqrt() } else { 0.0 },
    };
    Ok(weight.parts.iter().zip(sums).map(loss).collect())
}

#[derive(Clone, Copy, Default)]
struct Sums {
    largest: f32,
    max_error: f32,
    squares: f64,
    squared_errors: f64,
}

impl Sums {
    /// Counts a value and what stands for it.
    fn add(&mut self, w: f32, q: f32) {
        self.largest = self.largest.max(w.abs());
        self.squares += f64::from(w) * f64::from(w);
        if w != q {
            let error = w - q;
            self.max_error = self.max_error.max(error.abs());
            self.squared_errors += f64::from(error) * f64::from(error);
        }
    }
}
