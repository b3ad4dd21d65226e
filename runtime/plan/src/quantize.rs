//! Weights with scales: quantization of a row into integers or 8-bit floats and scales, and the position of each in its panel.
//!
//! ```text
//! fp8:   w ≈ scale · q   scale = max |w| / 448 of 128 inputs (f32)                       q = the nearest E4M3 number
//! int8:  w ≈ scale · q   scale = max |w| / 127 of the row (f32)                          q = round(w / scale) in −127 … 127
//! int4:  w ≈ scale · q   scale = m / −8 of 32 inputs, m the largest in magnitude (bf16)  q = round(w / scale) in −8 … 7
//! int3:  w ≈ scale · q   scale = m / −4 of 32 inputs, likewise                           q = round(w / scale) in −4 … 3
//! ```
//!
//! Rounding is to nearest, ties to even. If a scale is 0, its integers are 0. With m / −8 and m / −4, the value of largest magnitude
//! maps to −8 and −4 exactly, whatever its sign. A panel of `lanes` outputs contains
//!
//! ```text
//! int8:  [K / 2][lanes][2] bytes: the inputs 2p and 2p + 1 of an output are adjacent
//! int4:  [K / 4][lanes][2] bytes: byte (p, i, s) has input 4p + s in its low half, 4p + 2 + s in its high half
//! int3:  [K / 32][3][lanes][2] words of 16 bits: word (g, w, i, s) has the inputs 32g + 10w + 2b + s for b = 0 … 4 in its bits
//!        3b … 3b + 2, and bit w of input 32g + 30 + s in its highest bit
//! fp8:   [k][lanes] bytes
//! ```
//!
//! where K is the number of inputs rounded up to whole groups of 32, padded with zeros. In layouts of rows, int8 and fp8 are
//! stored row by row, with the inputs permuted in each block of 64 ([`column()`]) and one scale for each row.

use crate::format::{ElementOrder, Layout, WeightFormat};

/// Inputs per scale of int4 and int3; rows of integers are padded to a multiple of it.
pub const GROUP: usize = 32;

/// Inputs per fp8 scale.
pub const FP8_GROUP: usize = 128;

/// Largest E4M3 number.
const FP8_MOST: f32 = 448.0;

/// Block size of the permutation of the inputs of a row of int8 or fp8.
pub const COLUMN_GROUP: usize = 64;

/// Position of input j in a row of int8 or fp8. The permutation makes the 16 bytes contiguous that a GPU thread multiplies in four
/// steps of 16 inputs: input 16 s + 8 h + 2 q + b of a block is at byte 16 q + 4 s + 2 h + b.
pub fn column(j: usize) -> usize {
    let (group, s, h, q, b) = (j / COLUMN_GROUP, j % COLUMN_GROUP / 16, j % 16 / 8, j % 8 / 2, j % 2);
    group * COLUMN_GROUP + 16 * q + 4 * s + 2 * h + b
}

/// Largest int8 value.
const INT8_MOST: f32 = 127.0;

/// Words of an output and a group of int3.
const INT3_WORDS: usize = 3;

/// Pairs of inputs whose integers lie in one word of int3.
const INT3_PAIRS: usize = 5;

/// The smallest and the largest integer of a format.
///
/// # Panics
/// For formats without integers.
pub fn range(format: WeightFormat) -> (f32, f32) {
    match format {
        WeightFormat::Int8 => (-INT8_MOST, INT8_MOST),
        WeightFormat::Int4 => (-8.0, 7.0),
        WeightFormat::Int3 => (-4.0, 3.0),
        _ => panic!("{} has no integers", format.name()),
    }
}

/// The int8 scale of a row.
pub fn int8_scale(row: &[f32]) -> f32 {
    row.iter().fold(0.0, |most: f32, value| most.max(value.abs())) / INT8_MOST
}

