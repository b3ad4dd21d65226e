//! Rounds rows to GGUF's blocks, in a simple way, and says in f64 what the blocks hold: by the formulas, from the integers and scales that
//! were chosen, not from the bytes.

use half::f16;

/// A type of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Type {
    pub const ALL: [Type; 11] = [
        Type::F32,
        Type::F16,
        Type::Bf16,
        Type::Q4_0,
        Type::Q4_1,
        Type::Q5_0,
        Type::Q5_1,
        Type::Q8_0,
        Type::Q4K,
        Type::Q5K,
        Type::Q6K,
    ];

    /// The number in a file.
    pub fn number(self) -> u32 {
        match self {
            Type::F32 => 0,
            Type::F16 => 1,
            Type::Q4_0 => 2,
            Type::Q4_1 => 3,
            Type::Q5_0 => 6,
            Type::Q5_1 => 7,
            Type::Q8_0 => 8,
            Type::Q4K => 12,
            Type::Q5K => 13,
            Type::Q6K => 14,
            Type::Bf16 => 30,
        }
    }

    fn elements(self) -> usize {
        match self {
            Type::Q4K | Type::Q5K | Type::Q6K => 256,
            _ => 32,
        }
    }

    pub fn is_blocks(self) -> bool {
        !matches!(self, Type::F32 | Type::F16 | Type::Bf16)
    }
}

/// Blocks of the values, and the values that they hold.
pub fn encode(of: Type, values: &[f32]) -> (Vec<u8>, Vec<f64>) {
    let (mut bytes, mut held) = (Vec::new(), Vec::new());
    for block in values.chunks(of.elements()) {
        assert_eq!(block.len(), of.elements());
        match of {
            Type::Q4_0 => symmetric(block, 8, &mut bytes, &mut held),
            Type::Q5_0 => symmetric(block, 16, &mut bytes, &mut held),
            Type::Q8_0 => symmetric(block, 128, &mut bytes, &mut held),
            Type::Q4_1 => shifted(block, 15, &mut bytes, &mut held),
            Type::Q5_1 => shifted(block, 31, &mut bytes, &mut held),
            Type::Q4K => with_minima(block, 15, &mut bytes, &mut held),
            Type::Q5K => with_minima(block, 31, &mut bytes, &mut held),
            Type::Q6K => signed_scales(block, &mut bytes, &mut held),
            Type::F32 | Type::F16 | Type::Bf16 => panic!("{of:?} has no blocks"),
        }
    }
    (bytes, held)
}

fn half(value: f32) -> (f64, [u8; 2]) {
    let value = f16::from_f32(value);
    (value.to_f64(), value.to_le_bytes())
}

fn rounded(value: f64, most: f64) -> u32 {
    value.round().clamp(0.0, most) as u32
}

/// Halves of 16 bytes: element j and j + 16.
fn pack_halves(q: &[u32], bytes: &mut Vec<u8>) {
    bytes.extend((0..16).map(|j| (q[j] & 15) as u8 | ((q[j + 16] & 15) << 4) as u8));
}

/// The fifth bits of 32 integers.
fn pack_fifths(q: &[u32], bytes: &mut Vec<u8>) {
    let bits = q.iter().enumerate().fold(0u32, |bits, (j, q)| bits | (q >> 4 & 1) << j);
    bytes.extend(bits.to_le_bytes());
}

/// d · (q − middle).
fn symmetric(block: &[f32], middle: u32, bytes: &mut Vec<u8>, held: &mut Vec<f64>) {
    let largest = block.iter().fold(0f32, |most, &x| if x.abs() > most.abs() { x } else { most });
    let (d, d_bytes) = half(largest / -(middle as f32));
    let quantized = |&x: &f32| {
        if d == 0.0 { middle } else { rounded(f64::from(x) / d + f64::from(middle), f64::from(2 * middle - 1)) }
    };
    let q: Vec<u32> = block.iter().map(quantized).collect();
    bytes.extend(d_bytes);
    match middle {
        8 => pack_halves(&q, bytes),
        16 => {
            pack_fifths(&q, bytes);
            pack_halves(&q, bytes);
        }
        _ => bytes.extend(q.iter().map(|&q| (q as i32 - 128) as i8 as u8)),
    }
    held.extend(q.iter().map(|&q| d * (f64::from(q) - f64::from(middle))));
}

