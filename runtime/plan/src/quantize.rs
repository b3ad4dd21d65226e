//! Integer weights: how a row becomes integers and scales, and where an integer lies in its panel.
//!
//! ```text
//! int8:  w ≈ scale · q   scale = max |w| / 127 of the row (f32)                          q = round(w / scale) in −127 … 127
//! int4:  w ≈ scale · q   scale = m / −8 of 32 inputs, m the largest in magnitude (bf16)  q = round(w / scale) in −8 … 7
//! ```
//!
//! Rounding is to the nearest, ties to even; a scale of 0 goes with integers of 0. m / −8 gives the largest value an integer
//! of its own, whichever its sign. A panel of `lanes` outputs holds
//!
//! ```text
//! int8:  [K / 2][lanes][2] bytes: the inputs 2p and 2p + 1 of an output side by side
//! int4:  [K / 4][lanes][2] bytes: byte (p, i, s) has input 4p + s in its low half, 4p + 2 + s in its high half
//! ```
//!
//! where K is the number of inputs rounded up to whole groups of 32, the rest zeros. Where a layout is of rows, int8 lies row
//! after row, the inputs of a row permuted inside each 64 ([`column()`]).

use crate::format::{ElementOrder, Layout, WeightFormat};

/// Inputs that share a scale of int4, and what rows of integers are padded to.
pub const GROUP: usize = 32;

/// Inputs of a row of int8 that are permuted among themselves.
pub const COLUMN_GROUP: usize = 64;

/// Where input j of a row of int8 lies in the row: the 16 bytes that a thread of a GPU multiplies in four steps of 16 inputs
/// follow each other. Input 16 s + 8 h + 2 q + b of a group is byte 16 q + 4 s + 2 h + b.
pub fn column(j: usize) -> usize {
    let (group, s, h, q, b) = (j / COLUMN_GROUP, j % COLUMN_GROUP / 16, j % 16 / 8, j % 8 / 2, j % 2);
    group * COLUMN_GROUP + 16 * q + 4 * s + 2 * h + b
}

/// Largest integer of int8.
const INT8_MOST: f32 = 127.0;

/// Smallest integer of int4, which the largest value of a group becomes.
const INT4_LEAST: f32 = -8.0;

/// Largest integer of int4.
const INT4_MOST: f32 = 7.0;

/// The scale of a row of int8.
pub fn int8_scale(row: &[f32]) -> f32 {
    row.iter().fold(0.0, |most: f32, value| most.max(value.abs())) / INT8_MOST
}

/// The scale of at most [`GROUP`] inputs of int4, a bf16.
pub fn int4_scale(group: &[f32]) -> f32 {
    let largest = group.iter().fold(0.0, |most: f32, &value| if value.abs() > most.abs() { value } else { most });
    half::bf16::from_f32(largest / INT4_LEAST).to_f32()
}

/// The integer that stands for a value.
pub fn int8(value: f32, scale: f32) -> i8 {
    if scale == 0.0 { 0 } else { (value / scale).round_ties_even().clamp(-INT8_MOST, INT8_MOST) as i8 }
}

/// The integer that stands for a value.
pub fn int4(value: f32, scale: f32) -> i8 {
    if scale == 0.0 { 0 } else { (value / scale).round_ties_even().clamp(INT4_LEAST, INT4_MOST) as i8 }
}

/// The scales of a row, one or one per group.
pub fn row_scales(format: WeightFormat, row: &[f32]) -> Vec<f32> {
    match format {
        WeightFormat::Int4 => row.chunks(GROUP).map(int4_scale).collect(),
        _ => vec![int8_scale(row)],
    }
}

/// A row as integers, given its scales.
pub fn row(format: WeightFormat, row: &[f32], scales: &[f32], out: &mut [i8]) {
    match format {
        WeightFormat::Int4 => {
            for ((out, values), &scale) in out.chunks_mut(GROUP).zip(row.chunks(GROUP)).zip(scales) {
                out.iter_mut().zip(values).for_each(|(q, &value)| *q = int4(value, scale));
            }
        }
        _ => out.iter_mut().zip(row).for_each(|(q, &value)| *q = int8(value, scales[0])),
    }
}

/// Puts the integers of one output into a panel of zeros.
pub fn place(format: WeightFormat, q: &[i8], lane: usize, lanes: usize, panel: &mut [u8]) {
    for (j, &q) in q.iter().enumerate() {
        match format {
            WeightFormat::Int4 => {
                let byte = &mut panel[(j / 4 * lanes + lane) * 2 + j % 2];
                *byte |= (q as u8 & 0xf) << (if j % 4 < 2 { 0 } else { 4 });
            }
            _ => panel[(j / 2 * lanes + lane) * 2 + j % 2] = q as u8,
        }
    }
}