/// The scale of at most [`GROUP`] inputs in int4 or int3, rounded to bf16: the value of largest magnitude maps to the smallest integer.
pub fn group_scale(format: WeightFormat, group: &[f32]) -> f32 {
    let largest = group.iter().fold(0.0, |most: f32, &value| if value.abs() > most.abs() { value } else { most });
    half::bf16::from_f32(largest / range(format).0).to_f32()
}

/// Quantizes a value to an integer format.
pub fn integer(format: WeightFormat, value: f32, scale: f32) -> i8 {
    let (least, most) = range(format);
    if scale == 0.0 { 0 } else { nearest((value / scale).clamp(least, most)) as i8 }
}

/// Rounds a value below 2²² in magnitude to the nearest integer, ties to even. At 1.5 · 2²³ the distance of floats is 1, so the
/// addition rounds. Unlike `round_ties_even` this is no call where a CPU's baseline has no instruction for it.
pub fn nearest(value: f32) -> f32 {
    const ROUNDS: f32 = 12_582_912.0;
    (value + ROUNDS) - ROUNDS
}

/// The E4M3 number nearest to a value, ties to even; the largest one for values beyond it.
pub fn e4m3(value: f32) -> u8 {
    let magnitude = value.abs().min(FP8_MOST);
    // Numbers below 2⁻⁶ are multiples of 2⁻⁹, others of 2⁻³ of their power of two.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-6);
    let steps = (magnitude * power_of_two(3 - exponent)).round_ties_even() as u8;
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let code = (((exponent + 6) as u8) << 3) + steps;
    sign | code
}

/// 2 to the power of an exponent of normal numbers. (`powi` may round differently from one machine to the next.)
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// The value of an E4M3 number.
pub fn from_e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * power_of_two(-9),
        _ => (8.0 + mantissa) * power_of_two(exponent - 10),
    };
    if code < 0x80 { magnitude } else { -magnitude }
}

/// The fp8 scale of at most [`FP8_GROUP`] inputs.
pub fn fp8_scale(group: &[f32]) -> f32 {
    group.iter().fold(0.0, |most: f32, value| most.max(value.abs())) / FP8_MOST
}

/// Quantizes a value to fp8; the bits of the E4M3 number.
pub fn fp8(value: f32, scale: f32) -> i8 {
    if scale == 0.0 { 0 } else { e4m3(value / scale) as i8 }
}

/// The value of a quantized number without its scale.
pub fn unscaled(format: WeightFormat, q: i8) -> f32 {
    if format == WeightFormat::Fp8 { from_e4m3(q as u8) } else { f32::from(q) }
}

/// Inputs of a row of `k` that share a scale.
pub fn shared_inputs(format: WeightFormat, k: usize) -> usize {
    match format {
        WeightFormat::Int4 | WeightFormat::Int3 => GROUP,
        WeightFormat::Fp8 => FP8_GROUP,
        _ => k,
    }
}

/// Quantizes a value to a format with scales.
pub fn number(format: WeightFormat, value: f32, scale: f32) -> i8 {
    if format == WeightFormat::Fp8 { fp8(value, scale) } else { integer(format, value, scale) }
}

/// The scales of a row in panels: one for int8, one per group for the others.
pub fn row_scales(format: WeightFormat, row: &[f32]) -> Vec<f32> {
    scales_of(format, row, shared_inputs(format, row.len()))
}

/// The scales of a row of which `shared` inputs share one.
pub fn scales_of(format: WeightFormat, row: &[f32], shared: usize) -> Vec<f32> {
    let scale = |group: &[f32]| match format {
        WeightFormat::Int4 | WeightFormat::Int3 => group_scale(format, group),
        WeightFormat::Fp8 => fp8_scale(group),
        _ => int8_scale(group),
    };
    row.chunks(shared).map(scale).collect()
}

