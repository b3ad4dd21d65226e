//! Packed bytes: position of every element, order of parts, integers with their scales.

use std::sync::atomic::{AtomicU64, Ordering};

use jamba_plan::format::{Init, Part};
use jamba_plan::quantize;

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

/// The packed elements of a weight with parts (parameter, first row, rows).
fn packed(parts: &[(&str, u64, u64)], order: PartOrder, groups: u64, k: u64, lanes: u64) -> (Layout, Vec<f32>) {
    let weight = weight(parts, order, groups, k, lanes, WeightFormat::F32);
    let mut out = Vec::new();
    assert_eq!(pack(&Numbered { k }, &weight, &mut out).unwrap(), weight.bytes);
    (weight.layout, out.as_chunks().0.iter().map(|&element| f32::from_le_bytes(element)).collect())
}

fn weight(
    parts: &[(&str, u64, u64)],
    order: PartOrder,
    groups: u64,
    k: u64,
    lanes: u64,
    format: WeightFormat,
) -> Weight {
    let init = Init::Normal { mean: 0.0, std: 1.0 };
    let part = |&(name, first_row, rows): &(&str, u64, u64)| Part { parameter: name.into(), first_row, rows, init };
    let n = Layout::rows_of(parts.iter().map(|part| part.2), lanes).unwrap();
    let layout = Layout::in_panels(groups, n, k, lanes);
    let bytes = layout.bytes(format).unwrap();
    let parts = parts.iter().map(part).collect();
    Weight { parts, order, offset: 0, bytes, layout, format, transform: Transform::None }
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

/// Each row of the layout is the part's row that the order defines, or zeros.
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
        // Rows of the layout: (parameter, row of the parameter), or `None` for padding.
        let padded = |&(name, first, rows): &(&'static str, u64, u64)| {
            (0..rows.next_multiple_of(LANES)).map(move |row| (row < rows).then_some((name, first + row)))
        };
        let alone: Vec<Vec<_>> = parts.iter().map(|part| padded(part).collect()).collect();
        let rows: Vec<_> = match order {
            PartOrder::Stacked => alone.concat(),
            PartOrder::Interleaved => {
                let panels = alone[0].len() / LANES as usize;
                let panel =
                    |panel: usize| alone.iter().flat_map(move |part| part.chunks(LANES as usize).nth(panel).unwrap());
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

/// Rows with values of both signs; row 3 of every expert is zero.
struct Wavy {
    k: u64,
}

impl Wavy {
    fn value(&self, name: &str, group: u64, i: u64, j: u64) -> f32 {
        let x = name.len() as u64 + group * 977 + i * 131 + j * 37;
        if i == 3 { 0.0 } else { (x % 251) as f32 / 40.0 - 3.0 }
    }
}

impl ParameterSource for Wavy {
    fn read_rows(&self, name: &str, group: u64, first_row: u64, n_rows: u64, out: &mut [f32]) -> io::Result<()> {
        for i in 0..n_rows {
            for j in 0..self.k {
                out[(i * self.k + j) as usize] = self.value(name, group, first_row + i, j);
            }
        }
        Ok(())
    }
}

/// Integers times scales, read back from panels, differ from the parameter by at most half a scale; padding is zero.
#[test]
fn integers_and_scales_lie_where_kernels_read_them() {
    const LANES: usize = 16;
    let k = 70;
    for format in [WeightFormat::Int8, WeightFormat::Int4, WeightFormat::Int3] {
        let parts = [("a", 0, 21), ("bb", 0, 9)];
        let weight = weight(&parts, PartOrder::Stacked, 3, k, LANES as u64, format);
        let source = Wavy { k };
        let Quantized { values: integers, scales, loss } = Quantized::read(&source, &weight, Measure::Nothing).unwrap();
        assert_eq!((integers.len() as u64, loss), (weight.bytes, vec![]));
        let (layout, stored) = weight.layout.scales(format).unwrap();
        assert_eq!(scales.len() as u64, layout.bytes(stored).unwrap());
        let scale = |panel: usize, lane: usize, j: usize| match stored {
            WeightFormat::F32 => f32::from_le_bytes(scales.as_chunks().0[panel * LANES + lane]),
            _ => {
                bf16::from_le_bytes(scales.as_chunks().0[(panel * layout.k as usize + j / 32) * LANES + lane]).to_f32()
            }
        };
        for (panel, bytes) in integers.chunks_exact(weight.layout.panel_bytes(format)).enumerate() {
            let group = panel as u64 / weight.layout.panels();
            let (part, first_row) = weight.panel(panel as u64 % weight.layout.panels());
            for lane in 0..LANES {
                let i = first_row + lane as u64;
                for j in 0..96 {
                    let q = f32::from(quantize::integer_at(format, bytes, lane, LANES, j));
                    if i >= part.rows || j as u64 >= k || i == 3 {
                        assert_eq!(q, 0.0, "{format:?} {i} {j}");
                        continue;
                    }
                    let (value, scale) = (source.value(&part.parameter, group, i, j as u64), scale(panel, lane, j));
                    // Minus the smallest integer cannot be represented and is clamped: such a value is off by a whole scale.
                    let is_clamped = format != WeightFormat::Int8 && q == quantize::range(format).1;
                    let most = if is_clamped { 1.05 } else { 0.501 } * scale.abs();
                    assert!((value - q * scale).abs() <= most, "{format:?} {i} {j}: {value} as {q} · {scale}");
                }
            }
        }
    }
}

struct Broken;

impl ParameterSource for Broken {
    fn read_rows(&self, _: &str, _: u64, _: u64, _: u64, out: &mut [f32]) -> io::Result<()> {
        out.fill(1.0);
        out[9] = f32::NAN;
        Ok(())
    }
}

#[test]
fn what_is_no_number_becomes_no_integer() {
    let weight = weight(&[("a.weight", 0, 3)], PartOrder::Stacked, 1, 4, 16, WeightFormat::Int8);
    let error = Quantized::read(&Broken, &weight, Measure::Nothing).err().unwrap().to_string();
    assert_eq!(error, "pack: a.weight: row 2, column 1 is NaN, expected a finite number");
}

/// A checkpoint with integers, q = −128 …, and a scale per row.
struct Stored;

impl ParameterSource for Stored {
    fn read_rows(&self, _: &str, _: u64, _: u64, _: u64, _: &mut [f32]) -> io::Result<()> {
        Err(io::Error::other("integers are not to be widened"))
    }

    fn read_quantized(
        &self,
        format: WeightFormat,
        _: &str,
        _: u64,
        first_row: u64,
        q: &mut [i8],
        scales: &mut [f32],
    ) -> io::Result<bool> {
        assert_eq!(format, WeightFormat::Int8);
        (0..).zip(scales).for_each(|(i, scale)| *scale = 0.01 + (first_row + i) as f32);
        q.iter_mut().enumerate().for_each(|(at, q)| *q = (at as i32 % 256 - 128) as i8);
        Ok(true)
    }
}

#[test]
fn integers_of_the_checkpoint_stay_as_they_are() {
    let weight = weight(&[("a", 0, 20)], PartOrder::Stacked, 1, 32, 16, WeightFormat::Int8);
    let Quantized { values: integers, scales, loss } = Quantized::read(&Stored, &weight, Measure::Loss).unwrap();
    assert_eq!(loss, [], "nothing is rounded");
    let at = |panel: usize, lane: usize, j: usize| {
        quantize::integer_at(WeightFormat::Int8, &integers[panel * 512..][..512], lane, 16, j)
    };
    assert_eq!((at(0, 0, 0), at(0, 3, 31), at(1, 2, 5)), (-128, -1, -59)); // 3 · 32 + 31 = 127; 2 · 32 + 5 = 69
    assert_eq!(f32::from_le_bytes(scales.as_chunks().0[17]), 17.01);
}

/// [`Wavy`] that counts the rows read.
struct Counted {
    wavy: Wavy,
    n_rows: AtomicU64,
}

impl ParameterSource for Counted {
    fn read_rows(&self, name: &str, group: u64, first_row: u64, n_rows: u64, out: &mut [f32]) -> io::Result<()> {
        self.n_rows.fetch_add(n_rows, Ordering::Relaxed);
        self.wavy.read_rows(name, group, first_row, n_rows, out)
    }
}

#[test]
fn scales_integers_and_losses_come_from_one_read() {
    let parts = [("a", 0, 21), ("bb", 4, 9)];
    let mut integers = weight(&parts, PartOrder::Stacked, 3, 70, 16, WeightFormat::Int8);
    let (layout, format) = integers.layout.scales(integers.format).unwrap();
    let bytes = layout.bytes(format).unwrap();
    let transform = Transform::Scale(WeightFormat::Int8);
    let scales = Weight { bytes, layout, format, transform, ..integers.clone() };
    integers.offset = bytes.next_multiple_of(64);
    let source = Counted { wavy: Wavy { k: 70 }, n_rows: AtomicU64::new(0) };
    let mut packed = Vec::new();
    let weights = [scales, integers];
    let (length, losses) = pack_all(&source, &weights, &mut packed, Measure::Loss, |_| ()).unwrap();
    assert_eq!(source.n_rows.load(Ordering::Relaxed), 3 * (21 + 9));
    assert_eq!((length, packed.len() as u64), (weights[1].offset + weights[1].bytes, length));

    let alone = Quantized::read(&source, &weights[1], Measure::Nothing).unwrap();
    assert_eq!(packed[..bytes as usize], alone.scales);
    assert_eq!(packed[weights[1].offset as usize..], alone.values);
    let found: Vec<_> = losses.iter().map(|loss| (loss.parameter.as_str(), loss.rows, loss.n_values)).collect();
    assert_eq!(found, [("a", (0, 21), 3 * 21 * 70), ("bb", (4, 9), 3 * 9 * 70)]);
    // Values reach 3.25, so scales are at most 3.25 / 127 and errors half of that.
    assert!(losses.iter().all(|loss| loss.max_error <= 0.51 * 3.25 / 127.0 && loss.relative_rms < 0.01), "{losses:?}");
}