/// d · q + m.
fn shifted(block: &[f32], most: u32, bytes: &mut Vec<u8>, held: &mut Vec<f64>) {
    let (low, high) = block.iter().fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    let ((d, d_bytes), (m, m_bytes)) = (half((high - low) / most as f32), half(low));
    let q: Vec<u32> = block.iter().map(|&x| rounded((f64::from(x) - m) / d.max(1e-9), f64::from(most))).collect();
    bytes.extend(d_bytes);
    bytes.extend(m_bytes);
    if most > 15 {
        pack_fifths(&q, bytes);
    }
    pack_halves(&q, bytes);
    held.extend(q.iter().map(|&q| d * f64::from(q) + m));
}

/// d · scale · q − dmin · minimum, with a scale and a minimum of six bits for each 32.
fn with_minima(block: &[f32], most: u32, bytes: &mut Vec<u8>, held: &mut Vec<f64>) {
    let ranges: Vec<(f32, f32)> = block
        .chunks(32)
        .map(|part| (part.iter().fold(0f32, |low, &x| low.min(x)), part.iter().fold(0f32, |high, &x| high.max(x))))
        .collect();
    let widest = ranges.iter().fold(0f32, |most, (low, high)| most.max(high - low));
    let lowest = ranges.iter().fold(0f32, |most, (low, _)| most.max(-low));
    let ((d, d_bytes), (dmin, dmin_bytes)) = (half(widest / most as f32 / 63.0), half(lowest / 63.0));
    let six = |value: f64, unit: f64| if unit == 0.0 { 0 } else { rounded(value / unit, 63.0) };
    let scales: Vec<u32> = ranges.iter().map(|(low, high)| six(f64::from(high - low) / f64::from(most), d)).collect();
    let minima: Vec<u32> = ranges.iter().map(|(low, _)| six(f64::from(-low), dmin)).collect();
    let mut q = Vec::new();
    for (part, values) in block.chunks(32).enumerate() {
        let (scale, minimum) = (d * f64::from(scales[part]), dmin * f64::from(minima[part]));
        for &x in values {
            let integer = if scale == 0.0 { 0 } else { rounded((f64::from(x) + minimum) / scale, f64::from(most)) };
            q.push(integer);
            held.push(scale * f64::from(integer) - minimum);
        }
    }
    bytes.extend(d_bytes);
    bytes.extend(dmin_bytes);
    // Bytes 0–3 and 4–7: six bits of the first four scales and minima, and the upper two bits of the last four. 8–11: the lower four.
    bytes.extend((0..4).map(|j| (scales[j] | (scales[j + 4] >> 4) << 6) as u8));
    bytes.extend((0..4).map(|j| (minima[j] | (minima[j + 4] >> 4) << 6) as u8));
    bytes.extend((0..4).map(|j| (scales[j + 4] & 15 | (minima[j + 4] & 15) << 4) as u8));
    if most > 15 {
        bytes.extend((0..32).map(|j| (0..8).fold(0, |byte, part| byte | ((q[32 * part + j] >> 4 & 1) << part) as u8)));
    }
    for pair in q.chunks(64) {
        bytes.extend((0..32).map(|j| (pair[j] & 15 | (pair[j + 32] & 15) << 4) as u8));
    }
}

/// d · scale · (q − 32), with a signed scale for each 16.
fn signed_scales(block: &[f32], bytes: &mut Vec<u8>, held: &mut Vec<f64>) {
    let largest = |part: &[f32]| part.iter().fold(0f32, |most, &x| if x.abs() > most.abs() { x } else { most }) / -32.0;
    let scales: Vec<f32> = block.chunks(16).map(largest).collect();
    let most = scales.iter().fold(0f32, |most, &scale| if scale.abs() > most.abs() { scale } else { most });
    let (d, d_bytes) = half(most / -128.0);
    let quantized = |&scale: &f32| if d == 0.0 { 0.0 } else { (f64::from(scale) / d).round().clamp(-128.0, 127.0) };
    let scales: Vec<f64> = scales.iter().map(quantized).collect();
    let mut q = Vec::new();
    for (part, values) in block.chunks(16).enumerate() {
        let scale = d * scales[part];
        for &x in values {
            let integer = if scale == 0.0 { 32 } else { rounded(f64::from(x) / scale + 32.0, 63.0) };
            q.push(integer);
            held.push(scale * (f64::from(integer) - 32.0));
        }
    }
    for half in q.chunks(128) {
        bytes.extend((0..64).map(|j| (half[j] & 15 | (half[j + 64] & 15) << 4) as u8));
    }
    for half in q.chunks(128) {
        bytes.extend(
            (0..32).map(|j| (0..4).fold(0, |byte, part| byte | ((half[32 * part + j] >> 4) << (2 * part)) as u8)),
        );
    }
    bytes.extend(scales.iter().map(|&scale| scale as i8 as u8));
    bytes.extend(d_bytes);
}
