//! GGUF's blocks: integers of 4 to 8 bits with the scales of their block, widened to f32.
//!
//! | type | elements | bytes in order | value of the integer q |
//! |---|---|---|---|
//! | Q4_0 | 32 | d f16, 16 bytes | d · (q − 8) |
//! | Q4_1 | 32 | d f16, m f16, 16 bytes | d · q + m |
//! | Q5_0 | 32 | d f16, 32 fifth bits, 16 bytes | d · (q − 16) |
//! | Q5_1 | 32 | d f16, m f16, 32 fifth bits, 16 bytes | d · q + m |
//! | Q8_0 | 32 | d f16, 32 signed bytes | d · q |
//! | Q4_K | 256 | d f16, dmin f16, 8 scales and minima of 6 bits, 128 bytes | d · scale · q − dmin · minimum |
//! | Q5_K | 256 | as Q4_K, with 256 fifth bits before the bytes | as Q4_K |
//! | Q6_K | 256 | 128 bytes, 256 pairs of upper bits, 16 signed scales, d f16 | d · scale · (q − 32) |
//!
//! A byte of Q4_0 to Q5_1 has element j in its low half and element j + 16 in its high half. Q4_K and Q5_K have elements j and j + 32 of
//! each 64 there, and a scale for every 32; Q6_K has j and j + 64 of each 128, and a scale for every 16.
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use half::f16;

use crate::index::DType;

/// Elements of the largest block.
pub(crate) const MOST: usize = 256;

/// Widens one block into `out`, which has its number of elements.
///
/// # Panics
/// If `dtype` has no blocks, or a length is not that of its block.
pub(crate) fn widen(dtype: DType, block: &[u8], out: &mut [f32]) {
    assert_eq!((out.len(), block.len()), dtype.block(), "one block of {dtype}");
    match dtype {
        DType::Q4_0 => nibbles(&block[2..], out, |q, _| half_at(block, 0) * (q - 8.0)),
        DType::Q4_1 => nibbles(&block[4..], out, |q, _| half_at(block, 0) * q + half_at(block, 2)),
        DType::Q5_0 => nibbles(&block[6..], out, |q, j| half_at(block, 0) * (q + fifth(&block[2..], j) - 16.0)),
        DType::Q5_1 => {
            nibbles(&block[8..], out, |q, j| half_at(block, 0) * (q + fifth(&block[4..], j)) + half_at(block, 2));
        }
        DType::Q8_0 => {
            let d = half_at(block, 0);
            out.iter_mut().zip(&block[2..]).for_each(|(out, &q)| *out = d * f32::from(q as i8));
        }
        DType::Q4K => scaled(block, &block[16..], out, |_, _| 0.0),
        DType::Q5K => {
            scaled(block, &block[48..], out, |part, j| if block[16 + j] >> part & 1 == 1 { 16.0 } else { 0.0 })
        }
        DType::Q6K => six_bits(block, out),
        other => unreachable!("{other} has no blocks"),
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The value of the fifth bit of element j; `bits` has that of element 0 first.
fn fifth(bits: &[u8], j: usize) -> f32 {
    if bits[j / 8] >> (j % 8) & 1 == 1 { 16.0 } else { 0.0 }
}

/// 32 integers of 4 bits; `value` maps an integer and its index to a value.
fn nibbles(bytes: &[u8], out: &mut [f32], value: impl Fn(f32, usize) -> f32) {
    for (j, &byte) in bytes.iter().enumerate() {
        out[j] = value(f32::from(byte & 15), j);
        out[j + 16] = value(f32::from(byte >> 4), j + 16);
    }
}

/// Q4_K and Q5_K: `upper` is what the fifth bit of element j of a part of 32 adds.
fn scaled(block: &[u8], bytes: &[u8], out: &mut [f32], upper: impl Fn(usize, usize) -> f32) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (part, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = six_bit_pair(&block[4..16], part);
        let (scale, minimum) = (d * scale, dmin * minimum);
        for (j, out) in out.iter_mut().enumerate() {
            let byte = bytes[part / 2 * 32 + j];
            let q = f32::from(if part % 2 == 0 { byte & 15 } else { byte >> 4 });
            *out = scale * (q + upper(part, j)) - minimum;
        }
    }
}

/// The scale and the minimum of part `part` of 8. Those of the first four have six bits of a byte; the upper two bits of these bytes
/// are the upper bits of the others.
fn six_bit_pair(packed: &[u8], part: usize) -> (f32, f32) {
    let (scale, minimum) = match part {
        0..4 => (packed[part] & 63, packed[part + 4] & 63),
        _ => {
            let low = packed[part + 4];
            (low & 15 | packed[part - 4] >> 6 << 4, low >> 4 | packed[part] >> 6 << 4)
        }
    };
    (f32::from(scale), f32::from(minimum))
}

fn six_bits(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (at, out) in out.iter_mut().enumerate() {
        let (half, quarter, j) = (at / 128, at % 128 / 32, at % 32);
        let byte = low[half * 64 + quarter % 2 * 32 + j];
        let nibble = if quarter < 2 { byte & 15 } else { byte >> 4 };
        let upper = high[half * 32 + j] >> (2 * quarter) & 3;
        let q = f32::from(nibble | upper << 4) - 32.0;
        *out = d * f32::from(scales[at / 16] as i8) * q;
    }
}
