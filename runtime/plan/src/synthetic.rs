//! Synthetic weights: every value is a function of the seed, the parameter's name and the element's logical place, so
//! that any device draws the same bits in any order, whole or in parts.
//!
//! A draw is one 64-bit number: SplitMix64's mix (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
//! Generators", 2014) of a key and a counter. From there on only operations that IEEE 754 rounds exactly are used: a
//! conversion of an integer below 2²⁴ to f32 (exact), one f32 product and one f32 sum, never fused.

use crate::format::{ElementOrder, Init, Layout, Transform, Weight, WeightFormat};
use crate::quantize;

mod drawn;

pub use drawn::{DrawnRows, STORE_BYTES};

/// Normal draws add four integers of 16 bits (Irwin–Hall): the sum's mean is this, twice 65535.
pub const SUM_MEAN: i32 = 2 * 65_535;

/// One over the standard deviation of that sum, √(4 · (65536² − 1) / 12) = 37837.2.
/// Draws have mean 0 and variance 1, reach 3.46 and have an excess kurtosis of −0.3.
const SUM_SCALE: f32 = 2.642_899_7e-5;

/// What the counter of a draw grows by with each element: 2⁶⁴ over the golden ratio, odd.
pub const INDEX_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Shifts of SplitMix64's finalizer.
pub const MIX_SHIFTS: [u32; 3] = [30, 27, 31];

/// Factors of SplitMix64's finalizer.
pub const MIX_FACTORS: [u64; 2] = [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];

/// 64 bits that depend on every bit of `x`; SplitMix64's finalizer.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> MIX_SHIFTS[0])).wrapping_mul(MIX_FACTORS[0]);
    let x = (x ^ (x >> MIX_SHIFTS[1])).wrapping_mul(MIX_FACTORS[1]);
    x ^ (x >> MIX_SHIFTS[2])
}

/// Hash of a parameter's name: 64-bit FNV-1a.
pub fn parameter_hash(parameter: &str) -> u64 {
    parameter.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The draws of one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    key: u64,
    offset: f32,
    scale: f32,
    normal: bool,
}

impl Draw {
    /// Draws from `init` for the parameter whose name hashes to `parameter_hash`.
    pub fn new(seed: u64, parameter_hash: u64, init: Init) -> Draw {
        let key = mix(seed ^ mix(parameter_hash));
        match init {
            Init::Normal { mean, std } => Draw { key, offset: mean, scale: std * SUM_SCALE, normal: true },
            Init::Uniform { low, high } => {
                Draw { key, offset: low, scale: (high - low) * f32::EPSILON / 2.0, normal: false }
            }
        }
    }

    /// Draws that are all the same.
    fn constant(value: f32) -> Draw {
        Draw { key: 0, offset: value, scale: 0.0, normal: false }
    }

    /// The value of element `index`, counted in the logical order \[groups, n, k\].
    pub fn value(&self, index: u64) -> f32 {
        let bits = mix(self.key.wrapping_add(index.wrapping_mul(INDEX_FACTOR)));
        let integer = if self.normal {
            let part = |shift: u32| ((bits >> shift) & 0xffff) as i32;
            part(0) + part(16) + part(32) + part(48) - SUM_MEAN
        } else {
            (bits >> 40) as i32 // 24 bits; the scale carries 2⁻²⁴
        };
        let scaled = integer as f32 * self.scale;
        scaled + self.offset
    }
}

/// The value of one element: [`Draw::value`] for a single draw.
pub fn value(seed: u64, parameter_hash: u64, index: u64, init: Init) -> f32 {
    Draw::new(seed, parameter_hash, init).value(index)
}

/// Fills a whole packed weight; `out` has [`Weight::bytes`] bytes. Padding lanes become zero.
pub fn fill(weight: &Weight, seed: u64, out: &mut [u8]) {
    fill_panels(weight, seed, 0, out);
}

/// Fills the part of a packed weight that begins at panel `first`, counted over all groups; `out` holds whole panels
/// ([`Layout::panel_bytes`]): they can be drawn by different threads.
pub fn fill_panels(weight: &Weight, seed: u64, first: u64, out: &mut [u8]) {
    let panels = weight.layout.panels();
    for (panel, out) in (first..).zip(out.chunks_exact_mut(weight.layout.panel_bytes(weight.format))) {
        let (part, first_row) = weight.panel(panel % panels);
        let rows = Rows {
            draw: Draw::new(seed, parameter_hash(&part.parameter), part.init),
            first: panel / panels * part.rows + part.first_row + first_row,
            left: part.rows.saturating_sub(first_row),
        };
        let layout = weight.layout;
        match (weight.transform, weight.format) {
            (Transform::Scale(of), format) => {
                let scale = scale(of, part.init);
                fill_each(&rows, layout, out, format, |_| scale);
            }
            (_, WeightFormat::Int8 | WeightFormat::Int4) => {
                fill_integers(&rows, layout, weight.format, scale(weight.format, part.init), out);
            }
            (_, format) => fill_each(&rows, layout, out, format, |index| rows.draw.value(index)),
        }
    }
}