/// Puts the integers of one output into a panel of zeros, in the order of a layout.
pub fn place_in(layout: &Layout, format: WeightFormat, q: &[i8], lane: usize, panel: &mut [u8]) {
    match layout.order {
        ElementOrder::Panels => place(format, q, lane, layout.lanes as usize, panel),
        ElementOrder::Rows { stride, .. } => {
            let row = &mut panel[lane * stride as usize..];
            q.iter().enumerate().for_each(|(j, &q)| row[column(j)] = q as u8);
        }
    }
}

/// The integer of one output and input in a panel: what [`place`] put there.
pub fn integer_at(format: WeightFormat, panel: &[u8], lane: usize, lanes: usize, j: usize) -> i8 {
    match format {
        WeightFormat::Int4 => {
            let byte = panel[(j / 4 * lanes + lane) * 2 + j % 2];
            ((if j % 4 < 2 { byte << 4 } else { byte }) as i8) >> 4
        }
        _ => panel[(j / 2 * lanes + lane) * 2 + j % 2] as i8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [WeightFormat; 2] = [WeightFormat::Int8, WeightFormat::Int4];

    #[test]
    fn integers_of_worked_rows() {
        let row8 = [0.5, -1.27, 0.015, 0.025, 0.0];
        assert_eq!(row8.map(|value| int8(value, int8_scale(&row8))), [50, -127, 2, 2, 0]); // 1.5 → 2 and 2.5 → 2
        let row4 = [2.0, -4.0, 4.5, 0.25, 3.75, -0.75];
        let scale = int4_scale(&[2.0, -4.0, 4.0, 0.25]);
        assert_eq!(scale, 0.5, "−4 comes first and becomes −8");
        assert_eq!(row4.map(|value| int4(value, scale)), [4, -8, 7, 0, 7, -2]); // 0.5 → 0, 7.5 → 8 → 7, −1.5 → −2
        assert_eq!(int4_scale(&[1.0, 4.0]), -0.5);
        assert_eq!(int4(4.0, -0.5), -8);
        for format in FORMATS {
            let mut q = [1; 3];
            row(format, &[0.0; 3], &row_scales(format, &[0.0; 3]), &mut q);
            assert_eq!(q, [0; 3], "a row of zeros");
        }
    }

    #[test]
    fn no_value_is_further_from_its_integer_than_half_a_scale() {
        let values: Vec<f32> = (0..75).map(|j| (j * 37 % 101 - 50) as f32 * 0.013).collect();
        for format in FORMATS {
            let scales = row_scales(format, &values);
            let mut q = vec![0; values.len()];
            row(format, &values, &scales, &mut q);
            for (j, (&value, &q)) in values.iter().zip(&q).enumerate() {
                let scale = scales[if scales.len() > 1 { j / GROUP } else { 0 }];
                // The one value that has no integer of its own is +8 beside −8.
                let clamped = format == WeightFormat::Int4 && value / scale > 7.5;
                let most = scale.abs() * if clamped { 1.05 } else { 0.501 };
                assert!((value - scale * f32::from(q)).abs() <= most, "{format:?} {j}: {value} as {q} · {scale}");
            }
        }
    }

    #[test]
    fn every_integer_has_its_place_in_the_panel() {
        let (lanes, k) = (16, 64);
        for format in FORMATS {
            let most = if format == WeightFormat::Int4 { 8 } else { 127 };
            let value = |lane: usize, j: usize| ((lane * k + j) as i32 % (2 * most) - most) as i8;
            let mut panel = vec![0; lanes * k * format.bits() as usize / 8];
            for lane in 0..lanes {
                let q: Vec<i8> = (0..k).map(|j| value(lane, j)).collect();
                place(format, &q, lane, lanes, &mut panel);
            }
            for lane in 0..lanes {
                for j in 0..k {
                    assert_eq!(integer_at(format, &panel, lane, lanes, j), value(lane, j), "{format:?} {lane} {j}");
                }
            }
            // Worked out: output 3, input 6 of int8 is in pair 3; of int4 in quad 1, high half of the first byte.
            match format {
                WeightFormat::Int4 => assert_eq!((panel[(16 + 3) * 2] >> 4) as i8, value(3, 6) & 0xf),
                _ => assert_eq!(panel[(3 * 16 + 3) * 2] as i8, value(3, 6)),
            }
        }
    }
}