/// Quantizes a row with the given scales: one, or one per group.
pub fn row(format: WeightFormat, row: &[f32], scales: &[f32], out: &mut [i8]) {
    let shared = if scales.len() == 1 { row.len() } else { shared_inputs(format, row.len()) };
    for ((out, values), &scale) in out.chunks_mut(shared).zip(row.chunks(shared)).zip(scales) {
        out.iter_mut().zip(values).for_each(|(q, &value)| *q = number(format, value, scale));
    }
}

/// Stores the integers of one output in a panel that is initialized with zeros.
pub fn place(format: WeightFormat, q: &[i8], lane: usize, lanes: usize, panel: &mut [u8]) {
    for (j, &q) in q.iter().enumerate() {
        match format {
            WeightFormat::Int4 => {
                let byte = &mut panel[(j / 4 * lanes + lane) * 2 + j % 2];
                *byte |= (q as u8 & 0xf) << (if j % 4 < 2 { 0 } else { 4 });
            }
            WeightFormat::Int3 => int3_bits(lane, lanes, j).into_iter().enumerate().for_each(|(bit, (byte, at))| {
                panel[byte] |= (q as u8 >> bit & 1) << at;
            }),
            WeightFormat::Fp8 => panel[j * lanes + lane] = q as u8,
            _ => panel[(j / 2 * lanes + lane) * 2 + j % 2] = q as u8,
        }
    }
}

/// The places of the three bits of an output and input of int3: the byte of a panel, and the bit in it.
fn int3_bits(lane: usize, lanes: usize, j: usize) -> [(usize, usize); 3] {
    let (group, pair, s) = (j / GROUP, j % GROUP / 2, j % 2);
    let place = |word: usize, bit: usize| {
        let word = ((group * INT3_WORDS + word) * lanes + lane) * 2 + s;
        (2 * word + bit / 8, bit % 8)
    };
    [0, 1, 2].map(|bit| match (pair / INT3_PAIRS, pair % INT3_PAIRS) {
        (INT3_WORDS.., _) => place(bit, 15),
        (word, at) => place(word, 3 * at + bit),
    })
}

/// Stores the integers of one output in a panel that is initialized with zeros, in the order of a layout.
pub fn place_in(layout: &Layout, format: WeightFormat, q: &[i8], lane: usize, panel: &mut [u8]) {
    match layout.order {
        ElementOrder::Panels => place(format, q, lane, layout.lanes as usize, panel),
        ElementOrder::Rows { stride, .. } => {
            let row = &mut panel[lane * stride as usize..];
            q.iter().enumerate().for_each(|(j, &q)| row[column(j)] = q as u8);
        }
    }
}

