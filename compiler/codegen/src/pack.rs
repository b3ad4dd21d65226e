//! Parameters → packed weight bytes, one panel at a time.
//!
//! A weight is packed once, at build time, into the [`Layout`] that its kernels read; never more than one panel of it is in
//! memory.

use std::io::{self, Write};

use half::{bf16, f16};
use jamba_plan::format::{Layout, PartOrder, Transform, Weight, WeightFormat};

use crate::error::CodegenError;

/// Where parameters come from: a bound checkpoint.
pub trait ParameterSource {
    /// Widens rows `first_row … first_row + n_rows` of matrix `group` of a parameter to f32, row after row.
    ///
    /// A parameter is seen as \[groups, n, k\]: stacked experts, outputs, inputs; a vector has k = 1. `out` holds n_rows · k elements.
    fn read_rows(&self, parameter: &str, group: u64, first_row: u64, n_rows: u64, out: &mut [f32]) -> io::Result<()>;
}

/// Writes a packed weight, padding included, and returns its length in bytes.
pub fn pack(source: &dyn ParameterSource, weight: &Weight, out: &mut dyn Write) -> Result<u64, CodegenError> {
    let Layout { groups, k, lanes, .. } = weight.layout;
    let row = k as usize;
    // Row-major layouts and vectors have tiny panels: take many at a time where they follow each other.
    let panels_at_once = match weight.order {
        PartOrder::Stacked => (16384 / (k * lanes)).max(1),
        PartOrder::Interleaved => 1,
    };
    let rows_at_once = panels_at_once * lanes;
    let mut rows = vec![0f32; rows_at_once as usize * row];
    let mut panels = vec![0f32; rows_at_once as usize * row];
    let mut bytes = Vec::with_capacity(panels.len() * weight.format.bytes() as usize);
    let mut written = 0;
    for group in 0..groups {
        let mut panel = 0;
        while panel < weight.layout.panels() {
            let (part, first_row) = weight.panel(panel);
            let failed = |source| CodegenError::Pack { parameter: part.parameter.clone(), source };
            let n_rows = rows_at_once.min(part.rows - first_row);
            let taken = &mut rows[..n_rows as usize * row];
            source.read_rows(&part.parameter, group, part.first_row + first_row, n_rows, taken).map_err(failed)?;
            apply(weight.transform, taken);
            let n_panels = n_rows.div_ceil(lanes);
            let stored = (n_panels * lanes) as usize * row;
            transpose_panels(taken, &mut panels[..stored], row, lanes as usize);
            encode(weight.format, &panels[..stored], &mut bytes);
            out.write_all(&bytes).map_err(failed)?;
            written += bytes.len() as u64;
            panel += n_panels;
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
    use jamba_plan::format::{Init, Part};

    use super::*;

    /// Element (group, i, j) of parameter "2" is 2 · 10⁶ + group · 10⁵ + i · 100 + j + 1.
    fn element(parameter: &str, group: u64, i: u64, j: u64) -> f32 {
        let parameter: u64 = parameter.parse().expect("a digit");
        (parameter * 1_000_000 + group * 100_000 + i * 100 + j + 1) as f32
    }

    struct Numbered {
        k: u64,
    }

    impl ParameterSource for Numbered {
        fn read_rows(&self, name: &str, group: u64, first_row: u64, n_rows: u64, out: &mut [f32]) -> io::Result<()> {
            for i in 0..n_rows {
                for j in 0..self.k {
                    out[(i * self.k + j) as usize] = element(name, group, first_row + i, j);
                }
            }
            Ok(())
        }
    }

    /// A weight of (parameter, first row, rows), its elements as they are packed.
    fn packed(parts: &[(&str, u64, u64)], order: PartOrder, groups: u64, k: u64, lanes: u64) -> (Layout, Vec<f32>) {
        let init = Init::Normal { mean: 0.0, std: 1.0 };
        let part = |&(name, first_row, rows): &(&str, u64, u64)| Part { parameter: name.into(), first_row, rows, init };
        let n = Layout::rows_of(parts.iter().map(|part| part.2), lanes).unwrap();
        let layout = Layout { groups, n, k, lanes };
        let bytes = layout.elements() * 4;
        let parts = parts.iter().map(part).collect();
        let (format, transform) = (WeightFormat::F32, Transform::None);
        let weight = Weight { parts, order, offset: 0, bytes, layout, format, transform };
        let mut out = Vec::new();
        assert_eq!(pack(&Numbered { k }, &weight, &mut out).unwrap(), bytes);
        (layout, out.as_chunks().0.iter().map(|&element| f32::from_le_bytes(element)).collect())
    }

    #[test]
    fn every_element_is_where_the_layout_says_and_padding_is_zero() {
        for (groups, n, k, lanes) in [(1, 16, 4, 16), (3, 21, 7, 16), (1, 37, 1, 16), (2, 5, 9, 1), (1, 70, 600, 16)] {
            let (layout, found) = packed(&[("0", 0, n)], PartOrder::Stacked, groups, k, lanes);
            let mut expected = vec![0f32; layout.elements() as usize];
            for group in 0..groups {
                for i in 0..n {
                    for j in 0..k {
                        expected[layout.index(group, i, j) as usize] = element("0", group, i, j);
                    }
                }
            }
            assert_eq!(found, expected, "{layout:?}");
        }
    }

    /// Each row of the layout is the row of a part that the order says, or zeros.
    #[test]
    fn parts_lie_in_whole_panels_in_their_order() {
        const LANES: u64 = 16;
        let stacked = [("1", 0, 21), ("2", 32, 5), ("3", 0, 48), ("4", 7, 1)];
        let interleaved = [("1", 0, 37), ("2", 0, 37), ("3", 0, 37)];
        for (parts, order, groups) in [
            (&stacked[..], PartOrder::Stacked, 1),
            (&[("1", 0, 21), ("2", 0, 100)], PartOrder::Stacked, 3),
            (&interleaved, PartOrder::Interleaved, 1),
            (&interleaved[..2], PartOrder::Interleaved, 3),
        ] {
            let (layout, found) = packed(parts, order, groups, 3, LANES);
            // Rows of the layout: (parameter, row of it), or nothing.
            let padded = |&(name, first, rows): &(&'static str, u64, u64)| {
                (0..rows.next_multiple_of(LANES)).map(move |row| (row < rows).then_some((name, first + row)))
            };
            let alone: Vec<Vec<_>> = parts.iter().map(|part| padded(part).collect()).collect();
            let rows: Vec<_> = match order {
                PartOrder::Stacked => alone.concat(),
                PartOrder::Interleaved => {
                    let panels = alone[0].len() / LANES as usize;
                    let panel = |panel: usize| {
                        alone.iter().flat_map(move |part| part.chunks(LANES as usize).nth(panel).unwrap())
                    };
                    (0..panels).flat_map(panel).copied().collect()
                }
            };
            assert_eq!(rows.len() as u64, layout.n);
            for group in 0..groups {
                for (i, row) in (0..).zip(&rows) {
                    for j in 0..layout.k {
                        let expected = row.map_or(0.0, |(name, row)| element(name, group, row, j));
                        assert_eq!(found[layout.index(group, i, j) as usize], expected, "{order:?} {group} {i} {j}");
                    }
                }
            }
        }
    }

    #[test]
    fn decay_rates_are_scaled_for_exp2() {
        let mut values = [0.0, std::f32::consts::LN_2];
        apply(Transform::DecayRate, &mut values);
        assert_eq!(values, [-std::f32::consts::LOG2_E, -2.0 * std::f32::consts::LOG2_E]);
    }
}
