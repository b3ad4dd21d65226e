//! Parameters → packed weight bytes, one panel at a time.
//!
//! A weight is packed once, at build time, into the [`Layout`] that its kernels read; never more than one panel of it is in
//! memory.

use std::io::{self, Write};

use half::{bf16, f16};
use jamba_plan::format::{Layout, Transform, WeightFormat};

/// Where parameters come from: a bound checkpoint.
pub trait ParameterSource {
    /// Widens rows `first_row … first_row + n_rows` of matrix `group` of a parameter to f32, row after row.
    ///
    /// A parameter is seen as \[groups, n, k\]: stacked experts, outputs, inputs; a vector has k = 1. `out` holds n_rows · k elements.
    fn read_rows(&self, parameter: &str, group: u64, first_row: u64, n_rows: u64, out: &mut [f32]) -> io::Result<()>;
}

/// Writes a packed weight, padding included, and returns its length in bytes.
pub fn pack(
    source: &dyn ParameterSource,
    parameter: &str,
    layout: Layout,
    format: WeightFormat,
    transform: Transform,
    out: &mut dyn Write,
) -> io::Result<u64> {
    let (k, lanes) = (layout.k as usize, layout.lanes as usize);
    // Row-major layouts and vectors have tiny panels: take many at a time.
    let panels_at_once = (16384 / (k * lanes)).max(1) as u64;
    let rows_at_once = panels_at_once * layout.lanes;
    let mut rows = vec![0f32; rows_at_once as usize * k];
    let mut panels = vec![0f32; rows_at_once as usize * k];
    let mut bytes = Vec::with_capacity(panels.len() * format.bytes() as usize);
    let mut written = 0;
    for group in 0..layout.groups {
        for first_row in (0..layout.n).step_by(rows_at_once as usize) {
            let n_rows = rows_at_once.min(layout.n - first_row);
            let taken = &mut rows[..n_rows as usize * k];
            source.read_rows(parameter, group, first_row, n_rows, taken)?;
            apply(transform, taken);
            let stored = (n_rows.next_multiple_of(layout.lanes) as usize) * k;
            transpose_panels(taken, &mut panels[..stored], k, lanes);
            encode(format, &panels[..stored], &mut bytes);
            out.write_all(&bytes)?;
            written += bytes.len() as u64;
        }
    }
    Ok(written)
}

fn apply(transform: Transform, values: &mut [f32]) {
    match transform {
        Transform::None => {}
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

fn encode(format: WeightFormat, values: &[f32], bytes: &mut Vec<u8>) {
    bytes.clear();
    match format {
        WeightFormat::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        WeightFormat::Bf16 => bytes.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes())),
        WeightFormat::F16 => bytes.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Element (group, i, j) is group · 10000 + i · 100 + j + 1.
    struct Numbered {
        k: u64,
    }

    impl ParameterSource for Numbered {
        fn read_rows(&self, _: &str, group: u64, first_row: u64, n_rows: u64, out: &mut [f32]) -> io::Result<()> {
            for i in 0..n_rows {
                for j in 0..self.k {
                    out[(i * self.k + j) as usize] = (group * 10000 + (first_row + i) * 100 + j + 1) as f32;
                }
            }
            Ok(())
        }
    }

    #[test]
    fn every_element_is_where_the_layout_says_and_padding_is_zero() {
        for layout in [
            Layout { groups: 1, n: 16, k: 4, lanes: 16 },
            Layout { groups: 3, n: 21, k: 7, lanes: 16 },
            Layout { groups: 1, n: 37, k: 1, lanes: 16 },
            Layout { groups: 2, n: 5, k: 9, lanes: 1 },
            Layout { groups: 1, n: 70, k: 600, lanes: 16 },
        ] {
            let mut bytes = Vec::new();
            let n =
                pack(&Numbered { k: layout.k }, "w", layout, WeightFormat::F32, Transform::None, &mut bytes).unwrap();
            assert_eq!(n, layout.elements() * 4);
            let mut expected = vec![0f32; layout.elements() as usize];
            for group in 0..layout.groups {
                for i in 0..layout.n {
                    for j in 0..layout.k {
                        expected[layout.index(group, i, j) as usize] = (group * 10000 + i * 100 + j + 1) as f32;
                    }
                }
            }
            let found: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            assert_eq!(found, expected, "{layout:?}");
        }
    }

    #[test]
    fn decay_rates_are_scaled_for_exp2() {
        let mut values = [0.0, std::f32::consts::LN_2];
        apply(Transform::DecayRate, &mut values);
        assert_eq!(values, [-std::f32::consts::LOG2_E, -2.0 * std::f32::consts::LOG2_E]);
    }
}