/// The integer of one output and input in a panel; the inverse of [`place`].
pub fn integer_at(format: WeightFormat, panel: &[u8], lane: usize, lanes: usize, j: usize) -> i8 {
    match format {
        WeightFormat::Int4 => {
            let byte = panel[(j / 4 * lanes + lane) * 2 + j % 2];
            ((if j % 4 < 2 { byte << 4 } else { byte }) as i8) >> 4
        }
        WeightFormat::Int3 => {
            let bits = int3_bits(lane, lanes, j).into_iter().enumerate();
            let q = bits.fold(0, |q, (bit, (byte, at))| q | (panel[byte] >> at & 1) << bit);
            ((q << 5) as i8) >> 5
        }
        WeightFormat::Fp8 => panel[j * lanes + lane] as i8,
        _ => panel[(j / 2 * lanes + lane) * 2 + j % 2] as i8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [WeightFormat; 3] = [WeightFormat::Int8, WeightFormat::Int4, WeightFormat::Int3];

    #[test]
    fn rounding_is_to_nearest_and_to_even() {
        for value in (-2000..2000).map(|n| n as f32 / 8.0) {
            assert_eq!(nearest(value), value.round_ties_even(), "{value}");
        }
        let [int8, int4, int3] = FORMATS.map(|format| move |value, scale| integer(format, value, scale));
        assert_eq!([int8(1e30, 1e-30), int8(-3.0, 1e-38), int4(1e30, 1e-30), int3(1e30, 1e-30)], [127, -127, 7, 3]);
    }

    #[test]
    fn e4m3_numbers_are_those_of_their_format_and_the_nearest() {
        let of = |codes: &[u8]| codes.iter().map(|&code| from_e4m3(code)).collect::<Vec<_>>();
        assert_eq!(of(&[0, 1, 7, 8, 0x38, 0x7e, 0xc4]), [0.0, 1.0 / 512.0, 7.0 / 512.0, 1.0 / 64.0, 1.0, 448.0, -3.0]);
        for code in (0..=255).filter(|code| code & 0x7f != 0x7f) {
            assert_eq!(e4m3(from_e4m3(code)), code);
        }
        for code in 0..0x7e {
            let (low, high) = (from_e4m3(code), from_e4m3(code + 1));
            let middle = (low + high) / 2.0;
            let even = if code % 2 == 0 { code } else { code + 1 };
            assert_eq!([e4m3(middle), e4m3(middle.next_down()), e4m3(middle.next_up())], [even, code, code + 1]);
            assert_eq!(e4m3(-middle), even | 0x80);
        }
        assert_eq!([e4m3(1e9), e4m3(-500.0), e4m3(1e-9)], [0x7e, 0xfe, 0]);
    }

    #[test]
    fn integers_of_worked_rows() {
        let [int8, int4, int3] = FORMATS.map(|format| move |value, scale| integer(format, value, scale));
        let int4_scale = |group: &[f32]| group_scale(WeightFormat::Int4, group);
        let row8 = [0.5, -1.27, 0.015, 0.025, 0.0];
        assert_eq!(row8.map(|value| int8(value, int8_scale(&row8))), [50, -127, 2, 2, 0]); // 1.5 → 2 and 2.5 → 2
        let row4 = [2.0, -4.0, 4.5, 0.25, 3.75, -0.75];
        let scale = int4_scale(&[2.0, -4.0, 4.0, 0.25]);
        assert_eq!(scale, 0.5, "−4 comes first and becomes −8");
        assert_eq!(row4.map(|value| int4(value, scale)), [4, -8, 7, 0, 7, -2]); // 0.5 → 0, 7.5 → 8 → 7, −1.5 → −2
        assert_eq!(int4_scale(&[1.0, 4.0]), -0.5);
        assert_eq!(int4(4.0, -0.5), -8);
        assert_eq!(group_scale(WeightFormat::Int3, &[1.0, 4.0]), -1.0);
        assert_eq!([4.0, 1.5, 0.5, -3.0].map(|value| int3(value, -1.0)), [-4, -2, 0, 3]);
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
                // Minus the smallest integer cannot be represented: it is clamped.
                let clamped = value / scale > range(format).1 + 0.5;
                let most = scale.abs() * if clamped { 1.05 } else { 0.501 };
                assert!((value - scale * f32::from(q)).abs() <= most, "{format:?} {j}: {value} as {q} · {scale}");
            }
        }
    }

    #[test]
    fn every_integer_has_its_place_in_the_panel() {
        let (lanes, k) = (16, 64);
        for format in FORMATS {
            let most = -range(format).0 as i32;
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
            // By hand: output 3, input 6 is in pair 3 for int8; for int4 it is in quad 1, high half of the first byte; for int3 in bits
            // 9 to 11 of the first word.
            match format {
                WeightFormat::Int3 => assert_eq!((panel[3 * 4 + 1] >> 1) as i8 & 7, value(3, 6) & 7),
                WeightFormat::Int4 => assert_eq!((panel[(16 + 3) * 2] >> 4) as i8, value(3, 6) & 0xf),
                _ => assert_eq!(panel[(3 * 16 + 3) * 2] as i8, value(3, 6)),
            }
        }
    }
}