/// The scale of all synthetic integers of a parameter: a function of its distribution alone, so that a value's integer
/// depends on no other value. The integers are the same draws as floats have, rounded to multiples of the scale; those
/// of int4 beyond 7 (0.1 % of a normal distribution) become 7.
pub fn scale(format: WeightFormat, init: Init) -> f32 {
    let most = match init {
        Init::Normal { mean, std } => mean.abs() + std * (SUM_MEAN as f32 * SUM_SCALE),
        Init::Uniform { low, high } => low.abs().max(high.abs()),
    };
    match format {
        WeightFormat::Int4 => quantize::int4_scale(&[-most]),
        _ => quantize::int8_scale(&[most]),
    }
}

/// The rows of one panel.
struct Rows {
    draw: Draw,
    /// The first, among the parameter's rows of all experts.
    first: u64,
    /// How many there are from it on; more lanes than that are padding.
    left: u64,
}

/// One panel of floats.
fn fill_each(rows: &Rows, layout: Layout, out: &mut [u8], format: WeightFormat, value: impl Fn(u64) -> f32) {
    match format {
        WeightFormat::Bf16 => fill_panel(rows, layout, out, value, |x| half::bf16::from_f32(x).to_le_bytes()),
        WeightFormat::F16 => fill_panel(rows, layout, out, value, |x| half::f16::from_f32(x).to_le_bytes()),
        _ => fill_panel(rows, layout, out, value, f32::to_le_bytes),
    }
}

fn fill_panel<const BYTES: usize>(
    rows: &Rows,
    layout: Layout,
    out: &mut [u8],
    value: impl Fn(u64) -> f32,
    encode: impl Fn(f32) -> [u8; BYTES],
) {
    let Layout { k, lanes, .. } = layout;
    let (elements, _) = out.as_chunks_mut::<BYTES>();
    match layout.order {
        ElementOrder::Panels => {
            for (j, column) in (0..k).zip(elements.chunks_exact_mut(lanes as usize)) {
                for (lane, element) in (0..).zip(column) {
                    *element = encode(if lane < rows.left { value((rows.first + lane) * k + j) } else { 0.0 });
                }
            }
        }
        ElementOrder::Rows { stride, .. } => {
            for (lane, row) in (0..).zip(elements.chunks_exact_mut(stride as usize)) {
                for (j, element) in (0..).zip(row) {
                    let is_inside = lane < rows.left && j < k;
                    *element = encode(if is_inside { value((rows.first + lane) * k + j) } else { 0.0 });
                }
            }
        }
    }
}

/// One panel of integers.
fn fill_integers(rows: &Rows, layout: Layout, format: WeightFormat, scale: f32, out: &mut [u8]) {
    out.fill(0);
    let mut q = vec![0; layout.k as usize];
    for lane in 0..layout.lanes.min(rows.left) {
        for (j, q) in (0..).zip(&mut q) {
            let value = rows.draw.value((rows.first + lane) * layout.k + j);
            *q = if format == WeightFormat::Int4 { quantize::int4(value, scale) } else { quantize::int8(value, scale) };
        }
        quantize::place_in(&layout, format, &q, lane as usize, out);
    }
}

/// How a synthetic plan draws a parameter, by its canonical name and its shape in the checkpoint: scales of a trained
/// model, so that norms, biases, decay rates and routers all matter and activations neither vanish nor explode.
pub fn init_for(parameter: &str, shape: &[u64]) -> (Transform, Init) {
    let inputs = shape.last().copied().unwrap_or(1).max(1) as f32;
    let normal = |std: f32| Init::Normal { mean: 0.0, std };
    let uniform = |low: f32, high: f32| Init::Uniform { low, high };
    let init = match parameter {
        name if name.ends_with("layernorm.weight") => uniform(0.5, 1.5),
        name if name.ends_with("conv1d.weight") || name.ends_with("conv1d.bias") => uniform(-0.5, 0.5),
        name if name.ends_with("A_log") => {
            // A = −(0.5 … 16), in units of log₂ e as the transform leaves it
            const LOG2_E: f32 = std::f32::consts::LOG2_E;
            return (Transform::DecayRate, uniform(-16.0 * LOG2_E, -0.5 * LOG2_E));
        }
        name if name.ends_with("mamba.D") => Init::Normal { mean: 1.0, std: 0.3 },
        name if name.ends_with("dt_proj.bias") => uniform(-6.9, -2.25), // softplus: 0.001 … 0.1
        name if name.ends_with(".bias") => uniform(-0.1, 0.1),
        name if name.ends_with("router.weight") => normal(2.0 / inputs.sqrt()),
        name if name.ends_with("embed_tokens.weight") => normal(1.0),
        _ => normal(1.0 / inputs.sqrt()),
    };
    (Transform::None, init)
}

#[cfg(test)]
mod tests;
